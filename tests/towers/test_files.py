import os
import pickle

import numpy as np
import pytest
import torch

from mmseg_plugins.towers.files import (
    asset_path,
    is_torchscript_file,
    read_metadata,
    read_tensors,
    unwrap_state_dict,
    write_safetensors,
)
from tests.towers.hostile import Intruder, write_hostile, write_torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "error:.*pickle protocol")


def test_safetensors_and_torch_files_are_told_by_their_content(tmp_path):
    tensors = {"a.weight": torch.randn(3, 2), "b": torch.arange(4)}
    write_safetensors(tmp_path / "one.safetensors", tensors)
    os.rename(tmp_path / "one.safetensors", tmp_path / "one.bin")
    torch.save(tensors, tmp_path / "two.safetensors.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("one.bin", "two.safetensors.pth", "old.pth"):
        found = read_tensors(tmp_path / name)
        for key, value in tensors.items():
            torch.testing.assert_close(found[key], value)


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path):
    path = write_hostile(tmp_path / "hostile.pth", tmp_path / "mark")
    with pytest.raises(ValueError, match=r"hostile\.pth was not read: it needs '\w+\.mkdir'.*convert .*--allow-code"):
        read_tensors(path)
    with (tmp_path / "plain.pkl").open("wb") as stream:
        pickle.dump({"a": Intruder(tmp_path / "mark")}, stream)
    with pytest.raises(ValueError, match="was not read"):
        read_tensors(tmp_path / "plain.pkl")
    assert not (tmp_path / "mark").exists()


def test_getattr_in_a_checkpoint_reaches_nothing_but_the_log_history(tmp_path):
    class Reach:
        def __reduce__(self):
            return getattr, (np.ndarray, "tofile")

    torch.save({"a": Reach()}, tmp_path / "reach.pth")
    with pytest.raises(ValueError, match=r"needs 'builtins\.getattr'"):
        read_tensors(tmp_path / "reach.pth")


def test_torchscript_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "ViT-B-16.pt"
    write_torchscript(path)
    assert is_torchscript_file(path)
    with pytest.raises(ValueError, match=r"TorchScript archive.*mmseg-plugins convert .*ViT-B-16\.safetensors"):
        read_tensors(path)


def test_mmengine_checkpoints_are_read_whole(tmp_path):
    history_buffer = pytest.importorskip("mmengine.logging.history_buffer")
    history = history_buffer.HistoryBuffer()
    history.update(1.0)
    history.update(3.0)
    content = {
        "meta": {"seed": np.int64(3), "time": "today"},
        "state_dict": {"a": torch.ones(2)},
        "message_hub": {"log_scalars": {"loss": history}, "runtime_info": {"lr": np.array([0.1, 0.2])}},
        "optimizer": {"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    torch.save(content, tmp_path / "epoch_1.pth")
    found = read_tensors(tmp_path / "epoch_1.pth")
    assert found["message_hub"]["log_scalars"]["loss"].mean() == 2.0
    assert found["meta"]["seed"] == 3
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.1
    torch.testing.assert_close(unwrap_state_dict(found)["a"], torch.ones(2))


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "safe.safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_files_that_are_cut_off_are_named(tmp_path, name, share):
    path = tmp_path / name
    tensors = {"a": torch.randn(400)}
    if name.startswith("safe"):
        write_safetensors(path, tensors)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=name == "new.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"{name}.*(cut off|damaged|was not read)"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"<html>404</html>", "neither torch nor safetensors")]
)
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "file.pth")


def test_missing_files_folders_and_lists_are_refused(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            read_tensors(path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list"):
        read_tensors(tmp_path / "list.pth")


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out.safetensors"
    shared = torch.randn(4)
    write_safetensors(path, {"a": shared, "b": shared, "c": torch.randn(3, 4).T}, {"source": "test"})
    assert read_metadata(path) == {"source": "test"}
    torch.testing.assert_close(read_tensors(path)["b"], shared)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="'b' is a list"):
        write_safetensors(path, {"a": shared, "b": [1]})
    with pytest.raises(FileNotFoundError, match="Make it first"):
        write_safetensors(tmp_path / "no" / "out.safetensors", {"a": shared})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out.safetensors"]


def test_wrappers_and_prefixes_come_off():
    tensor = torch.zeros(1)
    wrapped = {"model": {"module.a": tensor, "module.b": tensor}, "epoch": 3}
    assert set(unwrap_state_dict(wrapped)) == {"a", "b"}
    assert set(unwrap_state_dict({"state_dict": {"model": {"_orig_mod.a": tensor}}})) == {"a"}
    assert set(unwrap_state_dict({"module.a": tensor, "b": tensor, "note": "x"})) == {"module.a", "b"}
    with pytest.raises(ValueError, match="No tensors found. Entries: epoch"):
        unwrap_state_dict({"epoch": 3})


def test_packaged_weights_are_found_by_name():
    assert asset_path("shapes_clip").is_file()
    with pytest.raises(FileNotFoundError, match="Present: .*shapes_clip"):
        asset_path("other")


def test_metadata_of_other_files_is_refused(tmp_path):
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_metadata(tmp_path / "a.pth")


def test_a_written_file_is_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "ordinary").touch()
    path = write_safetensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
