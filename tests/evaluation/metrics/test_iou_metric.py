import copy

import numpy as np
import pytest
import torch
from mmseg.evaluation.metrics import IoUMetric
from mmseg.registry import METRICS

from mmseg_plugins.evaluation.metrics import OpenVocabularyIoUMetric
from tests.evaluation.metrics.samples import META, NUM_CLASSES, semantic_sample


def filled(metric, samples, meta=META):
    metric.dataset_meta = meta
    for sample in samples:
        metric.process({}, [sample])
    return metric


@pytest.fixture
def samples():
    return [semantic_sample(number) for number in range(4)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iou_metrics": ["mIoU", "mDice", "mFscore"]},
        {"iou_metrics": ["mFscore"], "beta": 2},
        {"nan_to_num": 0},
        {"nan_to_num": -1, "iou_metrics": ["mDice"]},
        {"ignore_index": 2},
    ],
)
def test_keys_and_values_are_those_of_mmseg(samples, options):
    want = filled(IoUMetric(**options), samples).evaluate(4)
    got = filled(OpenVocabularyIoUMetric(**options, strict=False), samples).evaluate(4)
    assert list(got)[: len(want)] == list(want)
    for key, value in want.items():
        assert got[key] == pytest.approx(float(value), abs=0.0101)  # mmseg rounds after float32 sums


def test_table_per_class_is_that_of_mmseg(samples):
    ours = filled(OpenVocabularyIoUMetric(iou_metrics=["mIoU", "mDice"]), samples)
    ours.evaluate(4)
    theirs = filled(IoUMetric(iou_metrics=["mIoU", "mDice"]), samples)
    totals = [sum(parts) for parts in zip(*theirs.results, strict=True)]
    for figure, values in IoUMetric.total_area_to_metrics(*totals, metrics=["mIoU", "mDice"]).items():
        if figure != "aAcc":
            np.testing.assert_allclose(ours.summary.per_class[figure], values, rtol=1e-6)


def test_both_register_in_mmseg_under_their_names():
    metric = METRICS.build({"type": "OpenVocabularyIoUMetric", "absent": "skip", "unseen": ["class 1"]})
    assert isinstance(metric, OpenVocabularyIoUMetric)
    for name in ("PanopticQualityMetric", "BoundaryIoUMetric", "InstanceAPMetric"):
        assert METRICS.get(name) is not None


@pytest.mark.parametrize("absent", ["error", "skip", "zero"])
def test_rule_and_number_of_classes_go_with_the_result(samples, absent, monkeypatch):
    lines = []
    monkeypatch.setattr("mmseg_plugins.evaluation.metrics.iou_metric.print_log", lambda text, **_: lines.append(text))
    metric = filled(OpenVocabularyIoUMetric(absent=absent), samples)
    result = metric.evaluate(4)
    classes = {"error": 7, "skip": 6, "zero": 7}[absent]
    assert result[f"mIoU_classes_absent_{absent}"] == classes
    assert any(f"mIoU over {classes} of 7 classes, absent='{absent}'" in line for line in lines)
    assert result["mIoU"] == round(100 * metric.summary.figures["mIoU"], 2)
    assert result["mIoU_unrounded"] == 100 * metric.summary.figures["mIoU"]


def test_harmonic_mean_takes_names_or_indices(samples):
    by_name = filled(OpenVocabularyIoUMetric(unseen=["class 1", "class 4"]), samples).evaluate(4)
    by_index = filled(OpenVocabularyIoUMetric(unseen=[1, 4]), samples).evaluate(4)
    assert by_name == by_index
    assert {"hIoU", "mIoU_seen", "mIoU_unseen"} <= set(by_name)
    with pytest.raises(ValueError, match="neither class names nor indices"):
        filled(OpenVocabularyIoUMetric(unseen=["zebra"]), samples).evaluate(4)


def test_totals_are_one_int64_tensor_and_do_not_grow(samples):
    metric = filled(OpenVocabularyIoUMetric(), samples[:1])
    before = metric._totals.shape
    filled(metric, samples * 5)
    assert metric._totals.shape == before == (3, NUM_CLASSES + 1)
    assert metric._totals.dtype == torch.int64
    assert metric.results == []
    assert metric._unchecked == []


def test_metric_starts_anew_after_an_evaluation(samples):
    metric = filled(OpenVocabularyIoUMetric(), samples)
    first = metric.evaluate(4)
    assert filled(metric, samples).evaluate(4) == first


def test_batches_and_single_samples_agree(samples):
    metric = OpenVocabularyIoUMetric()
    metric.dataset_meta = META
    metric.process({}, samples)
    assert metric.evaluate(4) == filled(OpenVocabularyIoUMetric(), samples).evaluate(4)


@pytest.mark.parametrize("size", [3, 5])
def test_another_number_of_samples_than_the_data_set_has_is_refused(samples, size):
    with pytest.raises(ValueError, match=rf"counted 4 samples but the data set has {size}.*round_up=False"):
        filled(OpenVocabularyIoUMetric(), samples).evaluate(size)


