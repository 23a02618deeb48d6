"""With a background, a batch of four gives the maps of its images: every class of this family, windows included."""

import pytest
import torch
from mmseg.structures import SegDataSample

from mmseg_plugins.methods.training_free.corrclip import CorrCLIP
from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.methods.training_free.proxyclip import ProxyCLIP
from mmseg_plugins.methods.training_free.resclip import ResCLIP
from mmseg_plugins.methods.training_free.trident import Trident
from tests.methods.training_free.reference import PREPROCESSOR, build

VFM = {
    "model": "vit_base_patch8_224.dino",
    "options": {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 4},
}
SLIDE = {"mode": "slide", "crop_size": (24, 24), "stride": (16, 16), "logit_scale": 6.0}


def quarters(image, _sample):
    """Four regions, whose borders differ from image to image."""
    half = 8 + int(image.abs().sum()) % 24
    regions = torch.ones(image.shape[1:], dtype=torch.int64)
    regions[half:] += 1
    regions[:, half:] += 2
    return regions


KINDS = {
    "segearth": (TrainingFree, {"method": "segearth", "test_cfg": SLIDE}),
    "sclip, area rule": (TrainingFree, {"method": "sclip", "test_cfg": {**SLIDE, "area_threshold": 0.05}}),
    "resclip": (ResCLIP, {"test_cfg": {"logit_scale": 6.0}}),
    "proxyclip": (ProxyCLIP, {"vfm": VFM, "test_cfg": {**SLIDE, "pad_multiple": 56}}),
    "corrclip": (CorrCLIP, {"vfm": VFM, "regions": quarters, "test_cfg": {**SLIDE, "pad_multiple": 28}}),
    "trident": (
        Trident,
        {"vfm": VFM, "crop_size": (24, 24), "stride": (16, 16), "test_cfg": {"pad_multiple": 8, "logit_scale": 6.0}},
    ),
}


def between_pixels(best):
    """A threshold that about half of the pixels miss and none is close to."""
    middle = best.flatten().sort().values[len(best.flatten()) // 3 : 2 * len(best.flatten()) // 3]
    gap = int(middle.diff().argmax())
    return float(middle[gap : gap + 2].mean())


@pytest.mark.parametrize("name", KINDS)
def test_batches_of_one_and_four_decide_the_background_alike(name):
    kind, options = KINDS[name]
    images = torch.randn(4, 3, 40, 48, generator=torch.Generator().manual_seed(2))
    samples = lambda count: [SegDataSample(metainfo={"ori_shape": (30, 37)}) for _ in range(count)]  # noqa: E731
    test_cfg = {**options["test_cfg"], "keep_logits": True}
    plain = build(kind, data_preprocessor=PREPROCESSOR, **{**options, "test_cfg": test_cfg}).predict(images, samples(4))
    best = torch.stack([sample.seg_logits.data.softmax(0).amax(0) for sample in plain])
    background = {"name": "a", "threshold": between_pixels(best)}
    model = build(kind, data_preprocessor=PREPROCESSOR, background=background, **options)
    together = model.predict(images, samples(4))
    labels = torch.stack([sample.pred_sem_seg.data for sample in together])
    for image, expected in zip(images, labels, strict=True):
        assert torch.equal(model.predict(image[None], samples(1))[0].pred_sem_seg.data, expected)
    assert 0.05 < (labels == 0).float().mean() < 1
