import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_plugins.ops import _row_reduction
from mmseg_plugins.prediction.label_map import Scoring, label_map_from_logits, predict_label_map
from mmseg_plugins.prediction.windows import Windows, slide_logits


def network(classes, stride=4, seed=0):
    """A network that averages pixels and mixes their colours."""
    mix = torch.randn(classes, 3, generator=torch.Generator().manual_seed(seed))

    def forward(image):
        return torch.einsum("bchw,kc->bkhw", F.avg_pool2d(image, stride, ceil_mode=True), mix)

    return forward


def resize(logits, size):
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def mmseg_answer(full_logits, metas):
    """Labels of mmseg's own post-processing of full-size logits."""
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.structures import SegDataSample

    class Holder:
        align_corners = False

    samples = [SegDataSample(metainfo=meta) for meta in metas]
    EncoderDecoder.postprocess_result(Holder(), full_logits, samples)
    return [sample.pred_sem_seg.data[0] for sample in samples], [sample.seg_logits.data for sample in samples]


def sclip_scores(logits, row_class, scale, threshold, area):
    """The scoring of training_free methods with everything at full size: logits (N, H, W)."""
    shares = torch.softmax(scale * logits, 0)
    rows = torch.tensor(row_class)
    scores = torch.stack([shares[rows == k].amax(0) for k in range(max(row_class) + 1)])
    if area is not None:
        counts = torch.bincount(scores.argmax(0).flatten(), minlength=len(scores))
        for index in range(1, len(scores)):
            if counts[index] <= area * counts[1:].sum():
                scores[index] = 0
    best, labels = scores.max(0)
    return labels.masked_fill(best < threshold, 0), best


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(5, 60), st.integers(5, 60)),
    st.tuples(st.integers(1, 170), st.integers(1, 170)),
    st.integers(2, 45),
    st.sampled_from([None, "horizontal", "vertical"]),
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    st.booleans(),
)
def test_labels_equal_mmsegs_post_processing(size, ori_shape, classes, flip, padding, is_sliding):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *size)
    forward = network(classes)
    windows = Windows((17, 21), (9, 8), batch_size=100) if is_sliding else None
    full = slide_logits(forward, image, windows) if is_sliding else resize(forward(image), size)
    metas = [
        {"ori_shape": ori_shape, "padding_size": list(padding), "flip": flip is not None, "flip_direction": flip},
        {"ori_shape": (31, 40), "padding_size": [0, 0, 0, 0]},
    ]
    expected, expected_logits = mmseg_answer(full, metas)
    answers = predict_label_map(
        forward,
        image,
        ori_shape=[ori_shape, (31, 40)],
        padding=[padding, None],
        flip=[flip, None],
        windows=windows,
        return_logits=True,
    )
    for answer, labels, logits in zip(answers, expected, expected_logits, strict=True):
        assert torch.equal(answer.labels, labels)
        assert torch.equal(answer.logits, logits)


