import json
from pathlib import Path

import pytest
import torch

from mmseg_plugins.evaluation.boundary import semantic_boundary_areas
from mmseg_plugins.evaluation.metrics import BoundaryIoUMetric, InstanceAPMetric, PanopticQualityMetric
from mmseg_plugins.evaluation.panoptic import PanopticCounts, Segments, panoptic_counts
from mmseg_plugins.evaluation.panoptic_files import read_panoptic_json
from mmseg_plugins.evaluation.panoptic_summary import summarize_panoptic
from mmseg_plugins.evaluation.rle import decode_mask
from mmseg_plugins.evaluation.semantic_summary import summarize_semantic
from mmseg_plugins.vocabulary.benchmarks import load_benchmark
from tests.evaluation.metrics.samples import META, NUM_CLASSES, instance_sample, panoptic_sample, semantic_sample

FIXTURES = Path(__file__).parents[2] / "fixtures"
COCO = FIXTURES / "samples" / "coco_panoptic"


def coco_meta():
    content = load_benchmark("coco_panoptic")
    return {key: content[key] for key in ("classes", "isthing", "dataset_ids")}


def evaluated(metric, samples, meta=META):
    metric.dataset_meta = meta
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_boundary_iou_is_that_of_the_summed_areas():
    samples = [semantic_sample(number) for number in range(4)]
    result = evaluated(BoundaryIoUMetric(), samples)
    areas = [
        semantic_boundary_areas(s["pred_sem_seg"]["data"][0], s["gt_sem_seg"]["data"][0], NUM_CLASSES) for s in samples
    ]
    summary = summarize_semantic(sum(areas[1:], start=areas[0]))
    assert result["mBIoU_unrounded"] == 100 * summary.figures["mIoU"]
    assert result["mBIoU_classes_absent_error"] == 7
    with pytest.raises(ValueError, match="expected one of"):
        BoundaryIoUMetric(absent="no")
    with pytest.raises(ValueError, match="positive"):
        BoundaryIoUMetric(dilation_ratio=-1)


def coco_samples(truth, result, meta):
    index = {category: number for number, category in enumerate(meta["dataset_ids"])}
    for image_id in truth.images:
        info = result.images[image_id]["segments_info"]
        yield {
            "img_path": f"{image_id}.jpg",
            "img_id": image_id,
            "pred_panoptic_seg": {
                "data": torch.from_numpy(result.read_ids(image_id)).long()[None],
                "segments_info": [{"id": e["id"], "category_id": index[e["category_id"]]} for e in info],
            },
        }


def test_panoptic_figures_of_the_published_evaluators_from_the_json():
    meta = coco_meta()
    truth = COCO / "annotations" / "panoptic_examples.json"
    samples = list(
        coco_samples(read_panoptic_json(truth), read_panoptic_json(COCO / "predictions_perturbed.json"), meta)
    )
    result = evaluated(PanopticQualityMetric(ann_file=str(truth), boundary=True), samples, meta)
    want = json.loads((FIXTURES / "metrics" / "coco_panoptic_sample.json").read_text())
    for kind, evaluator in (("", "panopticapi"), ("boundary_", "boundary_iou_api")):
        for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
            for figure in ("pq", "sq", "rq"):
                got = result[f"{kind}{figure.upper()}{suffix}"]
                assert got == pytest.approx(100 * want[evaluator][group][figure], abs=1e-9)
        assert result[f"{kind}PQ_classes"] == want[evaluator]["All"]["n"]


def test_panoptic_figures_from_samples_equal_the_function():
    samples = [panoptic_sample(number) for number in range(5)]
    result = evaluated(PanopticQualityMetric(), samples)
    total = PanopticCounts.zeros(NUM_CLASSES)
    for sample in samples:
        predicted, labelled = sample["pred_panoptic_seg"], sample["gt_panoptic_seg"]
        total = total + panoptic_counts(
            predicted["data"][0],
            Segments.from_info(predicted["segments_info"]),
            labelled["data"][0],
            Segments.from_info(labelled["segments_info"]),
            NUM_CLASSES,
        )
    want = summarize_panoptic(total, META["isthing"])
    assert result["PQ"] == 100 * want.averages["All"].pq
    assert result["PQ_st"] == 100 * want.averages["Stuff"].pq


