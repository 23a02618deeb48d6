import json
import os
import subprocess
import sys

import pytest

from mmseg_plugins.cli import doctor
from mmseg_plugins.cli.main import main


def topics(findings):
    return {finding.topic: finding for finding in findings}


def test_working_installation_is_reported_as_such(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for topic in ("mmseg_plugins", "torch", "mmseg", "registration", "ops in use", "embedded model", "text cache"):
        assert topic in out
    assert "problem" not in out


def test_json_has_the_same_findings(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"topic", "state", "text", "remedy"} == set(findings[0])


def test_old_and_broken_packages_come_with_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", {"numpy": (("numpy",), "99.0"), "no_such_module": (("no-such",), "1.0")})
    found = topics(doctor._packages())
    assert found["numpy"].state == "problem"
    assert "numpy>=99.0" in found["numpy"].remedy
    assert "cannot be imported" in found["no-such"].text


def test_mixed_families_are_a_problem(monkeypatch):
    import mmseg_plugins.openmmlab as openmmlab

    monkeypatch.setattr(openmmlab, "_version", lambda name: "2.0.1")
    found = topics(doctor._openmmlab())
    assert found["registration"].state == "problem"
    assert "twice" in found["registration"].text


def test_a_check_that_fails_itself_is_a_problem_and_the_rest_goes_on(monkeypatch, capsys):
    def broken():
        raise OSError("disk on fire")
        yield

    monkeypatch.setattr(doctor, "_caches", broken)
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "disk on fire" in captured.out
    assert "network" in captured.out
    assert "1 to mend" in captured.err


def test_folders_that_cannot_be_written_to_are_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    for folder in (tmp_path, tmp_path / "new"):
        finding = doctor._folder("cache", folder, "Set X.")
        assert finding.state == "note"
        assert finding.remedy == "Set X."


def test_files_that_others_take_away_meanwhile_do_not_count(tmp_path, monkeypatch):
    for name in ("kept", "gone"):
        (tmp_path / name).write_bytes(bytes(10**6))

    def lstat(path):
        if os.path.basename(path) == "gone":
            os.remove(path)
        return os.stat(path, follow_symlinks=False)

    monkeypatch.setattr(doctor.os, "lstat", lstat)
    assert doctor._folder("cache", tmp_path, "Set X.").text.endswith("1 files, 1.0 MB")


def test_offline_switches_are_noted(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert topics(doctor._network())["network"].state == "note"


@pytest.mark.parametrize("verb", ["segment", "doctor"])
def test_help_is_quick_and_loads_nothing_heavy(verb):
    code = (
        f"import sys; from mmseg_plugins.cli.main import main\n"
        f"try: main([{verb!r}, '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'mmseg', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
