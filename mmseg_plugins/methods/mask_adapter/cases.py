"""How the reference cases of Mask-Adapter run: ``adapter``, ``mixed_losses`` and ``full``."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.classify.features import features_of_stage
from mmseg_plugins.classify.rows import append_void
from mmseg_plugins.classify.tokens import TokenOrder
from mmseg_plugins.masks.proposals import MaskProposals
from mmseg_plugins.masks.targets import SegmentTargets
from mmseg_plugins.methods.mask_adapter.checkpoint import PUBLISHED_PARTS
from mmseg_plugins.methods.mask_adapter.classifier import pooling_weights
from mmseg_plugins.methods.mask_adapter.matching import IGNORED
from mmseg_plugins.methods.mask_adapter.model import MaskAdapterSegmentor
from mmseg_plugins.segmentors.mask_checkpoint import split_published
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig
from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.vocabulary.embed import TextEmbeddings

_TRUNK = "convnext_base"  # any of timm's; depths and widths come from the case
_TEMPLATES = "vild14"
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
    widths = {"conv_dim": 32, "mask_dim": 32, "hidden": 32, "ff_enc": 8, "ff": 8}
    sizes = {**widths, "q": 1, "enc": 1, "dec": 1, "nheads": 4}
    model = MaskAdapterSegmentor(
        clip={
            "model": clip_config({**config, "embed_dim": config["clip_dim"], "dims": dims, "depths": (1, 1, 1, 1)}),
            "text": False,
        },
        vocabulary={"source": ["one class"]},
        train_vocabulary={"source": ["one class"]},
        proposals=_head_config(dims, config["clip_dim"], sizes, points=4, groups=8),
        mask_classifier=_classifier_config(config, config),
        training=_training_options(config),
        text_cache=False,
    )
    _set_eps(model, config)
    with tempfile.TemporaryDirectory() as folder:
        state = unwrap_state_dict(read_tensors(case.write_file("checkpoint", folder)))
    published = split_published(state, PUBLISHED_PARTS)
    tensors = published.own | {f"clip.{key}": value for key, value in published.clip.items()}
    own = model.state_dict()
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise ValueError(f"{case.path}: keys {unknown} have no place in the model.")
    model.load_state_dict(own | tensors)  # the trunk and the decoder, which the case leaves out, stay as they are
    return model.eval()


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
    return results | _outputs(model.predict(inputs, data["data_samples"])[0], model)


def _outputs(sample: SegDataSample, model: MaskAdapterSegmentor) -> dict[str, Tensor]:
    results: dict[str, Tensor] = {}
    if model.outputs.semantic:
        results["sem_seg"] = sample.seg_logits.data
    if model.outputs.panoptic:
        segments = sample.pred_panoptic_seg
        rows = [[entry["id"], entry["category_id"], int(entry["isthing"])] for entry in segments.segments_info]
        results["panoptic"] = segments.data[0].int()
        results["panoptic_info"] = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
    if model.outputs.instance:
        results["inst_scores"], results["inst_classes"] = sample.pred_instances.scores, sample.pred_instances.labels
    return results


def _full_model(case: Case) -> MaskAdapterSegmentor:
    config = case.config
    things = [index in config["things"] for index in range(len(config["test_classes"]))]
    model = MaskAdapterSegmentor(
        clip={"model": clip_config(config)},
        vocabulary={"source": {**_class_file(config["test_classes"]), "isthing": things}, "templates": _TEMPLATES},
        train_vocabulary={"source": _class_file(config["train_classes"]), "templates": _TEMPLATES},
        proposals=_head_config(
            config["dims"], config["embed_dim"], config["head"], points=config["n_points"], groups=config["gn_groups"]
        ),
        mask_classifier=_classifier_config(config, config["adapter"]),
        text_transfer=_transfer_config(case),
        scoring={
            "rule": "ensemble",
            "alpha": config["geometric_ensemble_alpha"],
            "beta": config["geometric_ensemble_beta"],
            "valid_only": config["ensemble_on_valid_mask"],
        },
        outputs={
            "semantic": config["semantic_on"],
            "panoptic": config["panoptic_on"],
            "instance": config["instance_on"],
            "object_mask_threshold": config["object_mask_threshold"],
            "overlap_threshold": config["overlap_threshold"],
            "top_k": config["test_topk_per_image"],
            "keep_logits": config["semantic_on"],
        },
        size_divisor=config["size_divisibility"],
        data_preprocessor={
            "type": "mmseg.SegDataPreProcessor",
            "mean": config["pixel_mean"],
            "std": config["pixel_std"],
            "test_cfg": {"size_divisor": config["size_divisibility"]},
        },
        text_cache=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        load_checkpoint(model, str(case.write_file("checkpoint", folder)), logger="silent")
    return model.eval()


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


def _head_config(
    dims: Sequence[int], embed_dim: int, sizes: Mapping[str, Any], *, points: int, groups: int
) -> dict[str, Any]:
    return {
        "type": "OpenVocabularyMask2Former",
        "stage_channels": dims,
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
        "points": points,
        "norm_groups": groups,
    }


def _class_file(entries: Sequence[str]) -> dict[str, Any]:
    """Published class strings, names joined by commas, in the class-file form."""
    names = [[name.strip() for name in entry.split(",")] for entry in entries]
    return {"classes": [f"{index} {group[0]}" for index, group in enumerate(names)], "synonyms": names}


def clip_config(config: Mapping[str, Any]) -> ClipConfig:
    """Return the CLIP model that a case describes."""
    vision = VisionConfig(
        family="convnext",
        width=0,
        layers=0,
        heads=0,
        timm_name=_TRUNK,
        timm_pool="",
        timm_proj=config["timm_proj"],
        timm_options={"depths": tuple(config["depths"]), "dims": tuple(config["dims"])},
    )
    text = TextConfig(**config["text"]) if "text" in config else None
    return ClipConfig(name="mask_adapter case", embed_dim=config["embed_dim"], vision=vision, text=text)
