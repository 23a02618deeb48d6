"""Finds and loads the compiled libraries, and puts the operators together; runs once, on import of the package.

Nothing here raises when a library is missing, renamed, broken or built for another CUDA: the operators then run in the
next tier (Triton on CUDA, else eager), and ``python -m mmseg_plugins.ops.info`` tells the reason kept here.
"""

import functools
import importlib
import importlib.util
import logging
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from mmseg_plugins.ops import _argmax_eager, _bits, _eager, _eager_segments
from mmseg_plugins.ops._autograd import register_autograd_rules
from mmseg_plugins.ops._fake import register_fake_kernels
from mmseg_plugins.ops._schema import EAGER_SUFFIX, LIBRARY, NAMESPACE, OP_NAMES, define_ops
from mmseg_plugins.ops._vmap import register_vmap_rules

logger = logging.getLogger(__name__)

TIER_VARIABLE = "MMSEG_PLUGINS_OPS"
FOLDER_VARIABLE = "MMSEG_PLUGINS_OPS_DIR"
TIER_CHOICES = ("eager", "triton", "compiled")
# Operators that the Triton tier has, and where; the others are eager there.
TRITON_OPS = {
    "mask_pool_fwd": "_triton",
    "mask_pool_bwd_features": "_triton",
    "mask_pool_bwd_masks": "_triton",
    "upsample_argmax": "_triton_label_map",
}
BUILD_COMMAND = "python -m mmseg_plugins.ops.build"

# The libraries use PyTorch's stable ABI as of this version.
_OLDEST_TORCH = (2, 10)


@dataclass(frozen=True)
class LibraryStatus:
    """What became of one compiled library.

    Attributes:
        kind: "cpu" or "cuda".
        path: the file that was loaded or tried last; None if there is none.
        loaded: whether its kernels are registered.
        reason: why it is not loaded, or which file is.
    """

    kind: str
    path: Path | None
    loaded: bool
    reason: str


def requested_tier() -> str | None:
    """Return the tier named by ``MMSEG_PLUGINS_OPS``, or None; an unknown name is reported and ignored."""
    name = os.environ.get(TIER_VARIABLE, "").strip().lower()
    if not name:
        return None
    if name not in TIER_CHOICES:
        logger.warning(
            "%s=%r is not a tier; expected one of %s. Ignored.", TIER_VARIABLE, name, ", ".join(TIER_CHOICES)
        )
        return None
    return name


def library_folder() -> Path:
    """Return where the libraries are looked for: ``MMSEG_PLUGINS_OPS_DIR``, else beside this file."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).parent)


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(re.match(r"\d+", minor).group())


def _cuda_mismatch(path: Path) -> str | None:
    """Say why a CUDA library does not fit this torch: the CUDA runtime it links is named in the file."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    linked = set(re.findall(rb"libcudart\.so\.(\d+)", path.read_bytes()))
    ours = torch.version.cuda.partition(".")[0].encode()
    if linked and ours not in linked:
        theirs = b", ".join(sorted(linked)).decode()
        return (
            f"built for CUDA {theirs}, but this torch has CUDA {torch.version.cuda}; "
            f"rebuild it with: {BUILD_COMMAND} --cuda"
        )
    return None


def _truncation(path: Path) -> str | None:
    """Say whether a file ends before its segments do: the loader would map it and die of a bus error, uncatchably."""
    content = path.read_bytes()
    if len(content) < 64 or content[:6] != b"\x7fELF\x02\x01":
        return None  # not a 64-bit little-endian library: the loader refuses it, or it is none of this machine's
    program_offset, section_offset = struct.unpack_from("<QQ", content, 32)
    program_size, programs, section_size, sections = struct.unpack_from("<HHHH", content, 54)
    ends = [program_offset + program_size * programs, section_offset + section_size * sections]
    if ends[0] <= len(content):
        for i in range(programs):
            offset, length = struct.unpack_from("<Q16xQ", content, program_offset + i * program_size + 8)
            ends.append(offset + length)
    if max(ends) > len(content):
        return f"the file is cut off: {len(content)} of at least {max(ends)} bytes"
    return None


def _has_kernels(kind: str) -> bool:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return any(has_kernel(f"{NAMESPACE}::{name}", kind.upper()) for name in OP_NAMES)


