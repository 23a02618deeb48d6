"""tools/train.py on a folder of unlabelled images, with the real teacher classes and small weights read from files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_plugins.methods.clip_dinoiser.teachers import DinoFoundTeacher
from mmseg_plugins.towers.files import read_tensors
from tests.methods.clip_dinoiser_models import write_teachers
from tests.tools.training_runs import read_rows, run_tool

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/clip_dinoiser"
# The shipped config of the published training, with the embedded CLIP and small teachers.
CONFIG = """
_base_ = ["{base}"]
model = dict(
    clip=dict(model="shapesworld", pretrained=None),
    proj_channels=16,
    teacher=dict(_delete_=True, **{teacher}),
    data_preprocessor=dict(size=(48, 48)),
)
"""
VIEWS = "clip-dinoiser_vit-b16_1xb16-6k_views-448x448.py"
IMAGES = "clip-dinoiser_vit-b16_1xb16-6k_images-448x448.py"
# Where the two stand whose sizes the tests shrink.
RANDOM_STEPS = {VIEWS: ("1.transforms.0", "1.transforms.1"), IMAGES: ("1", "2")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of pictures of several sizes and kinds, and the teachers' files."""
    root = tmp_path_factory.mktemp("unlabelled")
    generator = np.random.default_rng(0)
    (root / "pictures/more").mkdir(parents=True)
    for name, size in (
        ("a.png", (60, 80)),
        ("b.jpg", (90, 70)),
        ("more/c.PNG", (48, 48)),
        ("more/d.jpeg", (50, 120)),
    ):
        blocks = generator.integers(0, 256, (size[0] // 10 + 1, size[1] // 10 + 1, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]).save(root / "pictures" / name)
    (root / "teachers").mkdir()
    return root, write_teachers(root / "teachers")


def train(place, folder, *arguments, base=VIEWS, iterations=6):
    """Run the tool in ``folder``; returns the losses of every iteration that it ran."""
    root, teacher = place
    config = folder.parent / f"{folder.name}.py"
    config.write_text(CONFIG.format(base=CONFIGS / base, teacher=teacher), encoding="utf-8")
    resize, crop = (f"train_dataloader.dataset.pipeline.{step}" for step in RANDOM_STEPS[base])
    settings = {
        f"{resize}.scale": "(100000,48)",
        f"{crop}.crop_size": "(48,48)",
        "train_dataloader.dataset.data_root": root / "pictures",
        "train_dataloader.dataset.sample": None,
        "train_dataloader.batch_size": 3,
        "train_dataloader.num_workers": 0,  # a resumed run cannot repeat what workers draw
        "train_dataloader.persistent_workers": False,
        "train_cfg.max_iters": iterations,
        "default_hooks.checkpoint.interval": 3,
        **({"model.teacher_cache": root / "targets"} if base == VIEWS else {}),
    }
    [written] = run_tool(config, folder, settings, *arguments)
    rows = read_rows([written])
    return {row["step"]: (row["loss_corr"], row["loss_bkg"], row["base_lr"]) for row in rows if "loss_corr" in row}


def go_on(source, folder):
    """Make a work dir that stopped behind iteration 3."""
    folder.mkdir()
    shutil.copy(source / "iter_3.pth", folder)
    (folder / "last_checkpoint").write_text(str(folder / "iter_3.pth"), encoding="utf-8")
    return folder


def no_answer(self, *_):
    raise AssertionError("every view was seen before: nobody should ask the teacher")


@pytest.mark.parametrize("flags", [(), ("--amp",)], ids=["float32", "amp"])
def test_a_stopped_training_goes_on_to_the_same_losses_from_cached_targets(place, tmp_path, monkeypatch, flags):
    whole = train(place, tmp_path / "whole", *flags)
    assert sorted(whole) == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(list(whole.values())).all()
    assert len(list((place[0] / "targets").glob("*/*.safetensors"))) > 1
    monkeypatch.setattr(DinoFoundTeacher, "targets", no_answer)
    rest = train(place, go_on(tmp_path / "whole", tmp_path / "rest"), *flags, "--resume")
    assert rest == {step: whole[step] for step in (4, 5, 6)}
    one, other = (read_tensors(tmp_path / name / "iter_6.pth")["state_dict"] for name in ("whole", "rest"))
    assert set(one) == {f"layers.{name}.{kind}" for name in ("obj_proj", "bkg_decoder") for kind in ("weight", "bias")}
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_published_config_makes_new_views_each_time_and_keeps_nothing(place, tmp_path, monkeypatch):
    seen = []
    answer = DinoFoundTeacher.targets

    def listen(self, images, grid, samples):
        seen.append(images)
        return answer(self, images, grid, samples)

    monkeypatch.setattr(DinoFoundTeacher, "targets", listen)
    losses = train(place, tmp_path / "images", base=IMAGES, iterations=2)
    assert np.isfinite(list(losses.values())).all()
    assert [tuple(images.shape) for images in seen] == [(3, 3, 48, 48)] * 2
    views = torch.cat(seen)
    assert views.min() >= -1e-6
    assert views.max() <= 1.001
    assert len({hash(view.numpy().tobytes()) for view in views}) == 6
