import json

import numpy as np
import pytest
import torch

from mmseg_plugins import cases
from mmseg_plugins.cases import Case, runner_module, verify
from mmseg_plugins.cli.main import main
from mmseg_plugins.fixture_weights import fill, tensor_for


def write_case(folder, *, stages=None, arrays=None, **spec):
    path = folder / "case.json"
    spec = {"method": "toy", "kind": "model", "weights_from": "fill", "overrides": [], "stages": stages or {}, **spec}
    path.write_text(json.dumps(spec))
    np.savez(path.with_suffix(".npz"), **(arrays or {}))
    return path


def output(**tolerance):
    return {
        "role": "output",
        "what": "",
        "shape": [],
        "dtype": "float32",
        "tolerance": {"atol": 0, "rtol": 0, **tolerance},
    }


def test_weights_do_not_depend_on_the_other_keys():
    assert np.array_equal(fill({"a.weight": [3, 4], "b.bias": [2]})["a.weight"], tensor_for("a.weight", (3, 4)))


def test_file_follows_select_strip_prefix_and_wrapper(tmp_path):
    entry = {"keys": "layout", "select": ["clip."], "strip": "clip.", "prefix": "module.", "wrapper": "state_dict"}
    case = Case.load(
        write_case(
            tmp_path,
            layout={"clip.bn.weight": [2], "head.weight": [1]},
            int_buffers={"clip.bn.num_batches_tracked": []},
            files={"checkpoint": entry},
        )
    )
    content = torch.load(case.write_file("checkpoint", tmp_path), weights_only=True)
    assert sorted(content["state_dict"]) == ["module.bn.num_batches_tracked", "module.bn.weight"]
    assert content["state_dict"]["module.bn.num_batches_tracked"].dtype == torch.int64


def test_overrides_scale_rows(tmp_path):
    rule = {"pattern": r".*in_proj_weight", "scale": 4, "rows": [0, 2]}
    case = Case.load(write_case(tmp_path, layout={"a.in_proj_weight": [3, 2]}, overrides=[rule]))
    plain = torch.from_numpy(tensor_for("a.in_proj_weight", (3, 2)))
    torch.testing.assert_close(case.weights["layout"]["a.in_proj_weight"], plain * torch.tensor([[4.0], [4.0], [1.0]]))


@pytest.mark.parametrize(
    ("got", "passed"),
    [
        (torch.tensor([1.0, 2.0]), True),
        (torch.tensor([1.0, 2.2]), False),
        (torch.tensor([1.0, float("nan")]), False),
        (torch.tensor([1.0, 2.0, 3.0]), False),
        (None, False),
    ],
)
def test_a_stage_that_differs_or_is_missing_fails(tmp_path, got, passed):
    path = write_case(tmp_path, stages={"x": output(atol=0.1)}, arrays={"x": np.array([1.0, 2.0], np.float32)})
    [result] = Case.load(path).compare({"x": got})
    assert result.passed is passed


def test_flips_are_allowed_up_to_the_stated_fraction(tmp_path):
    arrays = {"x": np.arange(10)}
    case = Case.load(write_case(tmp_path, stages={"x": output(max_mismatch=0.1)}, arrays=arrays))
    one, two = torch.arange(10), torch.arange(10)
    one[0], two[:2] = 5, 7
    assert case.compare({"x": one})[0].passed
    assert not case.compare({"x": two})[0].passed


def test_nan_and_infinity_match_themselves(tmp_path):
    arrays = {"x": np.array([np.nan, np.inf, -np.inf], np.float32)}
    case = Case.load(write_case(tmp_path, stages={"x": output()}, arrays=arrays))
    assert case.compare({"x": torch.tensor([float("nan"), float("inf"), float("-inf")])})[0].passed
    assert not case.compare({"x": torch.tensor([0.0, float("inf"), float("-inf")])})[0].passed


def test_unknown_method_is_named():
    with pytest.raises(KeyError, match="no_such_method"):
        runner_module("no_such_method")


def test_command_fails_when_nothing_was_compared(tmp_path, monkeypatch, capsys):
    path = write_case(tmp_path)
    monkeypatch.setattr(cases, "verify", lambda case, **kwargs: case.compare({}))
    assert main(["verify", str(path)]) == 1
    assert "no stage was compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.json", None, "does not exist"),
        ("bad.json", "{", "not valid JSON"),
        ("other.json", "[1]", "not a reference case"),
    ],
)
def test_bad_case_files_are_one_line(tmp_path, capsys, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["verify", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_damaged_arrays_are_named(tmp_path):
    path = tmp_path / "case.json"
    path.write_text(json.dumps({"method": "x", "kind": "y"}))
    np.savez_compressed(path.with_suffix(".npz"), a=np.arange(1000.0))
    whole = path.with_suffix(".npz").read_bytes()
    for content in (b"", b"no archive", whole[:100], whole[:200] + b"xxxx" + whole[204:]):
        path.with_suffix(".npz").write_bytes(content)
        with pytest.raises(ValueError, match="case.npz is damaged or no npz file"):
            Case.load(path)


def test_a_case_that_cannot_run_does_not_hide_the_others(tmp_path, monkeypatch, capsys):
    path = write_case(tmp_path, stages={"x": output()}, arrays={"x": np.zeros(2, np.float32)})
    monkeypatch.setattr(cases, "verify", lambda case, **kwargs: case.compare({"x": torch.zeros(2)}))
    paths = [str(tmp_path / "missing.json"), str(path)]
    assert main(["verify", *paths]) == 1
    shown = capsys.readouterr()
    assert f"{path}  (toy, model)  1 stages  ok" in shown.out
    assert "missing.json: error: " in shown.err
    assert "1 of 2 cases agree" in shown.err
    assert main(["verify", "--json", *paths]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [entry["passed"] for entry in report] == [False, True]
    assert "does not exist" in report[0]["error"]
    with pytest.raises(FileNotFoundError):
        main(["verify", "--debug", *paths])


def test_verify_imports_the_runner_of_the_method(tmp_path):
    path = write_case(tmp_path, method="no_such_method")
    with pytest.raises(KeyError, match="no_such_method"):
        verify(Case.load(path))
