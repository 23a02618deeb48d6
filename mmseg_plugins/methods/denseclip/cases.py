"""How the reference cases of DenseCLIP run: ``model``, ``clip_init`` and ``table``."""

import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner.checkpoint import load_checkpoint
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
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
    """A DenseCLIP model, or the baseline without text (mmseg's EncoderDecoder on a CLIP backbone)."""
    model = MODELS.build(ConfigDict(adapt_config(case.config)))
    with tempfile.TemporaryDirectory() as folder:
        load_checkpoint(model, str(case.write_file("checkpoint", folder)))
    model = model.eval().to(device, dtype)
    images = case.tensor("input", device, dtype)
    has_text = isinstance(model, DenseCLIP)
    maps = model.backbone(images)
    stages = _feature_stages(maps)
    pyramid = maps
    if has_text:
        text, pyramid, scores = model.after_extract_feat(maps)
        stages |= {
            "tokens": model.texts,
            "text_embeddings": model.encode_classes(),
            "text_diff": _context_decoder_output(model, maps[-1]),
            "text_embeddings_ctx": text,
            "score_map": scores,
        }
    if model.with_neck:
        stages |= {f"neck{level}": value for level, value in enumerate(model.neck(pyramid))}
    metas = [{"img_shape": images.shape[2:], "pad_shape": images.shape[2:]}] * len(images)
    stages |= {"head_logits": model.forward(images), "seg_logits": model.encode_decode(images, metas)}
    return stages | _losses(model, case, images) | _slide(model, case, device, dtype)


def _feature_stages(maps: tuple) -> dict[str, Tensor]:
    """Name a backbone's maps, and its embeddings where it has them."""
    levels = [value for value in maps if isinstance(value, Tensor)]
    stages = {f"feat{level}": value for level, value in enumerate(levels)}
    if len(levels) < len(maps):
        stages |= {"global_feat": maps[-1][0], "visual_embeddings": maps[-1][1]}
    return stages


def _context_decoder_output(model: DenseCLIP, embeddings: tuple[Tensor, Tensor]) -> Tensor:
    found: list[Tensor] = []
    hook = model.context_decoder.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    model.refine_text(embeddings)
    hook.remove()
    return found[0]


def _losses(model: EncoderDecoder, case: Case, images: Tensor) -> dict[str, Tensor]:
    if "gt" not in case.arrays:
        return {}
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels)) for labels in case.tensor("gt", images.device)]
    losses = model.loss(images, samples)
    return {"loss_decode_ce": losses["decode.loss_ce"], "loss_identity_ce": losses.get("aux_identity.loss_ce")}


def _slide(model: EncoderDecoder, case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    slide = case.spec.get("slide")
    if slide is None:
        return {}
    model.test_cfg.update(mode="slide", crop_size=tuple(slide["crop_size"]), stride=tuple(slide["stride"]))
    images = case.tensor("slide_input", device, dtype)
    logits = model.inference(images, [{"ori_shape": tuple(slide["ori_shape"])} for _ in images])
    resized = F.interpolate(logits, tuple(slide["ori_shape"]), mode="bilinear", align_corners=model.align_corners)
    return {"slide_logits": logits, "slide_prob_ori": resized.softmax(1)}


def _run_clip_init(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    config = adapt_config(case.config)
    with tempfile.TemporaryDirectory() as folder:
        file = str(case.write_file("clip", folder))
        parts = [MODELS.build(config[part] | {"clip_pretrained": file}) for part in ("backbone", "text_encoder")]
        for part in parts:
            part.init_weights()
    backbone, encoder = (part.eval().to(device, dtype) for part in parts)
    stages = _feature_stages(backbone(case.tensor("input", device, dtype)))
    tokens = encoder.tokenize_names(config["class_names"], config["context_length"]).to(device)
    positions = getattr(getattr(backbone, "attnpool", backbone), "positional_embedding", None)
    return stages | {
        "visual_positional_embedding": positions,
        "text_positional_embedding": encoder.positional_embedding,
        "tokens": tokens,
        "text_embeddings": encoder(tokens, case.tensor("contexts", device, dtype)),
    }


def _run_table(case: Case) -> list[StageResult]:
    if "tokens" in case.spec:
        return [_compare_tokens(case.spec)]
    return [_compare_rates(case.spec, float(base), rates) for base, rates in case.spec["base_lr_to_lr"].items()]


def _compare_tokens(table: dict[str, Any]) -> StageResult:
    length = table["context_length"]
    encoder = CLIPTextContextEncoder(
        context_length=length, transformer_width=8, transformer_heads=1, transformer_layers=1, embed_dim=8
    )
    tokens = encoder.tokenize_names(table["classes"], length)
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
