"""mmengine's own ways to load a file, with this project's reader in place."""

import io

import pytest
import torch
from torch import nn

from mmseg_plugins.towers.files import install_safe_loader, write_safetensors
from tests.towers.hostile import Intruder, write_hostile, write_torchscript

checkpoint = pytest.importorskip("mmengine.runner.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*TorchScript archive:UserWarning")


@pytest.fixture(autouse=True)
def _installed():
    install_safe_loader()
    install_safe_loader()  # again changes nothing


def make_runner(tmp_path, **options):
    from mmengine.model import BaseModel
    from mmengine.runner import Runner
    from torch.utils.data import DataLoader

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, inputs, mode="tensor"):
            return {"loss": (self.weight * inputs).sum()}

    return Runner(
        default_scope="mmseg",  # a runner leaves its scope behind; without one it would be mmengine's
        model=Model(),
        work_dir=str(tmp_path / "work"),
        train_dataloader=DataLoader([{"inputs": torch.ones(1)}], batch_size=1),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        experiment_name=f"run_{tmp_path.name}",
        **options,
    )


def test_load_from_does_not_run_a_files_code(tmp_path):
    path = write_hostile(tmp_path / "hostile.pth", tmp_path / "mark")
    runner = make_runner(tmp_path, load_from=str(path))
    with pytest.raises(ValueError, match="was not read"):
        runner.load_or_resume()
    assert not (tmp_path / "mark").exists()


def test_resume_does_not_run_a_files_code(tmp_path):
    path = write_hostile(tmp_path / "hostile.pth", tmp_path / "mark")
    runner = make_runner(tmp_path, load_from=str(path), resume=True)
    with pytest.raises(ValueError, match="was not read"):
        runner.load_or_resume()
    with pytest.raises(ValueError, match="was not read"):
        runner.resume(str(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("prefix", [None, "backbone."])
def test_init_cfg_does_not_run_a_files_code(tmp_path, prefix):
    from mmengine.model import BaseModule

    class Backbone(BaseModule):
        def __init__(self, **options):
            super().__init__(**options)
            self.weight = nn.Parameter(torch.ones(2, 2))

    path = write_hostile(tmp_path / "hostile.pth", tmp_path / "mark")
    options = {"type": "Pretrained", "checkpoint": str(path)} | ({"prefix": prefix} if prefix else {})
    with pytest.raises(ValueError, match="was not read"):
        Backbone(init_cfg=options).init_weights()
    assert not (tmp_path / "mark").exists()


def test_files_from_the_web_do_not_run_code(tmp_path, monkeypatch):
    from mmseg_plugins.towers import weights

    path = write_hostile(tmp_path / "hostile.pth", tmp_path / "mark")
    monkeypatch.setattr(weights, "fetch_url", lambda url, folder=None: path)
    for name in ("https://example.org/hostile.pth", "torchvision://resnet18"):
        monkeypatch.setattr(checkpoint, "get_torchvision_models", lambda: {"resnet18": "https://example.org/r.pth"})
        with pytest.raises(ValueError, match="was not read"):
            checkpoint.CheckpointLoader.load_checkpoint(name, map_location="cpu")
    assert not (tmp_path / "mark").exists()


def test_streams_of_remote_backends_do_not_run_code(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": Intruder(tmp_path / "mark")}, buffer)
    for load in (checkpoint._safe_torch_load, checkpoint.torch.load):
        buffer.seek(0)
        with pytest.raises(ValueError, match="was not read"):
            load(buffer, map_location="cpu")
    buffer.seek(0)
    with pytest.raises(ValueError, match="was not read"):
        checkpoint._safe_torch_load(buffer, map_location="cpu", weights_only=False)
    assert not (tmp_path / "mark").exists()


def test_torchscript_is_refused_with_the_remedy(tmp_path):
    write_torchscript(tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="mmseg-plugins convert"):
        checkpoint.CheckpointLoader.load_checkpoint(str(tmp_path / "clip.pt"))
    with pytest.raises(ValueError, match="mmseg-plugins convert"):
        checkpoint._safe_torch_load(io.BytesIO((tmp_path / "clip.pt").read_bytes()))


@torch.enable_grad()
def test_a_training_run_saves_and_resumes(tmp_path):
    runner = make_runner(tmp_path)
    runner.train()
    saved = tmp_path / "work" / "epoch_1.pth"
    other = make_runner(tmp_path)
    other.model.weight.data.zero_()
    other.resume(str(saved))
    torch.testing.assert_close(other.model.weight, runner.model.weight)
    assert other.epoch == 1


def test_safetensors_and_packaged_weights_load(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", {"weight": torch.full((2, 2), 5.0)})
    runner = make_runner(tmp_path, load_from=str(path))
    runner.load_or_resume()
    assert float(runner.model.weight[0, 0]) == 5.0
    found = checkpoint.CheckpointLoader.load_checkpoint("asset://shapes_clip")
    assert "visual.conv1.weight" in found["state_dict"]


def test_open_clips_weights_have_a_scheme(tmp_path, monkeypatch):
    from mmseg_plugins.towers import weights

    path = write_safetensors(tmp_path / "a.safetensors", {"weight": torch.zeros(1)})
    asked = []
    monkeypatch.setattr(weights, "resolve", lambda name: asked.append(name) or path)
    assert set(checkpoint.CheckpointLoader.load_checkpoint("open-clip://ViT-B-16/openai")["state_dict"]) == {"weight"}
    assert asked == ["ViT-B-16/openai"]
