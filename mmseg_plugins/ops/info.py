"""Tell which tier runs each operator here, and why: ``python -m mmseg_plugins.ops.info``."""

import sys

import torch

from mmseg_plugins.ops import _load
from mmseg_plugins.ops._schema import OP_NAMES


def tier_of(name: str, device: str) -> str:
    """Return the tier that runs an operator on a device: "compiled", "triton" or "eager".

    Args:
        name: operator name, without its namespace.
        device: "cpu" or "cuda".
    """
    if _load.STATUS[device].loaded:
        return "compiled"
    return "triton" if device == "cuda" and _load.triton_runs(name) else "eager"


def describe() -> str:
    """Return the report as text."""
    lines = [
        f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, "
        f"{torch.cuda.device_count() if torch.cuda.is_available() else 'no'} visible device(s)",
        f"{_load.TIER_VARIABLE}={_load.requested_tier() or ''}  {_load.FOLDER_VARIABLE}={_load.library_folder()}",
        "",
    ]
    for kind, status in _load.STATUS.items():
        lines.append(f"compiled {kind:<5} {'loaded' if status.loaded else 'not loaded':<11} {status.reason}")
    reason = _load.triton_reason()
    lines.append(f"triton         {'ready' if reason is None else 'not ready':<11} {reason or ''}".rstrip())
    lines.append("eager          ready")
    lines += ["", f"{'operator':<24} {'cpu':<10} cuda"]
    lines += [f"{name:<24} {tier_of(name, 'cpu'):<10} {tier_of(name, 'cuda')}" for name in OP_NAMES]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(describe() + "\n")
