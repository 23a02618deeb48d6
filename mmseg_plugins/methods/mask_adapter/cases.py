"""How the reference cases of Mask-Adapter run: ``adapter``, ``mixed_losses`` and ``full``."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.classify.features import features_of_stage
from mmseg_plugins.classify.tokens import TokenOrder
from mmseg_plugins.classify.void import append_void
from mmseg_plugins.masks.proposals import MaskProposals
from mmseg_plugins.masks.targets import SegmentTargets
from mmseg_plugins.methods.mask_adapter.checkpoint import PUBLISHED_PARTS
from mmseg_plugins.methods.mask_adapter.classifier import pooling_weights
from mmseg_plugins.methods.mask_adapter.matching import IGNORED
from mmseg_plugins.methods.mask_adapter.model import MaskAdapterSegmentor
from mmseg_plugins.segmentors.mask_cases import (
    clip_config,
    head_config,
    load_part,
    load_whole,
    output_stages,
    whole_model_options,
)
from mmseg_plugins.towers.config import ClipConfig, TextConfig
from mmseg_plugins.vocabulary.embed import TextEmbeddings

_ORDERS: dict[str, TokenOrder] = {"channels_last": "channels_last", "flat_without_permute": "legacy"}


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    runners: dict[str, Callable[[Case, str, torch.dtype], dict[str, Any]]] = {
        "adapter": _run_adapter,
        "mixed_losses": _run_mixed_losses,
        "full": _run_full,
    }
    if case.kind not in runners:
        raise ValueError(
            f"{case.path}: Mask-Adapter has no runner for cases of kind {case.kind!r}. Known: {', '.join(runners)}."
        )
    return runners[case.kind](case, device, dtype)


# --- the module -----------------------------------------------------------------------------------------------------


def _run_adapter(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    model = _part_model(case).to(device, dtype)
    classifier = model.mask_classifier
    features = features_of_stage(model.clip.visual, case.tensor("clip_vis_dense", device, dtype))
    masks, text = case.tensor("masks", device), _text(case, model, device)
    maps = classifier.maps(features, masks)
    pooled = classifier.pool(features.dense, maps)
    embedding = classifier.embed(features, masks)
    count = classifier.adapter.num_maps
    return {
        **_inner_stages(model, classifier.dense_embedding(features), masks),
        "activation_maps": maps,
        "pooling_weights": pooling_weights(maps, count).flatten(1, 2).flatten(2),
        "pooled_mask0": pooled[:, :count],
        "mask_embedding": embedding,
        "logits": model.logits_of(embedding, features, text),
    }


def _inner_stages(model: MaskAdapterSegmentor, dense: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Compute the stages inside the adapter, image by image; of the wide ones the first 8 channels."""
    adapter, grid = model.mask_classifier.adapter, tuple(dense.shape[-2:])
    folded = adapter.fold_dense(dense)
    images: dict[str, list[Tensor]] = {}
    for index, rows in enumerate(masks[:, :, None]):
        fused = adapter.fused(folded[index : index + 1], rows)
        block1 = adapter.cnext1(fused)
        wide = {
            "mask_embed_first8": adapter.mask_downscaling[6](adapter.mask_features(rows, grid)),
            "fused_first8": fused,
            "block1_first8": block1,
            "block3_first8": adapter.cnext3(adapter.cnext2(block1)),
        }
        stages = {name: value[:, :8] for name, value in wide.items()}
        stages["mask_input"] = adapter.resize_masks(rows, grid)[:, 0]
        for name, value in stages.items():
            images.setdefault(name, []).append(value)
    return {"clip_vis_embed": dense, **{name: torch.stack(values) for name, values in images.items()}}


def _text(case: Case, model: MaskAdapterSegmentor, device: str) -> TextEmbeddings:
    counts = case.tensor("num_templates", device)
    row_class = torch.arange(len(counts), device=device).repeat_interleave(counts)
    rows = TextEmbeddings(case.tensor("text_classifier", device), row_class, len(counts))
    return append_void(rows, model.void_embedding.weight)


def _part_model(case: Case) -> MaskAdapterSegmentor:
    """A model with the case's adapter and projection head, on the smallest trunk that ends in its width."""
    config = case.config
    dims = (8, 8, 8, config["clip_channels"])
    model = MaskAdapterSegmentor(
        clip={
            "model": _clip_config({**config, "embed_dim": config["clip_dim"], "dims": dims, "depths": (1, 1, 1, 1)}),
            "text": False,
        },
        vocabulary={"source": ["one class"]},
        train_vocabulary={"source": ["one class"]},
        proposals=head_config(config, stage_channels=dims, embed_dim=config["clip_dim"]),
        mask_classifier=_classifier_config(config, config),
        training=_training_options(config),
        text_cache=False,
    )
    _set_eps(model, config)
    return load_part(model, case, PUBLISHED_PARTS)


def _set_eps(model: MaskAdapterSegmentor, config: Mapping[str, Any]) -> None:
    adapter = model.mask_classifier.adapter
    norms = {
        "layer_norm_eps_blocks": [block.norm for block in adapter.blocks],
        "layer_norm_eps_final": [adapter.norm],
        "layer_norm_eps_mask": [adapter.mask_downscaling[1], adapter.mask_downscaling[4]],
    }
    for name, layers in norms.items():
        for layer in layers:
            layer.eps = config.get(name, layer.eps)


