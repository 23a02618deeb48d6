"""How the cases of the whole MAFT+ model run (kind ``e2e``): images to label and panoptic maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.classify.tokens import TokenOrder, image_tokens
from mmseg_plugins.classify.transfer import TransferVariant
from mmseg_plugins.masks.proposals import MaskProposals
from mmseg_plugins.methods.maft_plus.model import MAFTPlus
from mmseg_plugins.prediction.segments import MaskGeometry, semantic_scores
from mmseg_plugins.prediction.segments_panoptic import panoptic_segments
from mmseg_plugins.segmentors.mask_cases import clip_config as convnext_clip_config
from mmseg_plugins.segmentors.mask_cases import load_whole, vocabularies
from mmseg_plugins.towers.config import ClipConfig, TextConfig


def run_whole(case: Case, device: str, dtype: torch.dtype, **options: Any) -> dict[str, Any]:
    """Return the output stages of a case of the whole model.

    Args:
        case: the case.
        device: where to run it.
        dtype: in which precision.
        **options: see :func:`build_model`.
    """
    model = build_model(case, **options).to(device, dtype)
    images = [case.tensor(f"image{index}", device) for index in range(_number_of_images(case))]
    inputs = _normalised_batch(images, case.config).to(dtype)
    encoded, text = model.encode(inputs), model.classifier_text()
    features = encoded.features
    pixels = model.proposals.pixel_decoder(encoded.stages)
    final = model.decode(encoded.stages, text)[-1]
    masks = final.mask_logits
    scores = torch.stack(
        [
            model.score_masks(
                features.image(index),
                MaskProposals(mask_logits=masks[index], class_logits=final.class_logits[index]),
                masks[index : index + 1],
                text,
            )
            for index in range(len(images))
        ]
    )
    stages = {
        "text_before_cdt": text.rows,
        "feat_clip_vis_dense": features.dense,
        "mask_features": pixels.mask_features,
        "mask_logits": masks,
        "in_vocab_logits": final.class_logits,
        "cdt_image_tokens": image_tokens(features.dense, features.project, model.text_transfer.token_order),
        "text_after_cdt": model.transfer_text(text, features),
        "pooled_clip_feature": model.mask_classifier.pool(features, masks),
        "pooled_clip_embedding": model.mask_classifier(features, masks),
        "out_vocab_logits": model.out_vocabulary_logits(features, masks, text),
        "class_log_probs": scores,
    }
    stages |= {f"feat_res{index}": stage for index, stage in enumerate(encoded.stages, start=2)}
    for index, image in enumerate(images):
        stages |= _outputs(case, index, model, scores[index], masks[index], image, tuple(inputs.shape[2:]))
    return stages


def _number_of_images(case: Case) -> int:
    return sum(name.startswith("image") and name[5:].isdigit() for name in case.arrays)


def _normalised_batch(images: Sequence[Tensor], config: Mapping[str, Any]) -> Tensor:
    """Normalise images, then pad them to one size at the bottom and right."""
    mean, std = (torch.tensor(config[f"pixel_{name}"], device=images[0].device) for name in ("mean", "std"))
    normalised = [(image - mean[:, None, None]) / std[:, None, None] for image in images]
    multiple = config["size_divisibility"]
    height, width = (-(-max(image.shape[axis] for image in images) // multiple) * multiple for axis in (1, 2))
    return torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in normalised])


def _outputs(
    case: Case,
    index: int,
    model: MAFTPlus,
    scores: Tensor,
    masks: Tensor,
    image: Tensor,
    padded_size: tuple[int, int],
) -> dict[str, Tensor]:
    geometry = MaskGeometry(
        output_size=tuple(case.config["output_sizes"][index]),
        padded_size=padded_size,
        image_size=tuple(image.shape[1:]),
    )
    stages = {f"sem_seg{index}": semantic_scores(scores, masks, geometry, order=model.outputs.order)}
    if not model.outputs.panoptic:
        return stages
    found = panoptic_segments(
        scores,
        masks,
        geometry,
        is_thing=model.is_thing,
        object_mask_threshold=model.outputs.object_mask_threshold,
        overlap_threshold=model.outputs.overlap_threshold,
    )
    rows = [[entry["id"], int(entry["isthing"]), entry["category_id"]] for entry in found.segments_info]
    stages[f"panoptic_ids{index}"] = found.ids.int()
    stages[f"panoptic_segments{index}"] = torch.tensor(rows, dtype=torch.int32).reshape(-1, 3)
    return stages


def variant_of(config: Mapping[str, Any]) -> TransferVariant:
    """Return the variant that a case's ``panoptic_variant`` stands for."""
    return "panoptic" if config["panoptic_variant"] else "semantic"


def build_model(case: Case, **options: Any) -> MAFTPlus:
    """Build the model of a case and load its published file, see :func:`empty_model`."""
    model = empty_model(case, **options)
    return load_whole(model, case)


def empty_model(case: Case, **options: Any) -> MAFTPlus:
    """Build the model of a case with random weights.

    Args:
        case: a case of kind ``e2e``.
        **options: further arguments of :class:`MAFTPlus`.
    """
    config = case.config
    panoptic = any(name.startswith("panoptic_ids") for name in case.outputs)
    transfer = config["cdt"]
    arguments = {
        "clip": {"model": clip_config(config["clip"])},
        "variant": variant_of(transfer),
        "token_order": _token_order(case),
        "transfer_heads": transfer["heads"],
        **vocabularies(config, config["test_thing_ids"]),
        "proposals": head_config(case),
        "outputs": {
            "panoptic": panoptic,
            "object_mask_threshold": config["object_mask_threshold"],
            "overlap_threshold": config["overlap_threshold"],
        },
        "size_divisor": config["size_divisibility"],
        "text_cache": False,
    }
    return MAFTPlus(**{**arguments, **options})


def _token_order(case: Case) -> TokenOrder | None:
    """Return what the case says of its tokens; None leaves the choice to the loader, which takes the published one."""
    layout = (case.outputs.get("cdt_image_tokens", {}).get("variant") or {}).get("token_layout", "legacy")
    return None if layout == "legacy" else "channels_last"


def head_config(case: Case) -> dict[str, Any]:
    """Return the configuration of the case's mask decoder."""
    config = case.config
    return {
        "type": "OpenVocabularyMask2Former",
        "stage_channels": config["clip"]["dims"],
        "embed_dim": config["clip"]["embed_dim"],
        # not in the configuration: the published one has a single width for both decoders
        "conv_dim": case.spec["layout"]["sem_seg_head.pixel_decoder.mask_features.weight"][1],
        "mask_dim": config["mask_dim"],
        "hidden_dim": config["hidden_dim"],
        "num_queries": config["num_queries"],
        "encoder_layers": config["pixel_decoder_encoder_layers"],
        "decoder_layers": config["decoder_layers"],
        "heads": config["pixel_decoder_heads"],
        "decoder_heads": config["decoder_heads"],
        "points": config["pixel_decoder_points"],
        "encoder_ffn": config["pixel_decoder_ffn"],
        "decoder_ffn": config["dim_feedforward"],
    }


def clip_config(config: Mapping[str, Any]) -> ClipConfig:
    """Return the CLIP model that a case's ``clip`` describes."""
    sizes = config["text"]
    text = TextConfig(
        context_length=sizes["context"],
        vocab_size=sizes["vocab"],
        width=sizes["width"],
        heads=sizes["heads"],
        layers=sizes["layers"],
    )
    return convnext_clip_config(config, text, projection=config["proj"])
