"""What the reference cases of whole models share: building as a config does, and the stages of the harness."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.segmentors.label_maps import best_row
from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.dense import DenseFeatures
from mmseg_plugins.vocabulary.embed import TextEmbeddings


def build_model(
    case: Case, kind: str, device: str, dtype: torch.dtype, *, files: Mapping[str, str] | None = None, **options: Any
) -> TrainingFree:
    """Build a segmentor from a case and load its published file.

    Args:
        case: the case.
        kind: registered name of the segmentor.
        device: where it shall run.
        dtype: its precision.
        files: option of the segmentor (dotted) to the role of the file whose path it takes.
        **options: further arguments of the segmentor.
    """
    with tempfile.TemporaryDirectory() as folder:
        for option, role in (files or {}).items():
            first, _, last = option.partition(".")
            options[first] = {**options[first], last: str(case.write_file(role, folder))}
        settings = {
            "type": kind,
            "clip": {"model": ClipConfig.from_openai_numbers(case.config["clip"]), "text": False},
            "vocabulary": {"source": _class_words(case), "background": _background(case)},
            "text_cache": False,
            "test_cfg": _test_cfg(case),
        }
        model = MODELS.build({**settings, **options})
        load_checkpoint(model, str(case.write_file("clip", Path(folder))), logger="silent")
        model.ensure_weights("visual")
    if "text_rows" in case.arrays:
        model.set_text_embeddings(text_embeddings(case, device))
    return model.to(device, dtype).eval()


def query_classes(case: Case) -> list[int]:
    """Return the class of every text row; of a case without text, that of one word."""
    return case.config.get("query_idx") or list(range(len(case.arrays.get("text_rows", [None]))))


def text_embeddings(case: Case, device: str, *, each_its_own: bool = False) -> TextEmbeddings:
    """Return the case's text rows, with their classes or each as a class of its own."""
    rows = case.tensor("text_rows", device, torch.float32)
    classes = list(range(len(rows))) if each_its_own else query_classes(case)
    return TextEmbeddings(rows, torch.tensor(classes, device=device), max(classes) + 1)


def _class_words(case: Case) -> dict[str, list[str]]:
    words: dict[str, list[str]] = {}
    for row, index in enumerate(query_classes(case)):
        words.setdefault(f"class {index}", []).append(f"word {row}")
    return dict(sorted(words.items(), key=lambda item: int(item[0].split()[1])))


def _background(case: Case) -> dict[str, Any] | str:
    if case.config.get("prob_thd"):
        return {"name": "class 0", "threshold": case.config["prob_thd"]}
    return {"name": "class 0"} if case.config.get("area_thd") else "none"


def _test_cfg(case: Case) -> dict[str, Any]:
    config, slide = case.config, case.spec.get("slide") or {}
    settings = {"logit_scale": float(config.get("logit_scale", 1.0)), "area_threshold": config.get("area_thd")}
    if min(slide.get("crop_size", (0, 0))) > 0:
        settings |= {"mode": "slide", "crop_size": slide["crop_size"], "stride": slide["stride"]}
        if case.kind == "clearclip":
            settings["pad_multiple"] = config["clip"]["vision_patch_size"]
        elif "pad_multiple" in config:
            settings["pad_multiple"] = config["pad_multiple"]
    return settings


def pamr_settings(case: Case) -> dict[str, Any] | None:
    """Return the refinement behind the resize, None where it is off."""
    if not case.config.get("pamr_steps"):
        return None
    return {"steps": case.config["pamr_steps"], "dilations": case.config["pamr_dilations"]}


def image_of(case: Case, model: TrainingFree, name: str = "image") -> Tensor:
    """Return an input image on the model's device, in its precision."""
    parameter = next(model.parameters())
    return case.tensor(name, parameter.device, parameter.dtype)


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, N, h, w) logits bilinearly."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def last_block(features: DenseFeatures) -> dict[str, Tensor]:
    """Return the stages ``q``, ``k``, ``v`` and ``tokens_pre`` from the taps of those names and ``stream``."""
    taken = {name: features.extras[name][0] for name in "qkv"}
    return {**taken, "tokens_pre": features.extras["stream"]}


def harness_stages(case: Case, model: TrainingFree, *, divide_by_sum: bool = False) -> dict[str, Tensor]:
    """Return the stages of windows, scores and labels.

    Args:
        case: the case.
        model: as :func:`build_model` made it.
        divide_by_sum: whether the class scores that are handed out are divided by their sum.
    """
    pamr, model.pamr = model.pamr, None
    stages = {"slide_logits": _full_rows(case, model)}
    model.pamr = pamr
    if pamr is not None:
        stages["refined_logits"] = _full_rows(case, model)
    rows = stages.get("refined_logits", stages["slide_logits"])[0]
    sample = _predict(case, model)
    stages["seg"] = sample.pred_sem_seg.data
    stages["class_prob"] = class_scores(case, rows, divide_by_sum=divide_by_sum)
    return stages


def _predict(case: Case, model: TrainingFree) -> SegDataSample:
    sample = SegDataSample(metainfo={"ori_shape": tuple(case.spec["slide"]["ori_shape"])})
    return model.predict(image_of(case, model, "slide_image"), [sample])[0]


def _full_rows(case: Case, model: TrainingFree) -> Tensor:
    """(1, Q, H, W) logits of every text row at the original size: predictions with each row as a class of its own."""
    vocabulary, cfg, device = model._vocabulary, model.test_cfg, next(model.parameters()).device
    text = text_embeddings(case, str(device), each_its_own=True)
    model.set_vocabulary([f"word {row}" for row in range(text.num_classes)], background="none")
    model.set_text_embeddings(text)
    model.test_cfg = type(cfg)({**cfg, "keep_logits": True, "area_threshold": None})
    rows = _predict(case, model).seg_logits.data / cfg.logit_scale
    model.test_cfg = cfg
    model.set_vocabulary(vocabulary)
    model.set_text_embeddings(text_embeddings(case, str(device)))
    return rows[None]


def class_scores(case: Case, rows_QHW: Tensor, *, divide_by_sum: bool = False) -> Tensor:
    """Return what the harness hands out as scores: (K, H, W), 0 for classes that the area rule took away."""
    classes = torch.tensor(query_classes(case), device=rows_QHW.device)
    count = int(classes.max()) + 1
    probabilities = (rows_QHW * case.config["logit_scale"]).softmax(0)
    scores = best_row(probabilities[None], classes, count)[0]
    share = case.config.get("area_thd")
    if share:
        area = torch.bincount(scores.argmax(0).flatten(), minlength=count)
        area[0] = 0
        is_kept = area > share * area.sum()
        is_kept[0] = True
        scores = scores * is_kept[:, None, None]
    return scores / scores.sum(0, keepdim=True) if divide_by_sum else scores
