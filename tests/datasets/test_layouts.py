from pathlib import Path

import pytest

from mmseg_plugins.datasets.benchmarks import RECORDS, get_record
from mmseg_plugins.datasets.layouts import data_roots, locate_split
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

CASES = [
    (name, layout.name, folder, split)
    for name, record in RECORDS.items()
    for layout in record.layouts
    for folder in layout.folders
    for split in layout.splits
]


def touch_split(record, layout, folder, split, root):
    files = next(known for known in record.layouts if known.name == layout).splits[split]
    for path in files.paths:
        target = root / folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(path).suffix in (".txt", ".json"):
            target.write_text("")
        else:
            target.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(("name", "layout", "folder", "split"), CASES)
def test_every_layout_is_found_at_every_place(tmp_path, name, layout, folder, split):
    record = get_record(name)
    touch_split(record, layout, folder, split, tmp_path)
    located = locate_split(record, tmp_path, split=split, layout=layout)
    assert located.layout == layout
    for path in located.files.paths:
        assert Path(located.path(path)).exists()
    assert locate_split(record, tmp_path, split=split).folder == located.folder or len(record.layouts) > 1


def test_both_layouts_there_takes_the_first(tmp_path):
    record = get_record("ade20k_150")
    touch_split(record, "mmseg", "ade/ADEChallengeData2016", "val", tmp_path)
    touch_split(record, "detectron2", "ADEChallengeData2016", "val", tmp_path)
    assert locate_split(record, tmp_path).encoding.rule == "reduce_zero"
    assert locate_split(record, tmp_path, layout="detectron2").encoding.rule == "as_stored"


def test_message_lists_what_was_looked_for(tmp_path):
    (tmp_path / "coco_stuff164k/images/val2017").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as caught:
        locate_split(get_record("coco_stuff164k"), tmp_path)
    text = str(caught.value)
    assert f"[mmseg] {tmp_path}/coco_stuff164k: missing annotations/val2017" in text
    assert "[detectron2]" in text
    assert "stuffthingmaps_detectron2/val2017" in text
    assert "mmseg-plugins prepare coco_stuff164k --root DIR" in text


def test_without_a_root_the_environment_is_searched_first(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.delenv("MMSEG_PLUGINS_DATA", raising=False)
    assert data_roots() == [tmp_path, Path("data"), Path("datasets")]
    assert data_roots("x") == [Path("x")]
    record = get_record("context459")
    touch_split(record, "detectron2", "pascal_ctx_d2", "val", tmp_path)
    assert locate_split(record).layout == "detectron2"


@pytest.mark.parametrize(("keywords", "message"), [({"split": "all"}, "train, val"), ({"layout": "coco"}, "mmseg")])
def test_unknown_split_or_layout_lists_the_known_ones(tmp_path, keywords, message):
    with pytest.raises(ValueError, match=message):
        locate_split(get_record("context59"), tmp_path, **keywords)


def test_unknown_benchmark_gets_a_suggestion():
    with pytest.raises(KeyError, match="Did you mean 'ade20k_847'"):
        get_record("ade20k847")


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_records_agree_with_their_class_files(name):
    record = RECORDS[name]
    count = len(load_benchmark(record.class_file)["classes"]) + len(record.extra_classes)
    for layout in record.layouts:
        assert count <= layout.encoding.ignore_index
        assert layout.encoding.ignore_index < 2**layout.encoding.bits
        assert set(layout.splits) >= {"train", "val"}
    assert set(record.counts) >= set(record.splits) - {"test"}
    assert "http" in record.release
