import json

import pytest
from mmengine.config import Config

from mmseg_plugins.api.configs import find_config
from mmseg_plugins.cli.main import main
from mmseg_plugins.evaluation.published import compare, find_result, read_results
from mmseg_plugins.evaluation.published_run import build_config
from mmseg_plugins.towers.weights import find_record

RESULTS = read_results()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["shapes", "--out", str(folder), "--split", "validation", "--count", "4", "--seed", "5"]) == 0
    return folder


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.name)
def test_shipped_records_name_a_config_of_their_benchmark_and_weights_that_exist(result):
    config = Config.fromfile(find_config(result.config))
    assert config.test_dataloader.dataset.type
    assert config.test_dataloader.dataset.split == result.split
    assert 0 < result.value < 100
    assert result.harness
    clip = config.model.clip
    assert f"{clip.model}/{clip.pretrained}" in {find_record(name).name for name in result.weights}
    build_config(find_config(result.config), result.options, None, "x")


def test_maskclip_rows_are_those_of_the_release():
    values = {result.name: result.value for result in RESULTS}
    assert values["maskclip_vit-b16_context59"] == 21.7
    assert values["maskclip_rn50x16_voc20"] == 50.9
    assert values["maskclip_vit-b16-kspd_coco-stuff164k"] == 14.6


def test_options_switch_single_refinements_on():
    result = find_result("maskclip_vit-b16-ks_context59", RESULTS)
    config = build_config(find_config(result.config), result.options, "somewhere", "x")
    assert (config.model.ks_thresh, config.model.pd_thresh) == (1.0, 0.0)
    assert config.test_dataloader.dataset.data_root == "somewhere"
    assert "val_dataloader" not in config


def test_difference_decides_whether_it_is_reproduced():
    result = find_result("maskclip_vit-b16_context59", RESULTS)
    assert compare(result, {"mIoU": 21.5}).is_reproduced
    assert not compare(result, {"mIoU": 20.0}).is_reproduced
    assert compare(result, {"mIoU": 21.5, "mIoU_unrounded": 21.4999}).measured == 21.4999
    with pytest.raises(KeyError, match="gave no 'mIoU'"):
        compare(result, {"PQ": 1})


def write_records(path, **changes):
    record = {
        "name": "embedded", "method": "maskclip", "config": "maskclip_shapes-vit_shapesworld-64x64",
        "benchmark": None, "value": 50.0, "source": "this test", "harness": "generated scenes", "tolerance": 50.0,
    }  # fmt: skip
    path.write_text(json.dumps([{**record, **changes}]))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"miou": 3}, "embedded has the unknown fields miou"),
        ({"benchmark": "ade"}, "unknown benchmark 'ade'"),
    ],
)
def test_records_with_wrong_fields_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_results(write_records(tmp_path / "a.json", **changes))


def test_incomplete_and_repeated_records_are_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"name": "x"}]))
    with pytest.raises(ValueError, match="x is incomplete: .*'method'"):
        read_results(path)
    write_records(path)
    path.write_text(json.dumps(json.loads(path.read_text()) * 2))
    with pytest.raises(ValueError, match="has embedded twice"):
        read_results(path)


def test_a_missing_data_set_is_said_before_anything_runs(tmp_path, capsys):
    assert main(["reproduce", "maskclip_vit-b16_context59", "--data", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "data       MISSING" in output.err
    assert "mmseg-plugins prepare context59" in output.err
    assert "published mIoU 21.7" in output.err
    assert output.out == ""


def test_a_missing_checkpoint_and_config_are_said(tmp_path, capsys):
    records = write_records(tmp_path / "a.json", checkpoint="released.pth from the authors", config="no_such_config")
    assert main(["reproduce", "embedded", "--records", str(records)]) == 1
    error = capsys.readouterr().err
    assert "config     MISSING  no_such_config" in error
    assert "released.pth from the authors; give the file with --checkpoint" in error


def test_unknown_results_get_a_suggestion(capsys):
    assert main(["reproduce", "maskclip_vit_context59"]) == 1
    assert "maskclip_vit-b16_context59" in capsys.readouterr().err


def test_list_shows_figures_and_sources(capsys):
    assert main(["reproduce", "--list"]) == 0
    assert "maskclip_vit-b16_voc20" in capsys.readouterr().out


def test_measured_and_published_figures_stand_side_by_side(tmp_path, capsys, scenes):
    records = write_records(tmp_path / "a.json")
    arguments = ["--records", str(records), "--work-dir", str(tmp_path / "work"), "--data", str(scenes)]
    capsys.readouterr()
    assert main(["reproduce", "embedded", *arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["published"] == 50.0
    assert report["reproduced"]
    assert 20 < report["measured"] < 100
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["num_images"] == 4
    assert manifest["config_sha256"]
    assert len(manifest["templates"]) == 80
    write_records(records, tolerance=0.0)
    assert main(["reproduce", "embedded", *arguments]) == 1
    assert "published 50.0" in capsys.readouterr().out
