"""tools/test.py with CLIP-DINOiser: batches and the background step, and the settings beside every result."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_plugins.cli.main import main
from mmseg_plugins.methods.clip_dinoiser.layers import LearntLayers

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/clip_dinoiser/clip-dinoiser_shapes-vit_1xb32-300_shapesworld-64x64.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["shapes", "--out", str(folder), "--split", "validation", "--count", "9", "--seed", "6"]) == 0
    return folder


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """A file of the two layers in the published layout; about half of all positions are an object to it."""
    torch.manual_seed(0)
    state = LearntLayers(96, proj_channels=64).state_dict()
    state["bkg_decoder.weight"], state["bkg_decoder.bias"] = torch.randn(1, 96, 1, 1), torch.zeros(1)
    path = tmp_path_factory.mktemp("layers") / "last.pt"
    torch.save({"epoch": 1, "model_state_dict": state}, path)
    return path


def predict(folder, scenes, layers, **options):
    """Run the tool; returns the saved label maps, (image, H, W), and the log."""
    spec = importlib.util.spec_from_file_location("test_tool", ROOT / "tools/test.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    settings = {"test_dataloader.dataset.data_root": scenes, "experiment_name": folder.name, **options}
    call = [
        sys.argv[0],
        str(CONFIG),
        str(layers),
        "--work-dir",
        str(folder),
        "--out",
        str(folder / "out"),
        "--cfg-options",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*call, *(f"{key}={value}" for key, value in settings.items())])
        tool.main()
    maps = [np.asarray(Image.open(path)) for path in sorted((folder / "out").rglob("*.png"))]
    [log] = folder.glob("*/*.log")
    return np.stack(maps), log.read_text(encoding="utf-8")


def test_batches_of_one_and_of_four_give_the_same_maps_with_the_background_step(tmp_path, scenes, layers):
    # What is neither sure nor an object becomes grass.
    options = {"model.vocabulary.background": "grass"}
    one, log = predict(tmp_path / "one", scenes, layers, **options, **{"test_dataloader.batch_size": 1})
    four, _ = predict(tmp_path / "four", scenes, layers, **options, **{"test_dataloader.batch_size": 4})
    off, _ = predict(tmp_path / "off", scenes, layers, **options, **{"model.use_background": False})
    assert one.shape == (9, 64, 64)
    assert np.array_equal(one, four)
    changed = (one != off).any(axis=(1, 2))
    assert changed.sum() > 1, "the step must matter in several images"
    [grass] = np.unique(one[one != off])
    assert len(np.unique(one)) > 5
    assert (off != grass).any()
    settings = re.findall(r"INFO - (?:settings:|measured with) (.*)", log)
    assert len(settings) == 2
    for line in settings:
        assert "model: CLIPDINOiser" in line
        assert "gamma: 0.6" in line
        assert "background decided by objectness: True, delta 0.99" in line
