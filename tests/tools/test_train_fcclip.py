"""tools/train.py with FC-CLIP's configs on a small generated set: going on, mixed precision, several processes."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS
from PIL import Image

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.engine.parameter_groups import parameter_groups
from mmseg_plugins.evaluation.rle import encode_mask
from tests.tools import training_runs

CONFIGS = training_runs.ROOT / "configs/fcclip"
CONFIG = CONFIGS / "fcclip_shapes-vit_1xb16-300_shapesworld-64x64.py"
PUBLISHED = CONFIGS / "fcclip_convnext-l_8xb2-369k_coco-panoptic-1024x1024.py"

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return training_runs.write_scenes(tmp_path_factory.mktemp("scenes"))


def train(scenes, folder, *arguments, **more):
    """Run the tool; returns the losses of every iteration that it ran."""
    rows = training_runs.train(CONFIG, scenes, folder, *arguments, **more)
    return {step: (row["loss"], row["d0.loss_mask"], row["base_lr"]) for step, row in rows.items()}


@pytest.mark.parametrize("flags", [(), ("--amp",)], ids=["float32", "amp"])
def test_a_stopped_training_goes_on_to_the_same_losses_and_weights(scenes, tmp_path, flags):
    moved = training_runs.check_going_on(partial(train, scenes), tmp_path, flags)
    assert moved == {"proposals", "pyramid", "void_embedding"}, "CLIP must stay as it is"


def test_mixed_precision_differs_but_little(scenes, tmp_path):
    exact = train(scenes, tmp_path / "exact", iterations=1)
    mixed = train(scenes, tmp_path / "mixed", "--amp", iterations=1)
    assert exact[1] != mixed[1]
    assert exact[1][0] == pytest.approx(mixed[1][0], rel=0.05)


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes are forked, which CUDA does not allow")
def test_two_processes_train_and_validate(scenes, tmp_path):
    def work(folder):
        train(scenes, folder, "--launcher", "pytorch", iterations=2, **{"train_cfg.val_interval": 2})

    rows = training_runs.in_two_processes(work, tmp_path)
    assert any("PQ" in row for row in rows)
    assert (tmp_path / "iter_2.pth").exists()


def test_masks_of_seen_classes_train_under_their_own_class_list(scenes, tmp_path):
    seen = {
        "train_dataloader.dataset.seen_only": True,
        "train_dataloader.dataset.renumber_seen": True,
        "model.train_vocabulary.source": "shapesworld_38_seen",
    }
    losses = train(scenes, tmp_path, iterations=1, **seen)
    assert np.isfinite(losses[1]).all()


def write_coco_instances(root):
    """COCO's folder with four pictures of a rectangle each, as polygon and as run lengths, and one of a crowd."""
    (root / "coco/train2017").mkdir(parents=True)
    (root / "coco/annotations").mkdir()
    images, annotations = [], []
    for number in range(1, 6):
        pixels = np.random.default_rng(number).integers(0, 80, (48, 64, 3), dtype=np.uint8)
        pixels[8:32, 10:40] = 200
        Image.fromarray(pixels).save(root / f"coco/train2017/{number:012d}.jpg")
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": 48, "width": 64})
        inside = np.zeros((48, 64), dtype=bool)
        inside[8:32, 10:40] = True
        polygon = [[10, 8, 40, 8, 40, 32, 10, 32]]
        common = {"image_id": number, "category_id": 18, "area": 720, "bbox": [10, 8, 30, 24], "iscrowd": number == 5}
        shapes = [polygon, encode_mask(inside)] if number < 5 else [encode_mask(inside)]
        annotations += [{"id": 10 * number + i, "segmentation": s, **common} for i, s in enumerate(shapes)]
    categories = [{"id": 18, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/annotations/instances_train2017.json").write_text(json.dumps(content))


def test_instances_of_coco_train(scenes, tmp_path):
    """The pipeline and data set of the published size on a small model: polygons, run lengths, flips, empty crops."""
    write_coco_instances(tmp_path)
    config = Config.fromfile(CONFIG)
    instances = Config.fromfile(CONFIGS / "fcclip_convnext-l_8xb2-369k_coco-instance-1024x1024.py")
    loader = instances.train_dataloader
    assert [step.type for step in loader.dataset.pipeline][1:3] == ["LoadInstanceMasks", "LargeScaleJitterCrop"]
    loader.dataset.pipeline[2].size = (64, 64)
    loader.update(num_workers=0, persistent_workers=False)
    config.train_dataloader = loader
    config.model.train_vocabulary = {"source": instances.model.train_vocabulary.source, "templates": ["a {}."]}
    config.dump(tmp_path / "config.py")
    init_default_scope("mmseg")
    dataset = DATASETS.build(loader.dataset | {"data_root": str(tmp_path)})
    assert len(dataset) == 4, "a picture of a crowd alone has no target"
    dog = dataset.metainfo["classes"].index("dog")
    for sample in (dataset[index]["data_samples"] for index in range(4)):
        assert set(sample.gt_instances.labels.tolist()) <= {dog}
        assert sample.gt_instances.masks.shape[1:] == (64, 64)
        assert sample.gt_instances.masks.flatten(1).any(1).all()
    settings = {"train_dataloader.dataset.data_root": tmp_path}
    rows = training_runs.train(
        tmp_path / "config.py", scenes, tmp_path / "run", parts=("val", "test"), iterations=2, **settings
    )
    assert np.isfinite([row["loss"] for row in rows.values()]).all()
    assert len(rows) == 2


def test_published_recipe_decays_all_but_norms_and_embeddings():
    config = Config.fromfile(PUBLISHED)
    settings = dict(config.model.proposals, type="OpenVocabularyMask2Former")
    head = MODELS.build({**settings, "num_queries": 3, "encoder_layers": 1, "decoder_layers": 1})
    wrapper = config.optim_wrapper
    options = {**wrapper.paramwise_cfg, "lr_mult": {}}
    groups = parameter_groups(head, lr=wrapper.optimizer.lr, weight_decay=wrapper.optimizer.weight_decay, **options)
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    undecayed = {name for name, parameter in head.named_parameters() if decay_of[id(parameter)] == 0}
    assert len(decay_of) == len(list(head.parameters()))
    for name, parameter in head.named_parameters():
        is_norm = parameter.dim() == 1 and ("norm" in name or "pooling_proj.0" in name or "input_proj" in name)
        is_norm &= not name.endswith(".0.bias") or "pooling_proj" in name
        is_embedding = name in {f"predictor.{part}.weight" for part in ("query_feat", "query_embed", "level_embed")}
        assert (name in undecayed) == (is_norm or is_embedding), name
    assert (wrapper.clip_grad.max_norm, config.train_cfg.max_iters) == (0.01, 368750)
    assert config.train_dataloader.batch_size == 2