def test_panoptic_samples_that_do_not_fit_are_named():
    sample = panoptic_sample(1)
    sample["pred_panoptic_seg"]["segments_info"][0]["category_id"] = 92
    with pytest.raises(ValueError, match=r"image_1\.jpg: predicted segments have classes \[92\].*class index"):
        evaluated(PanopticQualityMetric(), [sample])
    sample = panoptic_sample(2)
    sample["pred_panoptic_seg"]["segments_info"].pop()
    with pytest.raises(ValueError, match=r"image_2\.jpg: segment ids"):
        evaluated(PanopticQualityMetric(), [sample])
    sample = panoptic_sample(3)
    del sample["gt_panoptic_seg"]
    with pytest.raises(ValueError, match="no gt_panoptic_seg"):
        evaluated(PanopticQualityMetric(), [sample])
    with pytest.raises(ValueError, match="isthing"):
        evaluated(PanopticQualityMetric(), [panoptic_sample(4)], {"classes": META["classes"]})


def test_panoptic_image_that_the_json_does_not_list_is_named():
    truth = COCO / "annotations" / "panoptic_examples.json"
    with pytest.raises(ValueError, match=r"image_1\.jpg: .*panoptic_examples\.json does not list image 1"):
        evaluated(PanopticQualityMetric(ann_file=str(truth)), [panoptic_sample(1)], coco_meta())


def test_instance_figures_of_pycocotools_from_the_json():
    pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")
    meta = coco_meta()
    results = json.loads((COCO / "instances_results.json").read_text())
    samples = []
    for image_id in dict.fromkeys(entry["image_id"] for entry in results):
        entries = [entry for entry in results if entry["image_id"] == image_id]
        samples.append(
            {
                "img_path": f"{image_id}.jpg",
                "img_id": image_id,
                "pred_instances": {
                    "masks": torch.stack([torch.from_numpy(decode_mask(e["segmentation"])) for e in entries]),
                    "labels": torch.tensor([meta["dataset_ids"].index(e["category_id"]) for e in entries]),
                    "scores": torch.tensor([e["score"] for e in entries], dtype=torch.float64),
                },
            }
        )
    metric = InstanceAPMetric(ann_file=str(COCO / "instances_gt.json"), boundary=True)
    result = evaluated(metric, samples, meta)
    want = json.loads((FIXTURES / "metrics" / "coco_instance_sample.json").read_text())
    for kind, evaluator in (("", "segm"), ("boundary_", "boundary")):
        for figure, value in want[evaluator].items():
            expected = value if value < 0 else 100 * value
            assert result[f"{kind}{figure}"] == pytest.approx(expected, abs=1e-9)


def test_instance_figures_from_samples():
    pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")
    samples = [instance_sample(number) for number in range(3)]
    for sample in samples:
        sample["pred_instances"]["masks"][:3] = sample["gt_instances"]["masks"]
    result = evaluated(InstanceAPMetric(), samples)
    assert result["AP"] == pytest.approx(100)


def test_only_the_best_hundred_detections_of_an_image_are_kept():
    pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")
    sample = instance_sample(0)
    count = 130
    sample["pred_instances"] = {
        "masks": sample["gt_instances"]["masks"][:1].expand(count, -1, -1),
        "labels": torch.zeros(count, dtype=torch.long),
        "scores": torch.arange(count) / count,
    }
    metric = InstanceAPMetric()
    metric.dataset_meta = META
    metric.process({}, [sample])
    scores = [entry["score"] for entry in metric.results[0]["results"]]
    assert len(scores) == 100
    assert min(scores) == pytest.approx(30 / count)
