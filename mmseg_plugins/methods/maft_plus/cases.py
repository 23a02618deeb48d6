"""How the reference cases of MAFT+ run: ``e2e``, ``cdt``, ``pool_classify`` and ``losses``."""

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.classify.pooling import masks_on_grid
from mmseg_plugins.classify.transfer import ContentDependentTransfer
from mmseg_plugins.methods.maft_plus.checkpoint import transfer_tensors
from mmseg_plugins.methods.maft_plus.losses import compensation_loss, mask_aware_loss, pooled_descriptor
from mmseg_plugins.methods.maft_plus.whole_cases import run_whole, variant_of
from mmseg_plugins.ops import mask_pool
from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.vocabulary.class_logits import class_logits, clip_scale


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    runners: dict[str, Callable[[Case, str, torch.dtype], dict[str, Any]]] = {
        "e2e": run_whole,
        "cdt": _run_transfer,
        "pool_classify": _run_pool_classify,
        "losses": _run_losses,
    }
    if case.kind not in runners:
        raise ValueError(
            f"{case.path}: MAFT+ has no runner for cases of kind {case.kind!r}. Known: {', '.join(runners)}."
        )
    return runners[case.kind](case, device, dtype)


def _run_transfer(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    config = case.config
    transfer = ContentDependentTransfer(
        embed_dim=config["d_model"], heads=config["heads"], variant=variant_of(config), token_order="legacy"
    )
    with tempfile.TemporaryDirectory() as folder:
        state = unwrap_state_dict(read_tensors(case.write_file("checkpoint", folder)))
    transfer.load_state_dict(transfer_tensors(state) | {"_extra_state": transfer.get_extra_state()})
    transfer = transfer.eval().to(device, dtype)
    tokens, rows = case.tensor("image_tokens", device, dtype), case.tensor("text", device, dtype)
    attended, weights = transfer.attend(rows, tokens, weights=True)
    return {
        "position_encoding": transfer.position_code(tokens).expand(len(tokens), -1, -1, -1),
        "attention_weights_mean": weights,
        "attention_output": attended,
        "text_after": transfer(rows, tokens),
    }


def _run_pool_classify(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    features, masks = case.tensor("features", device, dtype), case.tensor("mask_logits", device, dtype)
    stages = {
        "masks_resized": masks_on_grid(masks, tuple(features.shape[2:])),
        "pooled": mask_pool(features, masks),
    }
    embeddings = case.tensor("embeddings", device, dtype)
    names = [*case.config["num_templates"], 1]  # names per class, and void
    row_class = torch.repeat_interleave(torch.arange(len(names)), torch.tensor(names)).to(device)
    for name, entry in case.outputs.items():
        variant = entry.get("variant") or {}
        if "text" in variant:
            rows = case.tensor(variant["text"], device, dtype)
            scale = clip_scale(torch.tensor(variant["logit_scale"], device=device))
            stages[name] = class_logits(embeddings, rows, row_class, len(names), scale)
    return stages


def _run_losses(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    if case.config.get("rc_preprocess", "relu") != "relu":
        raise ValueError(f"{case.path}: representation compensation cuts negative values off, nothing else.")
    stages = {}
    for name in case.arrays:
        if name.startswith("rc_student"):
            stages |= _run_compensation(case, name.removeprefix("rc_student"), device, dtype)
    if "ma_class_logits" in case.arrays:
        stages |= _run_mask_aware(case, device, dtype)
    return stages


def _run_compensation(case: Case, index: str, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    scales: Sequence[int] = case.config["rc_scales"]
    student = case.tensor(f"rc_student{index}", device, dtype)
    teacher = case.tensor(f"rc_teacher{index}", device, dtype)
    loss, gradient = _with_gradient(lambda x: compensation_loss(x, teacher, scales), student)
    return {
        f"rc_pod_student{index}": pooled_descriptor(student.clamp(min=0), scales),
        f"rc_loss{index}": loss,
        f"rc_grad{index}": gradient,
    }


def _run_mask_aware(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    logits, masks = case.tensor("ma_class_logits", device, dtype), case.tensor("ma_mask_logits", device, dtype)
    images = range(len(logits))
    labels = [case.tensor(f"gt_labels{image}", device) for image in images]
    truths = [case.tensor(f"gt_masks{image}", device) for image in images]
    loss, gradient = _with_gradient(lambda x: mask_aware_loss(x[..., :-1], masks, labels, truths), logits)
    return {"ma_loss": loss, "ma_grad": gradient}


def _with_gradient(function: Callable[[Tensor], Tensor], argument: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = argument.detach().requires_grad_()
        value = function(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
