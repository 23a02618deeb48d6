"""Whole images padded to a multiple, against padding, cutting and resizing by hand."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample

from mmseg_plugins.segmentors.label_maps import LabelMapPrediction, RowScorer
from mmseg_plugins.vocabulary.background import Background

STRIDE = 4


class Pools(LabelMapPrediction):
    """Averages pixels in cells of four, and scores them against six rows; keeps the sizes it was given."""

    def __init__(self, **test_cfg):
        self.test_cfg, self.sizes = ConfigDict(test_cfg), []
        self.mix = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    def network(self, images):
        self.sizes.append(tuple(images.shape[2:]))
        return torch.einsum("bchw,kc->bkhw", F.avg_pool2d(images, STRIDE), self.mix)

    def row_scorer(self):
        return RowScorer(self.network)

    def background(self):
        return Background()


def sample(shape, **metainfo):
    return SegDataSample(metainfo={"ori_shape": shape, **metainfo})


def by_hand(model, image, multiple, ori_shape):
    """Half of what is missing in front, rounded down; the enlarged logits cut back, then resized."""
    height, width = image.shape[1:]
    down, right = -height % multiple, -width % multiple
    top, left = down // 2, right // 2
    padded = torch.zeros(3, height + down, width + right)
    padded[:, top : top + height, left : left + width] = image
    full = F.interpolate(model.network(padded[None]), padded.shape[1:], mode="bilinear", align_corners=False)
    cut = full[..., top : top + height, left : left + width]
    return F.interpolate(cut, ori_shape, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("multiple", [4, 8, 56])
@pytest.mark.parametrize("size", [(37, 46), (56, 57), (8, 16)])
def test_whole_images_are_padded_around_and_cut_back(size, multiple):
    model, images = Pools(pad_multiple=multiple, keep_logits=True), torch.randn(2, 3, *size)
    samples = model.predict(images, [sample((30, 41)), sample(size)])
    assert model.sizes == [tuple(side + -side % multiple for side in size)]
    for image, shape, one in zip(images, [(30, 41), size], samples, strict=True):
        expected = by_hand(model, image, multiple, shape)
        torch.testing.assert_close(one.seg_logits.data, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(one.pred_sem_seg.data[0], one.seg_logits.data.argmax(0))


def test_sizes_that_fit_stay_as_they_are():
    plain, padded = Pools(), Pools(pad_multiple=8)
    images = torch.randn(1, 3, 16, 24)
    before, after = (model.predict(images, [sample((20, 20))])[0] for model in (plain, padded))
    assert torch.equal(before.pred_sem_seg.data, after.pred_sem_seg.data)
    assert padded.sizes == [(16, 24)]


def test_padding_of_the_batch_goes_before_padding_to_a_multiple():
    model, images = Pools(pad_multiple=8), torch.zeros(2, 3, 40, 48)
    images[0, :, :29, :45] = torch.randn(3, 29, 45)
    images[1] = torch.randn(3, 40, 48)
    together = model.predict(images, [sample((29, 45), padding_size=(0, 3, 0, 11)), sample((40, 48))])
    assert sorted(model.sizes) == [(32, 48), (40, 48)]
    alone = Pools(pad_multiple=8).predict(images[:1, :, :29, :45], [sample((29, 45))])[0]
    assert torch.equal(together[0].pred_sem_seg.data, alone.pred_sem_seg.data)


def test_a_multiple_without_windows_is_no_unknown_setting():
    Pools(pad_multiple=56).check_test_cfg()
    with pytest.raises(ValueError, match="pad_multiples"):
        Pools(pad_multiples=56).check_test_cfg()
