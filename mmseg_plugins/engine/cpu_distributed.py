"""Several processes without GPUs: gloo and an unpinned data-parallel wrapper, which mmengine does not set up itself."""

import atexit
import os
import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's data-parallel wrapper for models on the CPU.

    Args:
        device_ids: what mmengine passes; a model on the CPU has none.
        **options: arguments of the wrapped class.
    """

    def __init__(self, *, device_ids: list[int] | None = None, **options: Any) -> None:
        super().__init__(device_ids=None, **options)


def prepare_cpu_distributed(config: Config) -> None:
    """Start the process group and set the model wrapper when torchrun started us on a machine without GPUs.

    Args:
        config: a config whose ``launcher`` is set; changed in place.
    """
    if config.launcher != "pytorch" or torch.cuda.is_available():
        return
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    if config.get("model_wrapper_cfg") is None:
        config.model_wrapper_cfg = {
            "type": "CPUDistributedDataParallel",
            "broadcast_buffers": False,
            "find_unused_parameters": config.get("find_unused_parameters", False),
        }


def leave_process_group() -> None:
    """End a tool that ran in several processes; without a process group nothing happens.

    On the CPU this ends the Python process, after its exit handlers. The data-parallel wrapper keeps gloo's threads
    alive beyond ``destroy_process_group``, and one that lets go of a tensor while the interpreter is being taken down
    aborts the process ("terminate called without an active exception"), which torchrun reports as a failed run.
    """
    if not torch.distributed.is_initialized():
        return
    is_gloo = torch.distributed.get_backend() == "gloo"
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if is_gloo:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
