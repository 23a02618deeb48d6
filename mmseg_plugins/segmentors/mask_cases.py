"""What the reference cases of the mask methods have in common: how their configuration describes a model."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine.runner.checkpoint import load_checkpoint
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.prediction.segments_instance import Instances
from mmseg_plugins.segmentors.mask import MaskSegmentor
from mmseg_plugins.segmentors.mask_checkpoint import DECODER_PARTS, PublishedState, split_published
from mmseg_plugins.segmentors.mask_options import MaskOutputs
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig
from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict

TEMPLATES = "vild14"
_TRUNK = "convnext_base"  # any of timm's; depths and widths come from the case
# The smallest decoder, for cases without one.
_NO_DECODER = {
    "conv_dim": 32,
    "mask_dim": 32,
    "hidden": 32,
    "q": 1,
    "enc": 1,
    "dec": 1,
    "nheads": 4,
    "ff_enc": 8,
    "ff": 8,
}

Model = TypeVar("Model", bound=MaskSegmentor)


def head_config(
    config: Mapping[str, Any], *, stage_channels: Sequence[int], embed_dim: int, sizes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the configuration of a case's mask decoder.

    Args:
        config: the case's, with ``n_points`` and ``gn_groups``.
        stage_channels: widths of the four stages.
        embed_dim: joint width.
        sizes: the entry with the decoder's sizes; None: the case has no decoder, so the smallest.
    """
    if sizes is None:
        config, sizes = {"n_points": 4, "gn_groups": 8}, _NO_DECODER
    return {
        "type": "OpenVocabularyMask2Former",
        "stage_channels": stage_channels,
        "embed_dim": embed_dim,
        "conv_dim": sizes["conv_dim"],
        "mask_dim": sizes["mask_dim"],
        "hidden_dim": sizes["hidden"],
        "num_queries": sizes["q"],
        "encoder_layers": sizes["enc"],
        "decoder_layers": sizes["dec"],
        "heads": sizes["nheads"],
        "encoder_ffn": sizes["ff_enc"],
        "decoder_ffn": sizes["ff"],
        "points": config["n_points"],
        "norm_groups": config["gn_groups"],
    }


def clip_config(config: Mapping[str, Any], text: TextConfig | None = None, *, projection: str) -> ClipConfig:
    """Return the ConvNeXt CLIP that a case describes.

    Args:
        config: an entry with ``depths``, ``dims`` and ``embed_dim``.
        text: the text tower; None: none.
        projection: kind of the projection head, ``linear`` or ``mlp``.
    """
    vision = VisionConfig(
        family="convnext",
        width=0,
        layers=0,
        heads=0,
        timm_name=_TRUNK,
        timm_pool="",
        timm_proj=projection,
        timm_options={"depths": tuple(config["depths"]), "dims": tuple(config["dims"])},
    )
    return ClipConfig(name="reference case", embed_dim=config["embed_dim"], vision=vision, text=text)


def vocabularies(config: Mapping[str, Any], things: Sequence[int]) -> dict[str, Any]:
    """Return ``vocabulary`` and ``train_vocabulary`` of a case.

    Args:
        config: the case's, with ``test_classes`` and ``train_classes``.
        things: indices of the test classes that are things.
    """
    flags = [index in things for index in range(len(config["test_classes"]))]
    return {
        "vocabulary": {"source": {**class_file(config["test_classes"]), "isthing": flags}, "templates": TEMPLATES},
        "train_vocabulary": {"source": class_file(config["train_classes"]), "templates": TEMPLATES},
    }


def class_file(entries: Sequence[str]) -> dict[str, Any]:
    """Return published class strings, names joined by commas, in the class-file form."""
    names = [[name.strip() for name in entry.split(",")] for entry in entries]
    return {"classes": [f"{index} {group[0]}" for index, group in enumerate(names)], "synonyms": names}


def ensemble_scoring(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``scoring`` of a case that joins in- and out-of-vocabulary scores."""
    return {
        "rule": "ensemble",
        "alpha": config["geometric_ensemble_alpha"],
        "beta": config["geometric_ensemble_beta"],
        "valid_only": config["ensemble_on_valid_mask"],
    }


def whole_model_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a case from image to outputs says of vocabularies, scoring, outputs and preprocessing."""
    return {
        **vocabularies(config, config["things"]),
        "scoring": ensemble_scoring(config),
        "outputs": {
            "semantic": config["semantic_on"],
            "panoptic": config["panoptic_on"],
            "instance": config["instance_on"],
            "object_mask_threshold": config["object_mask_threshold"],
            "overlap_threshold": config["overlap_threshold"],
            "top_k": config["test_topk_per_image"],
            "keep_logits": config["semantic_on"],
        },
        "size_divisor": config["size_divisibility"],
        "data_preprocessor": {
            "type": "mmseg.SegDataPreProcessor",
            "mean": config["pixel_mean"],
            "std": config["pixel_std"],
            "test_cfg": {"size_divisor": config["size_divisibility"]},
        },
        "text_cache": False,
    }


def load_whole(model: Model, case: Case) -> Model:
    """Load a case's published file as ``load_from`` would, and return the model in eval mode."""
    with tempfile.TemporaryDirectory() as folder:
        load_checkpoint(model, str(case.write_file("checkpoint", folder)), logger="silent")
    return model.eval()


def read_published(case: Case, parts: Mapping[str, str] = DECODER_PARTS) -> PublishedState:
    """Read a case's published file, split into CLIP's tensors and the method's own.

    Args:
        case: the case.
        parts: leading texts of published names to ours.
    """
    with tempfile.TemporaryDirectory() as folder:
        state = unwrap_state_dict(read_tensors(case.write_file("checkpoint", folder)))
    return split_published(state, parts)


def load_part(model: Model, case: Case, parts: Mapping[str, str] = DECODER_PARTS) -> Model:
    """Load a file that holds only some parts of the model; what it leaves out stays as it is.

    Raises:
        ValueError: if a key of the file has no place in the model.
    """
    published = read_published(case, parts)
    tensors = published.own | {f"clip.{key}": value for key, value in published.clip.items()}
    own = model.state_dict()
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise ValueError(f"{case.path}: keys {unknown} have no place in the model.")
    model.load_state_dict(own | tensors)
    return model.eval()


def panoptic_stages(ids: Tensor, segments_info: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the stages ``panoptic`` (H, W) and ``panoptic_info`` (S, 3): id, class, thing or not."""
    rows = [[entry["id"], entry["category_id"], int(entry["isthing"])] for entry in segments_info]
    return {"panoptic": ids.int(), "panoptic_info": torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)}


def instance_stages(instances: Instances | InstanceData) -> dict[str, Any]:
    """Return the stages ``inst_scores`` (I,), ``inst_classes`` (I,) and ``inst_masks`` (I, H * W / 8) packed bits."""
    masks = instances.masks.flatten(1).cpu().numpy()
    return {
        "inst_scores": instances.scores,
        "inst_classes": instances.labels,
        "inst_masks": np.packbits(masks, axis=1),
    }


def output_stages(sample: SegDataSample, outputs: MaskOutputs) -> dict[str, Any]:
    """Return the stages that hold what a model predicted for an image."""
    results: dict[str, Any] = {}
    if outputs.semantic:
        results["sem_seg"] = sample.seg_logits.data
    if outputs.panoptic:
        segments = sample.pred_panoptic_seg
        results |= panoptic_stages(segments.data[0], segments.segments_info)
    if outputs.instance:
        results |= instance_stages(sample.pred_instances)
    return results
