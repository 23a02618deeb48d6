"""Whether a float32 product may use TF32."""

import contextlib

import torch
from torch import Tensor


def tf32_allowed() -> bool:
    """Tell whether torch's own setting lets float32 products use TF32."""
    return torch.get_float32_matmul_precision() != "highest"


# What torch.compiler.assume_constant_result does, without importing the compiler for it: a traced graph keeps the
# setting of the moment of tracing.
tf32_allowed._dynamo_marked_constant = True


def float32_product(tensor: Tensor, allow_tf32: bool) -> contextlib.AbstractContextManager:
    """Run float32 products with or without TF32, and put torch's setting back afterwards.

    Only CUDA knows TF32; elsewhere nothing is touched, which also keeps the context out of traced CPU graphs.
    """
    if not tensor.is_cuda or tf32_allowed() == allow_tf32:
        return contextlib.nullcontext()
    return _matmul_precision("high" if allow_tf32 else "highest")


def is_autocast_on(tensor: Tensor) -> bool:
    """Tell whether automatic mixed precision is on where this tensor lies."""
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Keep automatic mixed precision from rounding the products inside; the dtypes that came in decide."""
    if not is_autocast_on(tensor):
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


@contextlib.contextmanager
def _matmul_precision(precision: str):  # noqa: ANN202  a generator context manager
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
