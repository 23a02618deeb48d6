import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmseg_plugins.masks.oracle import OracleProposals
from mmseg_plugins.masks.proposals import ProposalRequest
from mmseg_plugins.masks.run_lengths import RunLengthMasks
from tests.segmentors.test_mask import build

MASKS = torch.zeros(2, 4, 6, dtype=torch.bool)
MASKS[0, :2], MASKS[1, 2:, :3] = True, True


def request_of(*samples, size=(4, 6), padded=(8, 8)):
    return ProposalRequest(
        images=torch.zeros(len(samples), 3, *padded), image_sizes=[size] * len(samples), stages=None, text=None,
        data_samples=list(samples), mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip


def annotated(masks=MASKS, labels=(3, 1)):
    sample = SegDataSample()
    sample.gt_instances = InstanceData(masks=masks, labels=torch.tensor(labels, dtype=torch.long))
    return sample


def test_annotated_segments_are_the_masks_and_their_number_may_differ():
    empty = annotated(MASKS[:0], ())
    found, nothing = OracleProposals().propose(request_of(annotated(), empty))
    assert found.covers == "image"
    assert torch.equal(found.mask_logits > 0, MASKS)
    assert found.extras["labels"].tolist() == [3, 1]
    assert torch.equal(found.poolable.decode()[:, :4, :6], MASKS)
    assert len(nothing.mask_logits) == len(nothing.poolable) == 0


@pytest.mark.parametrize("unclaimed", ["none", "components"])
def test_masks_are_decoded_for_the_outputs_alone_one_image_at_a_time(monkeypatch, unclaimed):
    """Every image's masks are pooled as run lengths; a dense tensor exists after that, and of one image only."""
    calls = []
    for name, step in (("pool", RunLengthMasks.pool), ("logits", RunLengthMasks.logits)):
        monkeypatch.setattr(RunLengthMasks, name, lambda self, *a, n=name, f=step: calls.append(n) or f(self, *a))
    proposals = {"type": "OracleProposals", "unclaimed": unclaimed}
    classifier = {"type": "MaskPoolingClassifier", "resize": "features"}
    model = build(kind="oracle", proposals=proposals, mask_classifier=classifier)
    samples = [annotated(MASKS.repeat_interleave(8, 1).repeat_interleave(8, 2)) for _ in range(2)]
    [first, _] = model.predict(torch.randn(2, 3, 32, 48), samples)
    assert calls == ["pool", "logits", "pool", "logits"]
    assert first.pred_sem_seg.data.shape == (1, 32, 48)


def test_unlabelled_pixels_can_be_masks_too():
    found = OracleProposals(unclaimed="mask").propose(request_of(annotated()))[0]
    assert found.extras["labels"].tolist() == [3, 1, -1]
    assert (found.mask_logits > 0).sum(0).eq(1).all()


def test_masks_of_the_original_size_are_padded_as_the_input_is():
    found = OracleProposals().propose(request_of(annotated(), size=(8, 12), padded=(16, 16)))[0]
    assert found.poolable.size == (8, 8)


def test_classes_of_a_semantic_map():
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[5, 5, 255], [2, 2, 2]]]))
    found = OracleProposals(annotation="classes").propose(request_of(sample, size=(2, 3)))[0]
    assert found.extras["labels"].tolist() == [2, 5]
    assert (found.mask_logits > 0).tolist() == [[[False] * 3, [True] * 3], [[True, True, False], [False] * 3]]


def test_missing_ground_truth_and_wrong_options_are_named():
    with pytest.raises(ValueError, match="oracle masks need gt_instances, but the sample of an image has none"):
        OracleProposals().propose(request_of(SegDataSample()))
    with pytest.raises(ValueError, match="annotation to be one of"):
        OracleProposals(annotation="boxes")