def test_steps_of_few_classes_change_nothing(monkeypatch):
    torch.manual_seed(1)
    image, forward = torch.randn(1, 3, 90, 70), network(37)
    settings = {
        "ori_shape": (120, 131),
        "windows": Windows((40, 40), (20, 20)),
        "row_class": [n // 2 for n in range(37)],
    }
    before = predict_label_map(forward, image, return_probability=True, **settings)[0]
    monkeypatch.setattr(_row_reduction, "_ELEMENTS_PER_STEP", 1)
    after = predict_label_map(forward, image, return_probability=True, **settings)[0]
    assert torch.equal(before.labels, after.labels)
    torch.testing.assert_close(before.probability, after.probability)


def test_direct_order_is_one_resize():
    torch.manual_seed(0)
    image, forward = torch.randn(1, 3, 64, 48), network(9)
    answer = predict_label_map(forward, image, ori_shape=(200, 150), resize_order="direct")[0]
    assert torch.equal(answer.labels, resize(forward(image), (200, 150))[0].argmax(0))
    two_steps = predict_label_map(forward, image, ori_shape=(200, 150))[0]
    expected = resize(resize(forward(image), (64, 48)), (200, 150))[0].argmax(0)
    assert torch.equal(two_steps.labels, expected)
    assert not torch.equal(two_steps.labels, answer.labels)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("area", [None, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("size", [(40, 44), (70, 80)])
def test_background_rules_equal_the_plain_form(threshold, area, size):
    torch.manual_seed(5)
    row_class = [0, 0, 0, 1, 2, 2, 3, 4, 5, 5]
    image, forward = torch.randn(1, 3, 40, 44), network(10)
    scoring = Scoring(logit_scale=5.0, threshold=threshold, area_threshold=area)
    answer = predict_label_map(
        forward, image, row_class=row_class, ori_shape=size, scoring=scoring, return_probability=True
    )[0]
    full = resize(resize(forward(image), (40, 44)), size)[0]
    labels, best = sclip_scores(full, row_class, 5.0, threshold, area)
    clear = (best - threshold).abs() > 1e-5
    assert torch.equal(answer.labels[clear], labels[clear])
    torch.testing.assert_close(answer.probability, best, rtol=1e-4, atol=1e-6)


def test_background_without_rows_can_take_everything():
    answer = predict_label_map(
        network(3),
        torch.randn(1, 3, 16, 16),
        row_class=[1, 2, 3],
        num_classes=4,
        scoring=Scoring(area_threshold=1.0, threshold=0.2),
        return_probability=True,
    )[0]
    assert answer.labels.eq(0).all()
    assert answer.probability.eq(0).all()


def test_refinement_sees_logits_at_the_original_size_before_scoring():
    torch.manual_seed(0)
    image, forward = torch.randn(1, 3, 32, 32), network(6)
    shapes = set()

    def blur(rows):
        shapes.add(tuple(rows.shape[1:]))
        return F.avg_pool2d(rows[None], 3, 1, 1)[0]

    answer = predict_label_map(forward, image, ori_shape=(50, 60), refine=blur)[0]
    full = resize(resize(forward(image), (32, 32)), (50, 60))
    assert shapes == {(50, 60)}
    assert torch.equal(answer.labels, F.avg_pool2d(full, 3, 1, 1)[0].argmax(0))


def test_a_batch_gives_what_its_images_give_one_by_one():
    torch.manual_seed(0)
    images, forward = torch.randn(3, 3, 40, 30), network(7)
    windows = Windows((16, 16), (8, 8), batch_size=4)
    together = predict_label_map(forward, images, windows=windows, ori_shape=(50, 55))
    for image, answer in zip(images, together, strict=True):
        alone = predict_label_map(forward, image[None], windows=windows, ori_shape=(50, 55))[0]
        assert torch.equal(alone.labels, answer.labels)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_extreme_images(size):
    answer = predict_label_map(network(5), torch.randn(1, 3, *size), windows=Windows((32, 32), (16, 16)))[0]
    assert tuple(answer.labels.shape) == size


def test_logits_of_one_image_without_a_network():
    logits = torch.randn(4, 6, 7)
    answer = label_map_from_logits(logits, input_size=(60, 70), padding=(0, 6, 0, 5), ori_shape=(33, 31))
    full = resize(logits[None], (60, 70))[..., :55, :64]
    assert torch.equal(answer.labels, resize(full, (33, 31))[0].argmax(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ori_shape": [(4, 4)] * 3}, "one ori_shape for each of the 2 images"),
        ({"padding": [(9, 9, 0, 0)] * 2}, "does not fit"),
        ({"flip": ["diagonal"] * 2}, '"horizontal", "vertical"'),
        ({"row_class": [0, 1]}, "one class for each of the 5 rows"),
        ({"ori_shape": (0, 4)}, "at least one pixel"),
        ({"scoring": Scoring(threshold=0.5, background_index=7)}, "background class among the 5"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        predict_label_map(network(5), torch.randn(2, 3, 16, 16), **options)


@pytest.mark.parametrize(
    "options", [{"threshold": 2.0}, {"area_threshold": -0.1}, {"softmax": "x"}, {"logit_scale": 0}]
)
def test_wrong_scoring_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Scoring(**options)