def _classifier_config(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    order = config.get("dense_reshape")
    return {
        "type": "MaskAdapterClassifier",
        "embed_dim": config["clip_dim"],
        "width": sizes["num_channels"],
        "num_maps": sizes["num_output_maps"],
        "mask_channels": sizes["mask_in_channels"],
        "threshold": config.get("mask_threshold", 0.5),
        "token_order": None if order is None else _ORDERS[order],
    }


# --- losses ---------------------------------------------------------------------------------------------------------


def _training_options(config: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "iou_threshold": "iou_threshold",
        "iou_binarise": "iou_binarise",
        "num_gt_masks": "num_gt",
        "num_pred_masks": "num_matched",
        "class_weight": "class_weight",
        "cosine_weight": "consistency_weight",
    }
    given = {ours: config[name] for name, ours in names.items() if name in config}
    return {"phase": "mixed", "full_padding": True, **given} if given else {}


def _run_mixed_losses(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    model = _part_model(case).to(device, dtype)
    features = features_of_stage(model.clip.visual, case.tensor("clip_vis_dense", device, dtype))
    mask_logits, text = case.tensor("pred_masks", device), _text(case, model, device)
    padded = _targets(case, device)
    targets = [_without_padding(item) for item in padded]
    pairs = [model.match(logits, item) for logits, item in zip(mask_logits, targets, strict=True)]
    masks = model.mix(targets, mask_logits, pairs)
    embeddings = model.embed_masks(features, masks)
    losses = model.losses_of(embeddings, masks, features, text)
    return {
        "iou": torch.stack([model.overlaps(logits, item) for logits, item in zip(mask_logits, padded, strict=True)]),
        "labels": masks.labels,
        "adapter_masks_mean": masks.masks.flatten(2).mean(2),
        "mask_embedding": embeddings,
        "logits": model.logits_of(embeddings, features, text),
        "loss_ce": losses["loss_mask_class"],
        "loss_cosine": losses["loss_consistency"],
    }


def _without_padding(targets: SegmentTargets) -> SegmentTargets:
    kept = targets.labels != IGNORED
    return SegmentTargets(targets.labels[kept], targets.masks[kept])


def _targets(case: Case, device: str) -> list[SegmentTargets]:
    """Read the annotated masks with their padding, enlarged by repetition to the size of the images."""
    small, labels = case.tensor("gt_masks_quarter", device), case.tensor("gt_labels", device)
    factors = [side // have for side, have in zip(case.config["image_size"], small.shape[2:], strict=True)]
    large = small.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)
    return [SegmentTargets(*pair) for pair in zip(labels, large, strict=True)]


# --- whole model ----------------------------------------------------------------------------------------------------


def _run_full(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    model = _full_model(case).to(device, dtype)
    image, output_size = case.tensor("image", device), tuple(case.tensor("output_size").tolist())
    data = model.data_preprocessor({"inputs": [image], "data_samples": [SegDataSample()]})
    inputs = data["inputs"].to(device, dtype)
    encoded, text = model.encode(model.pad(inputs[..., : image.shape[1], : image.shape[2]])), model.classifier_text()
    features, classifier = encoded.features, model.mask_classifier
    prediction = model.decode(encoded.stages, text)[-1]
    masks = prediction.mask_logits
    proposals = MaskProposals(mask_logits=masks[0], class_logits=prediction.class_logits[0])
    results = {
        "num_templates": torch.tensor([len(names) for names in model.vocabulary.prompts]),
        "overlap": model.seen.long(),
        "text_classifier": model.text_embeddings.rows,
        **{f"res{level}": stage for level, stage in enumerate(encoded.stages, start=2)},
        "clip_vis_dense": features.dense,
        "pred_logits": prediction.class_logits,
        "pred_masks": masks,
        "clip_vis_embed": classifier.dense_embedding(features),
        "activation_maps": classifier.maps(features, classifier.binarise(masks)),
        "out_vocab_embed": classifier(features, masks),
        "out_vocab_logits": model.out_vocabulary_logits(features, masks, text),
        "cls_log_probs": model.score_masks(features, proposals, masks, text),
    }
    if model.text_transfer is not None:
        results["text_after_cdt"] = model.transfer_text(text, features)
    data["data_samples"][0].set_metainfo({"ori_shape": output_size})
    return results | output_stages(model.predict(inputs, data["data_samples"])[0], model.outputs)


def _full_model(case: Case) -> MaskAdapterSegmentor:
    config = case.config
    model = MaskAdapterSegmentor(
        clip={"model": _clip_config(config)},
        proposals=head_config(
            config, stage_channels=config["dims"], embed_dim=config["embed_dim"], sizes=config["head"]
        ),
        mask_classifier=_classifier_config(config, config["adapter"]),
        text_transfer=_transfer_config(case),
        **whole_model_options(config),
    )
    return load_whole(model, case)


def _transfer_config(case: Case) -> dict[str, Any] | None:
    """Return MAFT+'s text transfer where the case's file holds one."""
    if not any(key.startswith("cdt.") for key in case.spec["layout"]):
        return None
    transfer = case.config.get("cdt", {})
    return {
        "type": "ContentDependentTransfer",
        "embed_dim": case.config["embed_dim"],
        "heads": transfer.get("heads", 8),
        "variant": "panoptic" if transfer.get("panoptic_variant", False) else "semantic",
    }


def _clip_config(config: Mapping[str, Any]) -> ClipConfig:
    text = TextConfig(**config["text"]) if "text" in config else None
    return clip_config(config, text, projection=config["timm_proj"])
