import pytest

from mmseg_plugins import openmmlab


def test_installed_family_is_accepted():
    openmmlab.check_openmmlab()


def test_missing_library_names_both_remedies(monkeypatch):
    monkeypatch.setattr(openmmlab.importlib.util, "find_spec", lambda name: None if name == "mmcv" else object())
    with pytest.raises(ImportError, match=r"'mmcv'.*not installed.*\[onedl\].*\[openmmlab\]"):
        openmmlab.check_openmmlab()


def test_too_old_library_is_named_with_its_version(monkeypatch):
    versions = {"mmengine": "0.10.7", "mmcv": "2.1.0", "mmsegmentation": "1.0.0"}
    monkeypatch.setattr(openmmlab, "_version", versions.get)
    with pytest.raises(ImportError, match=r"mmsegmentation 1\.0\.0 is too old.*1\.2\.0"):
        openmmlab.check_openmmlab()


def test_mixed_families_are_refused(monkeypatch):
    versions = {
        "onedl-mmengine": "0.10.12",
        "mmengine": "0.10.7",
        "onedl-mmcv": "2.3.6",
        "onedl-mmsegmentation": "1.4.2",
    }
    monkeypatch.setattr(openmmlab, "_version", versions.get)
    with pytest.raises(ImportError, match="installed twice, by mmengine and onedl-mmengine"):
        openmmlab.check_openmmlab()


@pytest.mark.parametrize(("text", "numbers"), [("1.2.0rc1", (1, 2, 0)), ("2.3.6", (2, 3, 6)), ("0.10", (0, 10))])
def test_version_numbers(text, numbers):
    assert openmmlab._numbers(text) == numbers
