"""The CUDA sources compile without a warning for the GPUs that are shipped for, and the result loads anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmseg_plugins.ops._extensions import find_cuda_home, sources, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not("cuda") is not None, reason=f"{why_not('cuda')}")]

# sm_80, sm_90, and PTX for what comes later.
TARGETS = ["compute_80,code=sm_80", "compute_90,code=sm_90", "compute_90,code=compute_90"]

LOAD = """
import sys, torch
from mmseg_plugins.ops import _load
torch.ops.load_library(sys.argv[1])
missing = [name for name in _load.OP_NAMES
           if not torch._C._dispatch_has_kernel_for_dispatch_key("mmseg_plugins::" + name, "CUDA")]
assert not missing, missing
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.mark.parametrize("source", sources("cuda"), ids=lambda path: path.stem)
def test_compiles_without_warnings(source, folder):
    nvcc = str(find_cuda_home() / "bin" / "nvcc")
    include = str(Path(torch.__file__).parent / "include")
    command = [
        nvcc,
        "-std=c++17",
        "-O3",
        "-DUSE_CUDA",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        "-isystem",
        include,
    ]
    command += [f"-gencode=arch={target}" for target in TARGETS]
    command += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra", "-Werror", "all-warnings"]
    command += ["-c", str(source), "-o", str(folder / f"{source.stem}.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "warning" not in done.stderr


def runtime_libraries():
    """Find the CUDA runtime that torch brings along; linking needs no driver."""
    name = f"libcudart.so.{torch.version.cuda.partition('.')[0]}"
    found = next((path for entry in sys.path for path in Path(entry).glob(f"nvidia/*/lib/{name}")), None)
    if found is None:
        pytest.skip(f"needs {name} of torch's own packages")
    return found


def test_the_library_loads_without_a_gpu_and_registers_every_operator(folder):
    objects = sorted(folder.glob("*.o"))
    if len(objects) != len(sources("cuda")):
        pytest.skip("needs all sources compiled by the tests above")
    torch_lib, runtime, library = Path(torch.__file__).parent / "lib", runtime_libraries(), folder / "_C_cuda_test.so"
    link = ["g++", "-shared", "-o", str(library), *map(str, objects), f"-L{torch_lib}", f"-L{runtime.parent}"]
    subprocess.run([*link, "-ltorch_cpu", "-ltorch_cuda", "-lc10", f"-l:{runtime.name}"], check=True)
    subprocess.run([sys.executable, "-c", LOAD, str(library)], check=True)
