"""The CUDA operators, host code and kernels, built as C++ and run by the emulator on the CPU.

What this cannot show: whether the hardware's instructions do what their manual says, and how fast anything is.
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

SOURCES = Path(__file__).parents[2] / "mmseg_plugins" / "ops" / "csrc" / "cuda"
EMULATION = Path(__file__).parent / "emulation"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]


def build(folder, *flags):
    """Build all CUDA sources as C++ and return the library."""
    torch_folder = Path(torch.__file__).parent
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", *flags]
    command += ["-Wno-unknown-pragmas", "-DMMSEG_PLUGINS_EMULATION", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    command += [f"-I{SOURCES}", f"-I{EMULATION}", "-isystem", str(torch_folder / "include"), "-x", "c++", "-c"]

    def compile_one(source):
        target = folder / f"{source.stem}.o"
        subprocess.run([*command, str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, [*sorted(SOURCES.glob("*.cu")), EMULATION / "control.cpp"]))
    library = folder / "emulated.so"
    link = ["g++", "-shared", *flags, *objects, f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run([*link, "-o", str(library)], check=True)
    return library


def run_checks(library, *selection, **environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EMULATION / "checks.py"), *selection]
    settings = {"MMSEG_PLUGINS_OPS": "eager", "MMSEG_PLUGINS_EMULATED": str(library), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=os.environ | settings | environment, capture_output=True, text=True, cwd=EMULATION.parents[2]
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(os.environ.get("MMSEG_PLUGINS_EMULATE") != "1", reason="takes minutes; set MMSEG_PLUGINS_EMULATE=1")
def test_emulated_operators_pass_every_check(tmp_path):
    assert " passed" in run_checks(build(tmp_path))


@pytest.mark.skipif(
    os.environ.get("MMSEG_PLUGINS_SANITIZE") != "1", reason="takes ten minutes and more; set MMSEG_PLUGINS_SANITIZE=1"
)
def test_kernels_stay_inside_their_memory(tmp_path):
    """The address sanitizer sees every read and write of tensors, workspace and shared memory."""
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(runtime).is_file():
        pytest.skip("needs g++'s address sanitizer")
    library = build(tmp_path, "-fsanitize=address", "-fno-omit-frame-pointer")
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    run_checks(library, "-k", "not half and not order and not tf32", LD_PRELOAD=runtime, ASAN_OPTIONS=options)
