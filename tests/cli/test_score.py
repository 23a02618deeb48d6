import pytest

from mmseg_plugins.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("semantic", "--gt", "gone"), "--gt gone does not exist (looked in "),
        (("semantic", "--pred", "gone"), "--pred gone does not exist (looked in "),
        (("semantic", "--device", "nonsense"), "unknown device 'nonsense'. Use auto, cpu"),
        (("semantic", "--unseen", "binary"), "list of unseen classes binary is no UTF-8 text"),
        (("panoptic",), "expected panoptic.json or a single JSON in empty, found none"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").write_bytes(b"\x89PNG")
    task, *given = arguments
    places = ["--gt", "empty", "--pred", "empty"]  # the last one given counts
    assert main(["score", task, *places, "--classes", "ade20k_150", *given]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
