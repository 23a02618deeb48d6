import pytest
import torch

from mmseg_plugins.cli.main import main
from mmseg_plugins.towers.files import read_metadata, read_tensors
from tests.towers.hostile import write_hostile, write_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


def test_torchscript_archives_become_safetensors_with_the_same_tensors(tmp_path, capsys):
    model = write_torchscript(tmp_path / "clip.pt")
    assert main(["convert", str(tmp_path / "clip.pt"), str(tmp_path / "clip.safetensors")]) == 0
    found = read_tensors(tmp_path / "clip.safetensors")
    assert set(found) == {"weight", "bias"}  # the number beside the weights is left out
    torch.testing.assert_close(found["weight"], model.weight.data)
    metadata = read_metadata(tmp_path / "clip.safetensors")
    assert metadata["source"] == "clip.pt"
    assert len(metadata["source_sha256"]) == 64
    assert "2 tensors" in capsys.readouterr().out


def test_wrappers_come_off_and_what_is_no_tensor_is_named(tmp_path, capsys):
    content = {"state_dict": {"module.a": torch.ones(2), "module.b": torch.zeros(1)}, "epoch": 3, "optimizer": {}}
    torch.save(content, tmp_path / "epoch.pth")
    assert main(["convert", str(tmp_path / "epoch.pth"), str(tmp_path / "out.safetensors")]) == 0
    assert set(read_tensors(tmp_path / "out.safetensors")) == {"a", "b"}
    assert "left out, not tensors: epoch, optimizer" in capsys.readouterr().err


def test_nested_files_get_dotted_names(tmp_path):
    content = {"clip": {"ln0.weight": torch.ones(2)}, "proj": {"weight": torch.zeros(1)}}
    torch.save(content, tmp_path / "clip_weights.pth")
    assert main(["convert", str(tmp_path / "clip_weights.pth"), str(tmp_path / "out.safetensors")]) == 0
    assert set(read_tensors(tmp_path / "out.safetensors")) == {"clip.ln0.weight", "proj.weight"}


def test_code_is_run_only_when_asked_for_and_warned_about(tmp_path, capsys):
    path = write_hostile(tmp_path / "hostile.pth", tmp_path / "mark")
    target = tmp_path / "out.safetensors"
    assert main(["convert", str(path), str(target)]) == 1
    assert not (tmp_path / "mark").exists()
    assert not target.exists()
    assert "--allow-code" in capsys.readouterr().err
    assert main(["convert", str(path), str(target), "--allow-code"]) == 0
    assert (tmp_path / "mark").exists()
    assert "warning: --allow-code unpickles" in capsys.readouterr().err
    assert set(read_tensors(target)) == {"weight"}


def test_a_pickled_module_gives_its_state(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert main(["convert", str(tmp_path / "module.pth"), str(tmp_path / "out.safetensors")]) == 1
    assert main(["convert", str(tmp_path / "module.pth"), str(tmp_path / "out.safetensors"), "--allow-code"]) == 0
    assert set(read_tensors(tmp_path / "out.safetensors")) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("ok.pth", "out.pth", "must end in .safetensors"),
        ("none.pth", "out.safetensors", "none.pth does not exist"),
        ("", "out.safetensors", "is a folder. Expected a file of weights"),
        ("ok.pth", "no/out.safetensors", "Make it first"),
        ("ok.pth", "there.safetensors", "pass --overwrite"),
        ("broken.pth", "out.safetensors", "cut off or damaged"),
        ("empty.pth", "out.safetensors", "No tensors found"),
    ],
)
def test_failures_take_one_line_and_leave_nothing(tmp_path, capsys, source, target, message):
    torch.save({"a": torch.zeros(100)}, tmp_path / "ok.pth")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    (tmp_path / "broken.pth").write_bytes((tmp_path / "ok.pth").read_bytes()[:300])
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_an_existing_target_is_replaced_on_request(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "ok.pth")
    (tmp_path / "out.safetensors").write_bytes(b"old")
    assert main(["convert", str(tmp_path / "ok.pth"), str(tmp_path / "out.safetensors"), "--overwrite"]) == 0
    assert set(read_tensors(tmp_path / "out.safetensors")) == {"a"}
