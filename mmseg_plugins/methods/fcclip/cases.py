"""How the reference cases of FC-CLIP run: ``full``, ``head``, ``pool_ensemble`` and ``inference``."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.cases import Case
from mmseg_plugins.classify.features import features_of_stage
from mmseg_plugins.classify.pooling import masks_on_grid
from mmseg_plugins.masks.mask2former.positions import sine_positions
from mmseg_plugins.masks.proposals import MaskProposals
from mmseg_plugins.methods.fcclip.model import FCCLIP
from mmseg_plugins.prediction.segments import MaskGeometry, semantic_scores
from mmseg_plugins.prediction.segments_instance import instance_masks
from mmseg_plugins.prediction.segments_panoptic import panoptic_segments
from mmseg_plugins.segmentors.mask_cases import (
    clip_config,
    ensemble_scoring,
    head_config,
    instance_stages,
    load_part,
    load_whole,
    output_stages,
    panoptic_stages,
    read_published,
    whole_model_options,
)
from mmseg_plugins.towers.config import ClipConfig, TextConfig
from mmseg_plugins.vocabulary.embed import TextEmbeddings


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    kinds = {"full": _run_full, "head": _run_head, "pool_ensemble": _run_pool_ensemble, "inference": _run_inference}
    if case.kind not in kinds:
        raise ValueError(f"{case.path}: no runner for cases of kind {case.kind!r}. Known: {', '.join(kinds)}.")
    return kinds[case.kind](case, device, dtype)


# --- head -----------------------------------------------------------------------------------------------------------


def _run_head(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    config = case.config
    head = MODELS.build(head_config(config, stage_channels=config["dims"], embed_dim=config["embed"], sizes=config))
    own = read_published(case).own
    head.load_state_dict({key.removeprefix("proposals."): value for key, value in own.items()})
    head.to(device, dtype).eval()
    stages = [case.tensor(name, device, dtype) for name in config["in_features"]]
    counts = case.tensor("num_templates", device)
    classes = torch.arange(len(counts) + 1, device=device)
    row_class = classes.repeat_interleave(torch.cat([counts, counts.new_ones(1)]))
    rows = case.tensor("text_classifier", device, dtype)
    pixels = head.pixel_decoder(stages)
    predictions = head(stages, rows, row_class, len(classes))
    results = {
        "pos_res5": sine_positions(*stages[-1].shape[2:], config["conv_dim"], device=device, dtype=dtype).expand(
            len(stages[-1]), -1, -1, -1
        ),
        "encoder_memory": torch.cat([source.flatten(2).transpose(1, 2) for source in pixels.sources], dim=1),
        "mask_features": pixels.mask_features,
        "pred_masks": predictions[-1].mask_logits,
        "pred_logits": predictions[-1].class_logits,
    }
    results |= {f"multi_scale_{index}": source for index, source in enumerate(pixels.sources)}
    for index, prediction in enumerate(predictions):
        results |= {f"aux{index}_masks": prediction.mask_logits, f"aux{index}_logits": prediction.class_logits}
    return results


# --- pooling and ensemble -------------------------------------------------------------------------------------------


def _run_pool_ensemble(case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    dense = case.tensor("clip_vis_dense", device, dtype)
    counts = case.tensor("num_templates", device)
    rows = case.tensor("text_classifier", device)
    model = _pooling_model(case, counts.tolist(), width=dense.shape[1]).to(device, dtype)
    row_class = torch.arange(len(counts), device=device).repeat_interleave(counts)
    model.set_text_embeddings(TextEmbeddings(rows, row_class, len(counts)))
    masks, logits = (case.tensor(name, device, dtype) for name in ("pred_masks", "pred_logits"))
    features = features_of_stage(model.clip.visual, dense)
    text = model.classifier_text()
    images = range(len(dense))
    scores = [
        model.score_masks(
            features.image(i), MaskProposals(mask_logits=masks[i], class_logits=logits[i]), masks[i : i + 1], text
        )
        for i in images
    ]
    return {
        "text_with_void": text.rows,
        "mask_for_pooling": masks_on_grid(masks, features.grid),
        "pooled": model.mask_classifier.pool(features, masks),
        "out_vocab_embed": model.mask_classifier(features, masks),
        "out_vocab_logits": model.out_vocabulary_logits(features, masks, text),
        "cls_log_probs": torch.stack(scores),
    }


def _pooling_model(case: Case, counts: Sequence[int], *, width: int) -> FCCLIP:
    """A model with the case's projection head, on the smallest trunk that ends in its width."""
    config = case.config
    names = [[f"name {index} {number}" for number in range(count)] for index, count in enumerate(counts)]
    # Which classes are seen is an input here, so they share their names with the training vocabulary.
    seen = [names[index] for index, flag in enumerate(case.tensor("overlap").tolist()) if flag]
    dims = (8, 8, 8, width)
    model = FCCLIP(
        clip={"model": _clip_config({**config, "dims": dims, "depths": (1, 1, 1, 1)}), "text": False},
        vocabulary={"source": dict(zip(map(str, range(len(names))), names, strict=True))},
        train_vocabulary={"source": dict(zip(map(str, range(len(seen))), seen, strict=True)) or ["nothing seen"]},
        proposals=head_config(config, stage_channels=dims, embed_dim=config["embed_dim"]),
        scoring=ensemble_scoring(config),
        text_cache=False,
    )
    return load_part(model, case)


