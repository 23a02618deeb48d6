import dataclasses
from pathlib import Path

import pytest

from mmseg_plugins.cases import Case, verify

CASES = sorted((Path(__file__).parents[1] / "fixtures" / "metrics").glob("*.json"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_figure_is_reproduced(path):
    if path.stem == "coco_instance_sample":
        pytest.importorskip("pycocotools", reason="instance AP is pycocotools' own")
    results = verify(Case.load(path))
    assert results
    assert not [result for result in results if not result.passed]


def changed(case, edit):
    spec = {key: (dict(value) if isinstance(value, dict) else value) for key, value in case.spec.items()}
    edit(spec)
    return dataclasses.replace(case, spec=spec)


@pytest.mark.parametrize(
    ("name", "edit", "stage"),
    [
        ("ade20k_sample", lambda s: s["sceneparsing"].update(mean_iou=0.0533), "sceneparsing"),
        ("ade20k_sample", lambda s: s["mmseg_IoUMetric"].update(area_pred=[0] * 150), "mmseg_IoUMetric.area_pred"),
        ("many_classes_847", lambda s: s["mmseg_IoUMetric"].update(per_class_iou={}), "mmseg_IoUMetric.per_class_iou"),
        ("panoptic_edge_cases", lambda s: s["counts"].update({"1": {"tp": 9}}), "counts.1"),
        ("coco_rle", lambda s: s.update(rle=[{**s["rle"][0], "counts": "Ym2"}, *s["rle"][1:]]), "rle"),
    ],
)
def test_a_wrong_figure_fails(name, edit, stage):
    case = Case.load(CASES[0].with_name(f"{name}.json"))
    failed = [result.name for result in verify(changed(case, edit)) if not result.passed]
    assert failed == [stage]


def test_figures_that_nobody_computes_fail():
    case = Case.load(CASES[0].with_name("boundary_iou_masks.json"))
    results = verify(changed(case, lambda spec: spec.update(another_evaluator={"mIoU": 3.0})))
    assert [(result.name, result.detail) for result in results if not result.passed] == [
        ("another_evaluator", "not produced")
    ]


def test_unknown_kinds_and_missing_samples_are_named(tmp_path):
    case = Case.load(CASES[0].with_name("boundary_iou_masks.json"))
    with pytest.raises(KeyError, match="coco_rle"):
        verify(changed(case, lambda spec: spec.update(kind="other")))
    moved = tmp_path / "a" / "b" / "case.json"
    moved.parent.mkdir(parents=True)
    moved.write_text(CASES[0].read_text())
    with pytest.raises(FileNotFoundError, match="samples/ade20k_sceneparsing"):
        verify(Case.load(moved))
