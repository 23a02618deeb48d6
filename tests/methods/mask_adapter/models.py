"""Small Mask-Adapter models, and the published form of the module written out."""

import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample

import mmseg_plugins.register  # noqa: F401  (fills the registries)
from mmseg_plugins.methods.mask_adapter.model import MaskAdapterSegmentor
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig

TEXT = TextConfig(width=16, heads=2, layers=1)
DIMS = (8, 8, 16, 16)
VISION = {
    "convnext": VisionConfig(
        family="convnext", timm_name="convnext_base", timm_pool="",
        timm_options={"depths": (1, 1, 1, 1), "dims": DIMS},
    ),
    "resnet": VisionConfig(family="resnet", width=8, layers=(1, 1, 1, 1), heads=4, image_size=(64, 64)),
    "vit": VisionConfig(family="vit", width=16, layers=2, heads=2, patch=8, image_size=(64, 64)),
}  # fmt: skip
STAGES = {"convnext": DIMS, "resnet": (32, 64, 128, 256), "vit": (16, 16, 16, 16)}
SMALL = {
    "embed_dim": 12, "conv_dim": 16, "mask_dim": 16, "hidden_dim": 16, "num_queries": 6, "encoder_layers": 1,
    "decoder_layers": 2, "heads": 2, "encoder_ffn": 16, "decoder_ffn": 16, "norm_groups": 4,
}  # fmt: skip
ADAPTER = {"type": "MaskAdapterClassifier", "embed_dim": 12, "width": 16, "num_maps": 4, "mask_channels": 8}
TRANSFER = {"type": "ContentDependentTransfer", "embed_dim": 12, "heads": 2, "variant": "semantic"}


def settings(family="convnext", **options):
    config = {
        "clip": {"model": ClipConfig(name=family, embed_dim=12, vision=VISION[family], text=TEXT)},
        "vocabulary": {"source": "cat; sofa, couch; sky", "templates": ["a {}."]},
        "train_vocabulary": {"source": "cat; dog, couch", "templates": ["a {}."]},
        "proposals": {"type": "OpenVocabularyMask2Former", "stage_channels": STAGES[family], **SMALL},
        "mask_classifier": ADAPTER,
        "scoring": {"alpha": 0.7, "beta": 0.9},
        "text_cache": False,
    }  # fmt: skip
    if family == "vit":
        config["pyramid"] = {"type": "SimplePyramid", "width": 16, "stride": 8}
    return config | options


def build(family="convnext", **options):
    torch.manual_seed(0)
    init_default_scope("mmseg")
    return MaskAdapterSegmentor(**settings(family, **options)).eval()


def sample(labels, masks, **meta):
    result = SegDataSample(metainfo=meta)
    result.gt_instances = InstanceData(labels=torch.tensor(labels, dtype=torch.int64), masks=torch.as_tensor(masks))
    return result


def published(model, *, phase=2, wrap=True):
    """The state of a model under published names, as its file would hold it."""
    names = {
        "mask_classifier.adapter.": "mask_adapter.",
        "proposals.": "sem_seg_head.",
        "pyramid.": "pyramid.",  # published towers need none
        "text_transfer.": "cdt.",
        "clip.text.": "backbone.clip_model.",
        "clip.": "backbone.clip_model.",
        "void_embedding.": "void_embedding.",
    }
    state = {}
    for key, value in model.state_dict().items():
        if "_extra_state" in key or (phase == 1 and key.startswith("proposals.")):
            continue
        ours = next(text for text in names if key.startswith(text))
        state[names[ours] + key.removeprefix(ours)] = value.clone()
    return {"model": state} if wrap else state


def without_adapter(model):
    """The file of the model's base."""
    state = published(model, wrap=False)
    return {"model": {key: value for key, value in state.items() if not key.startswith("mask_adapter.")}}


def published_form(adapter, dense, masks):
    """The module as published: every mask gets a copy of the dense embedding, and the sum goes through ``fuse``."""
    batch, count = masks.shape[:2]
    height, width = dense.shape[2:]
    resized = F.interpolate(masks.float(), (4 * height, 4 * width), mode="bilinear", align_corners=False)
    embedded = adapter.mask_downscaling(resized.reshape(batch * count, 1, 4 * height, 4 * width))
    maps = adapter.fuse(dense.repeat_interleave(count, 0) + embedded)
    for block in (adapter.cnext1, adapter.cnext2, adapter.cnext3):
        inner = block.dwconv(maps).movedim(1, -1)
        inner = F.layer_norm(inner, inner.shape[-1:], block.norm.weight, block.norm.bias, 1e-6)
        maps = maps + (block.gamma * block.pwconv2(F.gelu(block.pwconv1(inner)))).movedim(-1, 1)
    last = F.layer_norm(maps.movedim(1, -1), maps.shape[1:2], adapter.norm.weight, adapter.norm.bias, 1e-5)
    return adapter.final(last.movedim(-1, 1)).reshape(batch, -1, height, width)
