"""How the reference cases of DenseCLIP run: ``model``, ``clip_init`` and ``table``."""

import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner.checkpoint import load_checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.cases import Case, StageResult
from mmseg_plugins.methods.denseclip.checkpoint import adapt_config
from mmseg_plugins.methods.denseclip.model import DenseCLIP
from mmseg_plugins.methods.denseclip.text_encoder import CLIPTextContextEncoder


def run(
    case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor] | list[StageResult]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    kinds = {"model": _run_model, "clip_init": _run_clip_init}
    if case.kind == "table":
        return _run_table(case)
    if case.kind not in kinds:
        raise ValueError(
            f"{case.path}: DenseCLIP has no runner for cases of kind {case.kind!r}. Known: {', '.join(kinds)}, table."
        )
    return kinds[case.kind](case, device, dtype)


def _run_model(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    model = MODELS.build(adapt_config(case.config))
    with tempfile.TemporaryDirectory() as folder:
        load_checkpoint(model, str(case.write_file("checkpoint", folder)))
    model = model.eval().to(device, dtype)
    images = case.tensor("input", device, dtype)
    x = model.extract_feat(images)
    text, pyramid, scores = model.after_extract_feat(x)
    stages = {f"feat{level}": value for level, value in enumerate(x[:-1])}
    if model.with_neck:
        stages |= {f"neck{level}": value for level, value in enumerate(model.neck(pyramid))}
    stages |= {
        "global_feat": x[-1][0],
        "visual_embeddings": x[-1][1],
        "tokens": model.texts,
        "text_embeddings": model.encode_classes(),
        "text_diff": _context_decoder_output(model, x[-1]),
        "text_embeddings_ctx": text,
        "score_map": scores,
        "head_logits": model.forward(images),
        "seg_logits": model.encode_decode(images),
    }
    return stages | _losses(model, case, images) | _slide(model, case, device, dtype)


def _context_decoder_output(model: DenseCLIP, embeddings: tuple[Tensor, Tensor]) -> Tensor:
    found: list[Tensor] = []
    hook = model.context_decoder.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    model.refine_text(embeddings)
    hook.remove()
    return found[0]


def _losses(model: DenseCLIP, case: Case, images: Tensor) -> dict[str, Tensor]:
    if "gt" not in case.arrays:
        return {}
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels)) for labels in case.tensor("gt", images.device)]
    losses = model.loss(images, samples)
    return {"loss_decode_ce": losses["decode.loss_ce"], "loss_identity_ce": losses.get("aux_identity.loss_ce")}


def _slide(model: DenseCLIP, case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    slide = case.spec.get("slide")
    if slide is None:
        return {}
    model.test_cfg.update(mode="slide", crop_size=tuple(slide["crop_size"]), stride=tuple(slide["stride"]))
    images = case.tensor("slide_input", device, dtype)
    logits = model.inference(images, [{"ori_shape": tuple(slide["ori_shape"])} for _ in images])
    resized = F.interpolate(logits, tuple(slide["ori_shape"]), mode="bilinear", align_corners=model.align_corners)
    return {"slide_logits": logits, "slide_prob_ori": resized.softmax(1)}


def _run_clip_init(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    config = case.config
    with tempfile.TemporaryDirectory() as folder:
        file = str(case.write_file("clip", folder))
        parts = [MODELS.build(config[part] | {"clip_pretrained": file}) for part in ("backbone", "text_encoder")]
        for part in parts:
            part.init_weights()
    backbone, encoder = (part.eval().to(device, dtype) for part in parts)
    positions = getattr(backbone, "attnpool", backbone).positional_embedding
    embeddings = backbone(case.tensor("input", device, dtype))[-1]
    tokens = encoder.tokenize_names(config["class_names"], config["context_length"]).to(device)
    return {
        "visual_positional_embedding": positions,
        "text_positional_embedding": encoder.positional_embedding,
        "global_feat": embeddings[0],
        "visual_embeddings": embeddings[1],
        "tokens": tokens,
        "text_embeddings": encoder(tokens, case.tensor("contexts", device, dtype)),
    }


def _run_table(case: Case) -> list[StageResult]:
    if "tokens" in case.spec:
        return [_compare_tokens(case.spec)]
    return [_compare_rates(case.spec, float(base), rates) for base, rates in case.spec["base_lr_to_lr"].items()]


def _compare_tokens(table: dict[str, Any]) -> StageResult:
    encoder = CLIPTextContextEncoder(transformer_width=8, transformer_heads=1, transformer_layers=1, embed_dim=8)
    tokens = encoder.tokenize_names(table["classes"], table["context_length"])
    wrong = int((tokens != torch.tensor(table["tokens"])).any(1).sum())
    return StageResult("tokens", wrong / len(tokens), "equal", wrong == 0)


def _compare_rates(table: dict[str, Any], base: float, rates: list[float]) -> StageResult:
    """The schedule as the configs build it, by its registered name; relative difference of the learning rates."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule = PARAM_SCHEDULERS.build(
        {
            "type": "mmseg.WarmupPolyLR",
            "total_iters": table["max_iters"],
            "power": table["power"],
            "eta_min": table["min_lr"],
            "warmup_iters": table["warmup_iters"],
            "warmup_ratio": table["warmup_ratio"],
        },
        default_args={"optimizer": optimizer},
    )
    found = torch.tensor([schedule.values_at(step)[0] for step in table["iters"]], dtype=torch.float64)
    wanted = torch.tensor(rates, dtype=torch.float64)
    difference = float(((found - wanted).abs() / wanted.abs().clamp_min(1e-300)).max())
    tolerance = 1e-9
    return StageResult(f"learning rate from {base:g}", difference, f"rtol {tolerance:g}", difference <= tolerance)
