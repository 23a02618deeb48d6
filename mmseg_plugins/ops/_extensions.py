"""What the compiled libraries are made of, and a build command for which each of them is optional.

Used by ``setup.py`` and ``python -m mmseg_plugins.ops.build``. Importing this file needs the standard library only:
``setup.py`` reads it by path, often where torch is not installed.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

BUILD_VARIABLE = "MMSEG_PLUGINS_BUILD_OPS"
KINDS = ("cpu", "cuda")

# PyTorch's stable ABI as of 2.10: one binary serves every later torch.
OLDEST_TORCH = (2, 10)
_TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# Contraction is off because label maps must round as torch does; fused operations are written out where they are meant.
_CXX = ["-O3", "-std=c++17", "-ffp-contract=off", "-fvisibility=hidden", "-g0", "-Wall", _TARGET]
_NVCC = ["-O3", "-std=c++17", "-DUSE_CUDA", _TARGET, "-Xcompiler", "-fvisibility=hidden,-Wall"]
# Of a build without a visible GPU and without TORCH_CUDA_ARCH_LIST.
_ARCH_LIST = "8.0;9.0+PTX"

CSRC = Path(__file__).resolve().parent / "csrc"


def sources(kind: str) -> list[Path]:
    """Return the source files of the library of a kind, "cpu" or "cuda"."""
    return sorted((CSRC / kind).glob("*.cpp" if kind == "cpu" else "*.cu"))


def find_cuda_home() -> Path | None:
    """Return the folder of the CUDA toolkit: ``CUDA_HOME``, else the one that the nvcc on the path belongs to."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return Path(named)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    # The nvcc on the path may be a script or a link; its dry run tells where it lives.
    dry_run = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr + dry_run.stdout, re.MULTILINE)
    return Path(top.group(1).strip()).resolve() if top else Path(nvcc).resolve().parent.parent


def why_not(kind: str) -> str | None:
    """Say why a library cannot be built here; None if nothing speaks against it."""
    try:
        import torch
    except Exception as error:  # a broken torch must not break the installation either
        return f"torch cannot be imported ({type(error).__name__}); to build, install with --no-build-isolation"
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        return f"needs torch >= {'.'.join(map(str, OLDEST_TORCH))}, this is {torch.__version__}"
    if sys.platform != "linux":
        return f"builds on Linux only, this is {sys.platform}"
    if shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
        return "no C++ compiler was found (install one, or set CXX)"
    if kind == "cuda" and torch.version.cuda is None:
        return "this torch is built without CUDA"
    if kind == "cuda" and find_cuda_home() is None:
        return "no nvcc was found (put it on the path, or set CUDA_HOME)"
    return None


def make_extension(kind: str, name: str, relative_to: Path | None = None) -> Any:
    """Return the setuptools extension of a library.

    Args:
        kind: "cpu" or "cuda".
        name: module path of the result.
        relative_to: folder that source paths start from; setuptools wants them relative in ``setup.py``.
    """
    from torch.utils import cpp_extension

    files = [str(path.relative_to(relative_to) if relative_to else path) for path in sources(kind)]
    # The limited API keeps libtorch_python out; no Python symbol is used at all.
    if kind == "cpu":
        return cpp_extension.CppExtension(name, files, extra_compile_args={"cxx": _CXX}, py_limited_api=True)
    _use_toolkit(cpp_extension)
    return cpp_extension.CUDAExtension(
        name, files, extra_compile_args={"cxx": _CXX, "nvcc": _NVCC}, py_limited_api=True
    )


def _use_toolkit(cpp_extension: Any) -> None:
    import torch

    home = find_cuda_home()
    if home is not None:
        os.environ["CUDA_HOME"] = cpp_extension.CUDA_HOME = str(home)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = _ARCH_LIST


def make_build_command(is_strict: bool) -> type:
    """Return a ``build_ext`` command that attempts every library by itself.

    Args:
        is_strict: raise what goes wrong; otherwise report it and go on without that library.
    """
    from torch.utils.cpp_extension import BuildExtension

    class BuildEach(BuildExtension):
        def build_extensions(self) -> None:
            # Version checks and compilers raise all sorts of errors, which setuptools' own "optional" lets through.
            wanted, built = self.extensions, []
            for extension in wanted:
                self.extensions = [extension]
                try:
                    super().build_extensions()
                except (Exception, SystemExit) as error:
                    if is_strict:
                        raise
                    report(f"{extension.name} was not built: {error}")
                else:
                    built.append(extension)
            # Outputs, their mapping and the copies into the source tree all follow from this list.
            self.extensions = built

    # One file name on every Python version, because no Python symbol is used.
    return BuildEach.with_options(no_python_abi_suffix=True)


def report(message: str) -> None:
    """Tell the person who installs what is going on; pip shows it with -v."""
    sys.stderr.write(f"mmseg_plugins: {message}\n")


def setup_arguments(root: Path) -> dict[str, Any]:
    """Return what ``setup()`` needs to build the libraries that can be built here.

    ``MMSEG_PLUGINS_BUILD_OPS=0`` leaves them out, ``=1`` makes every failure fatal.

    Args:
        root: folder of ``setup.py``.

    Raises:
        RuntimeError: if a library must be built and cannot be.
    """
    choice = os.environ.get(BUILD_VARIABLE, "")
    if choice == "0":
        return {}
    kinds = []
    for kind in KINDS:
        reason = why_not(kind)
        # A CPU-only machine is no failure: only what could be there is demanded.
        if reason is not None and choice == "1" and kind == "cpu":
            raise RuntimeError(f"{BUILD_VARIABLE}=1, but the {kind} ops cannot be built: {reason}.")
        if reason is not None:
            report(f"the compiled {kind} ops are left out: {reason}.")
        else:
            kinds.append(kind)
    if not kinds:
        return {}
    return {
        "ext_modules": [make_extension(kind, f"mmseg_plugins.ops._C_{kind}", root) for kind in kinds],
        "cmdclass": {"build_ext": make_build_command(is_strict=choice == "1")},
    }