# --- outputs --------------------------------------------------------------------------------------------------------


def _run_inference(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    config = case.config
    scores, masks = (case.tensor(name, device, dtype) for name in ("cls_log_probs", "pred_masks"))
    padded_size, image_size, output_size = (
        tuple(case.tensor(name).tolist()) for name in ("padded_size", "image_size", "output_size")
    )
    geometry = MaskGeometry(output_size=output_size, padded_size=padded_size, image_size=image_size)
    order = "masks" if config["resize_masks_before_inference"] else "scores"
    results: dict[str, Any] = {"sem_seg": semantic_scores(scores, masks, geometry, order=order)}
    things = [index in config["things"] for index in range(config["num_classes"])]
    if config["panoptic_on"]:
        found = panoptic_segments(
            scores,
            masks,
            geometry,
            is_thing=things,
            object_mask_threshold=config["object_mask_threshold"],
            overlap_threshold=config["overlap_threshold"],
        )
        results |= panoptic_stages(found.ids, found.segments_info)
    if config["instance_on"]:
        instances = instance_masks(
            scores,
            masks,
            geometry,
            top_k=config["test_topk_per_image"],
            is_thing=things if config["panoptic_on"] else None,
        )
        results |= instance_stages(instances)
    return results


# --- whole model ----------------------------------------------------------------------------------------------------


def _run_full(case: Case, device: str, dtype: torch.dtype) -> dict[str, Any]:
    model = full_model(case).to(device, dtype)
    image = case.tensor("image", device)
    output_size = tuple(case.tensor("output_size").tolist())
    data = model.data_preprocessor({"inputs": [image], "data_samples": [SegDataSample()]})
    data["inputs"] = data["inputs"].to(device, dtype)
    size = tuple(image.shape[-2:])
    padded = model.pad(data["inputs"][..., : size[0], : size[1]])
    encoded = model.encode(padded)
    text = model.classifier_text()
    prediction = model.decode(encoded.stages, text)[-1]
    masks, features = prediction.mask_logits, encoded.features
    proposals = MaskProposals(mask_logits=masks[0], class_logits=prediction.class_logits[0])
    results = {
        "num_templates": torch.tensor([len(names) for names in model.vocabulary.prompts]),
        "overlap": model.seen.long(),
        "text_classifier": model.text_embeddings.rows,
        "res2": encoded.stages[0],
        "res3": encoded.stages[1],
        "res4": encoded.stages[2],
        "res5": encoded.stages[3],
        "clip_vis_dense": features.dense,
        "pred_logits": prediction.class_logits,
        "pred_masks": masks,
        "mask_for_pooling": masks_on_grid(masks, features.grid),
        "pooled": model.mask_classifier.pool(features, masks),
        "out_vocab_embed": model.mask_classifier(features, masks),
        "out_vocab_logits": model.out_vocabulary_logits(features, masks, text),
        "cls_log_probs": model.score_masks(features, proposals, masks, text),
    }
    data["data_samples"][0].set_metainfo({"ori_shape": output_size})
    sample = model.predict(data["inputs"], data["data_samples"])[0]
    return results | output_stages(sample, model.outputs)


def full_model(case: Case) -> FCCLIP:
    """Build the model of a case of kind ``full`` and load its published file."""
    config = case.config
    model = FCCLIP(
        clip={"model": _clip_config(config)},
        proposals=head_config(
            config, stage_channels=config["dims"], embed_dim=config["embed_dim"], sizes=config["head"]
        ),
        **whole_model_options(config),
    )
    return load_whole(model, case)


def _clip_config(config: Mapping[str, Any]) -> ClipConfig:
    text = TextConfig(**config["text"]) if "text" in config else None
    return clip_config(config, text, projection=config["timm_proj"])