def test_prefix_goes_before_every_key(samples):
    result = filled(OpenVocabularyIoUMetric(prefix="val"), samples).evaluate(4)
    assert all(key.startswith("val/") for key in result)


def edited(sample, name, value):
    sample = copy.deepcopy(sample)
    sample[name]["data"][0, 5, 5] = value
    sample["img_path"] = "broken.jpg"
    return sample


def test_labels_that_are_no_class_are_an_error_that_names_the_file(samples):
    with pytest.raises(ValueError, match=r"broken\.jpg: 1 pixels have labels.*7 classes.*255"):
        filled(OpenVocabularyIoUMetric(), [edited(samples[0], "gt_sem_seg", 31)])


def test_predictions_beyond_the_classes_are_an_error_that_names_the_file(samples):
    with pytest.raises(ValueError, match=r"broken\.jpg: the prediction holds values 0\.\.31 but there are 7 classes"):
        filled(OpenVocabularyIoUMetric(), [edited(samples[0], "pred_sem_seg", 31)])


def test_not_strict_treats_stray_values_as_mmseg_does(samples):
    stray = [edited(samples[0], "gt_sem_seg", 31), edited(samples[1], "pred_sem_seg", 44)]
    want = filled(IoUMetric(), stray).evaluate(2)
    got = filled(OpenVocabularyIoUMetric(strict=False), stray).evaluate(2)
    assert got["mIoU"] == pytest.approx(float(want["mIoU"]), abs=0.0101)
    assert got["aAcc"] == pytest.approx(float(want["aAcc"]), abs=0.0101)


def test_predictions_beyond_the_last_class_fold_into_it(samples):
    sample = edited(samples[0], "pred_sem_seg", 58)
    folded = edited(samples[0], "pred_sem_seg", NUM_CLASSES - 1)
    want = filled(OpenVocabularyIoUMetric(), [folded]).evaluate(1)
    assert filled(OpenVocabularyIoUMetric(fold_last=True), [sample]).evaluate(1) == want


def test_unanswered_pixels_count_as_wrong(samples):
    sample = edited(samples[0], "pred_sem_seg", 255)
    assert (
        filled(OpenVocabularyIoUMetric(), [sample]).evaluate(1)["aAcc"]
        <= (filled(OpenVocabularyIoUMetric(), samples[:1]).evaluate(1)["aAcc"])
    )


def test_maps_of_different_size_are_named(samples):
    sample = copy.deepcopy(samples[0])
    sample["pred_sem_seg"]["data"] = sample["pred_sem_seg"]["data"][:, :10]
    with pytest.raises(ValueError, match=r"image_0\.jpg.*\(10, 23\).*\(19, 23\)"):
        filled(OpenVocabularyIoUMetric(), [sample])


def test_ignore_value_among_the_classes_is_refused():
    meta = {"classes": tuple(map(str, range(300)))}
    with pytest.raises(ValueError, match="ignore_index=255 is one of the 300 classes.*65535"):
        filled(OpenVocabularyIoUMetric(), [semantic_sample(0, 300)], meta)


@pytest.mark.parametrize("num_classes", [300, 847])
def test_many_classes_with_16_bit_ignore(num_classes):
    meta = {"classes": tuple(map(str, range(num_classes)))}
    samples = [semantic_sample(number, num_classes, 65535) for number in range(3)]
    want = filled(IoUMetric(ignore_index=65535), samples, meta).evaluate(3)
    got = filled(OpenVocabularyIoUMetric(ignore_index=65535), samples, meta).evaluate(3)
    assert got["mIoU"] == pytest.approx(float(want["mIoU"]), abs=0.0101)


def test_deferred_check_finds_the_file_at_the_end(samples, monkeypatch):
    monkeypatch.setattr(OpenVocabularyIoUMetric, "_check_values", lambda self: None)
    metric = filled(OpenVocabularyIoUMetric(), [*samples, edited(samples[0], "gt_sem_seg", 31)])
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        metric.evaluate(5)


def test_predictions_are_saved_and_format_only_computes_nothing(samples, tmp_path):
    metric = filled(OpenVocabularyIoUMetric(output_dir=str(tmp_path), format_only=True), samples)
    assert metric.evaluate(4) == {}
    assert len(list((tmp_path / "predictions").glob("*.png"))) == 4
    with pytest.raises(ValueError, match="needs output_dir"):
        OpenVocabularyIoUMetric(format_only=True)


@pytest.mark.parametrize("options", [{"absent": "drop"}, {"iou_metrics": ["mAP"]}])
def test_unknown_options_are_listed(options):
    with pytest.raises(ValueError, match="expected absent one of"):
        OpenVocabularyIoUMetric(**options)


def test_missing_metainfo_is_named(samples):
    metric = OpenVocabularyIoUMetric()
    with pytest.raises(ValueError, match="dataset_meta"):
        metric.process({}, samples)
