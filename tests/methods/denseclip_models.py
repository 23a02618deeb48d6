"""Small DenseCLIP models for the tests: the wiring of the published configs at a fraction of their size."""

import copy

import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_plugins.register

_ = mmseg_plugins.register  # imported for its effect

NAMES = ("wall", "traffic light", "sky", "chest of drawers")

BACKBONES = {
    "resnet": {
        "type": "CLIPResNetWithAttention", "layers": [1, 1, 1, 1], "width": 8, "output_dim": 32, "input_resolution": 64,
    },
    "vit16": {
        "type": "CLIPVisionTransformer", "patch_size": 16, "width": 32, "layers": 4, "heads": 2, "output_dim": 32,
        "input_resolution": 64, "out_indices": [0, 1, 2, 3],
    },
    "vit8": {
        "type": "CLIPVisionTransformer", "patch_size": 8, "width": 32, "layers": 4, "heads": 2, "output_dim": 32,
        "input_resolution": 32, "out_indices": [0, 1, 2, 3],
    },
}  # fmt: skip
_SCORE_LEVELS = {"resnet": 3, "vit16": 2, "vit8": 1}
_CHANNELS = {"resnet": [32, 64, 128, 256], "vit16": [32] * 4, "vit8": [32] * 4}


def config(kind="vit16", names=NAMES, **changes):
    """Return the config of a small model; ``changes`` replace entries, dicts are merged one level deep."""
    channels = list(_CHANNELS[kind])
    channels[_SCORE_LEVELS[kind]] += len(names)
    settings = {
        "type": "DenseCLIP", "class_names": list(names), "context_length": 5, "text_dim": 32, "token_embed_dim": 16,
        "score_concat_index": _SCORE_LEVELS[kind], "backbone": BACKBONES[kind],
        "text_encoder": {
            "type": "CLIPTextContextEncoder", "context_length": 9, "embed_dim": 32, "transformer_width": 16,
            "transformer_heads": 2, "transformer_layers": 2,
        },
        "context_decoder": {
            "type": "ContextDecoder", "transformer_width": 16, "transformer_heads": 2, "transformer_layers": 1,
            "visual_dim": 32,
        },
        "neck": {"type": "FPN", "in_channels": channels, "out_channels": 8, "num_outs": 4},
        "decode_head": {
            "type": "FPNHead", "in_channels": [8] * 4, "in_index": [0, 1, 2, 3], "feature_strides": [4, 8, 16, 32],
            "channels": 8, "num_classes": len(names), "norm_cfg": {"type": "BN"}, "align_corners": False,
            "loss_decode": {"type": "CrossEntropyLoss", "avg_non_ignore": True},
        },
        "identity_head": {
            "type": "IdentityHead", "num_classes": len(names),
            "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4, "avg_non_ignore": True},
        },
    }  # fmt: skip
    settings = copy.deepcopy(settings)
    for key, value in changes.items():
        merges = isinstance(value, dict) and isinstance(settings.get(key), dict)
        settings[key] = {**settings[key], **value} if merges else value
    return settings


def build(kind="vit16", seed=0, **changes):
    """Build a small model in eval mode, marked as loaded, with gamma large enough to matter."""
    torch.manual_seed(seed)
    model = MODELS.build(config(kind, **changes)).eval()
    model.gamma.data.fill_(0.5)
    model.note_loaded(("",))
    return model


def samples(labels_BHW):
    """Return data samples with a ground truth."""
    return [SegDataSample(gt_sem_seg=PixelData(data=labels[None])) for labels in labels_BHW]


def batch(size=(64, 64), count=2, classes=4, seed=0):
    """Return random images and data samples."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *size, generator=generator)
    return images, samples(torch.randint(0, classes, (count, *size), generator=generator))


def total(losses):
    """Sum what mmengine would sum."""
    return sum(value for key, value in losses.items() if "loss" in key)
