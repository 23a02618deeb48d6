"""Small MAFT+ models on the embedded CLIP, and batches for them."""

import torch
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample

import mmseg_plugins.register  # noqa: F401
from mmseg_plugins.methods.maft_plus.model import MAFTPlus

HEAD = {
    "type": "OpenVocabularyMask2Former",
    "stage_channels": (48, 96, 96, 96),
    "embed_dim": 96,
    "conv_dim": 32,
    "mask_dim": 32,
    "hidden_dim": 32,
    "num_queries": 6,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "heads": 4,
    "encoder_ffn": 32,
    "decoder_ffn": 32,
    "norm_groups": 8,
}


def shapes_model(**options):
    torch.manual_seed(0)
    settings = {
        "clip": {"model": "shapesworld_all"},
        "vocabulary": {"source": ["red plain thing", "blue striped thing", "grass", "snow"], "templates": ["a {}"]},
        "variant": "semantic",
        "token_order": "channels_last",
        "teacher": True,
        "pyramid": {"type": "SimplePyramid", "width": 96, "stride": 8},
        "proposals": HEAD,
        "criterion": {"num_points": 32},
        "text_cache": False,
    }
    return MAFTPlus(**{**settings, **options})


def batch(*numbers, size=(64, 64), classes=4):
    """Return random pictures with the given numbers of segments."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for number in numbers:
        labels = torch.randint(classes, (number,), generator=generator)
        masks = torch.rand(number, *size, generator=generator) > 0.5
        sample = SegDataSample()
        sample.gt_instances = InstanceData(labels=labels, masks=masks)
        samples.append(sample)
    return torch.randn(len(numbers), 3, *size, generator=generator), samples