def _try_library(kind: str, path: Path) -> str | None:
    """Load one file; return the reason if it cannot be used."""
    try:
        reason = _truncation(path)
        if reason is None and kind == "cuda":
            reason = _cuda_mismatch(path)
        if reason is None:
            torch.ops.load_library(str(path))
            if not _has_kernels(kind):
                reason = f"it holds no {kind} kernel of this package; rebuild it with: {BUILD_COMMAND} --{kind}"
    except Exception as error:  # a library can fail in any way, and none may stop the import
        # What the loader itself said is the cause of torch's error.
        reason = f"{type(error).__name__}: {error}" + (f" ({error.__cause__})" if error.__cause__ else "")
    return reason


def _age(path: Path) -> float:
    """Return the time of the last change, 0 for a link that leads nowhere."""
    return path.stat().st_mtime if path.exists() else 0.0


def load_library(kind: str) -> LibraryStatus:
    """Load the newest usable library of a kind ("cpu" or "cuda")."""
    oldest = ".".join(map(str, _OLDEST_TORCH))
    if requested_tier() in ("eager", "triton"):
        return LibraryStatus(kind, None, False, f"{TIER_VARIABLE}={requested_tier()} asks for another tier")
    if _torch_version() < _OLDEST_TORCH:
        return LibraryStatus(kind, None, False, f"needs torch >= {oldest}, this is {torch.__version__}")
    folder = library_folder()
    found = sorted(folder.glob(f"_C_{kind}*.so"), key=_age, reverse=True)
    if not found:
        reason = f"no _C_{kind}*.so in {folder}; build it with: {BUILD_COMMAND} --{kind}"
        return LibraryStatus(kind, None, False, reason)
    reasons = []
    for path in found:
        reason = _try_library(kind, path)
        if reason is None:
            return LibraryStatus(kind, path, True, f"loaded from {path}")
        reasons.append(f"{path.name}: {reason}")
    return LibraryStatus(kind, found[0], False, "; ".join(reasons))


def _eager_functions() -> dict[str, Callable]:
    functions = {}
    for module in (_eager, _eager_segments, _bits, _argmax_eager):
        functions |= {name: getattr(module, name) for name in OP_NAMES if hasattr(module, name)}
    return functions


# Every operator in plain PyTorch, under its own name.
EAGER = SimpleNamespace(**_eager_functions())


def _register_eager() -> None:
    for name, function in vars(EAGER).items():
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        LIBRARY.impl(name + EAGER_SUFFIX, function, "CompositeExplicitAutograd")


def triton_reason() -> str | None:
    """Say why the Triton tier cannot run here; None if it can (on CUDA, or in Triton's interpreter on the CPU)."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return "no CUDA device, and TRITON_INTERPRET is not 1"


@functools.cache
def triton_tier() -> SimpleNamespace:
    """Return every operator in the Triton tier; those it does not cover are eager.

    Raises:
        RuntimeError: if Triton cannot run here, with the reason.
    """
    reason = triton_reason()
    if reason is not None:
        raise RuntimeError(f"The Triton ops cannot run: {reason}.")
    functions = vars(EAGER).copy()
    for name, module in TRITON_OPS.items():
        functions[name] = getattr(importlib.import_module(f"mmseg_plugins.ops.{module}"), name)
    return SimpleNamespace(**functions)


def _run_in_triton(name: str) -> Callable:
    def run(*inputs: Any) -> Any:
        tier = EAGER if triton_reason() else triton_tier()
        return getattr(tier, name)(*inputs)

    return run


def triton_runs(name: str) -> bool:
    """Tell whether an operator runs in Triton on CUDA."""
    return name in TRITON_OPS and triton_serves_cuda() and triton_reason() is None


def triton_serves_cuda() -> bool:
    """Tell whether the Triton tier stands in for the compiled CUDA library."""
    return not STATUS["cuda"].loaded and requested_tier() in (None, "triton") and torch.version.cuda is not None


_AUTOCAST_KEYS = ("AutocastCPU", "AutocastCUDA")


def _run_without_autocast(name: str) -> Callable:
    """Return a kernel that runs the operator with mixed precision off: it would round the products inside."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    keys = keys | torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default

    def run(*inputs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operator(*inputs)

    return run


def _register_autocast() -> None:
    for name in OP_NAMES:
        for key in _AUTOCAST_KEYS:
            LIBRARY.impl(name, _run_without_autocast(name), key)


define_ops()
_register_eager()
_register_autocast()
register_fake_kernels()
register_autograd_rules()
register_vmap_rules()

STATUS = {kind: load_library(kind) for kind in ("cpu", "cuda")}
# Read once: tracing cannot look into the environment, and the choice was made above in any case.
DEMANDS_COMPILED = requested_tier() == "compiled"

if triton_serves_cuda():
    # Triton itself is imported by the first call.
    for _name in TRITON_OPS:
        LIBRARY.impl(_name, _run_in_triton(_name), "CUDA")
