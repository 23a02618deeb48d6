from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmseg_plugins.register  # noqa: F401
from mmseg_plugins.vocabulary.config import VocabularyConfig

FOLDER = Path(__file__).parents[3] / "configs/maft_plus"
CONFIGS = {path.stem: Config.fromfile(path) for path in sorted(FOLDER.glob("*.py"))}
TESTS = sorted(name for name in CONFIGS if name.startswith("maftp_convnext") and "8xb1" not in name)
TRAINING = sorted(name for name in CONFIGS if "8xb1" in name)


def test_all_benchmarks_of_the_paper_are_there_for_both_sizes():
    semantic = ("ade20k-800x1333", "ade20k-847", "context459", "context59", "voc20")
    for size in "bl":
        for benchmark in semantic:
            assert any(name.startswith(f"maftp_convnext-{size}_{benchmark}") for name in TESTS)
    assert len(TESTS) == 2 * len(semantic) + 1
    assert len(TRAINING) == 4


@pytest.mark.parametrize("name", TESTS)
def test_settings_of_the_published_evaluation(name):
    config = CONFIGS[name]
    model = config.model
    assert model.variant == ("panoptic" if "panoptic" in name else "semantic")
    assert model.outputs.get("panoptic", False) == ("panoptic" in name)
    assert "token_order" not in model  # legacy for published files, otherwise as the checkpoint records
    assert (model.outputs.object_mask_threshold, model.outputs.overlap_threshold) == (0.2, 0.7)
    assert model.proposals.num_queries == 100
    resize = config.test_dataloader.dataset.pipeline[1]
    assert (resize.scale, resize.keep_ratio, resize.backend) == ((1333, 800), True, "pillow")
    skips = "847" in name or "459" in name
    assert config.test_evaluator.get("absent") == ("skip" if skips else None)
    vocabulary = VocabularyConfig.from_config(model.vocabulary)
    assert len(vocabulary.templates) == 14


@pytest.mark.parametrize("name", TRAINING)
def test_training_configs_train_on_their_classes(name):
    config = CONFIGS[name]
    classes = {True: 133, False: 171}["coco-panoptic" in name]
    trained = VocabularyConfig.from_config(config.model.train_vocabulary).vocabulary
    assert trained.num_classes == classes
    packer = config.train_dataloader.dataset.pipeline[-1]
    assert packer.type == ("PackSegments" if classes == 133 else "PackClassMasks")
    assert config.train_dataloader.batch_size == 1
    assert config.param_scheduler[0].end == config.train_cfg.max_iters
    assert config.model.token_order == "channels_last"


def test_semantic_training_data_is_resized_without_crop_and_its_masks_with_it(tmp_path):
    init_default_scope("mmseg")
    pipeline = Compose(CONFIGS["maftp_convnext-b_8xb1-60k_coco-stuff164k-800x1333"].train_pipeline)
    rng = np.random.default_rng(0)
    sizes = {}
    for height, width in ((60, 80), (40, 90)):
        labels = np.full((height, width), 255, np.uint8)
        labels[:, : width // 2], labels[: height // 2, width // 2 :] = 3, 170
        cv2.imwrite(str(tmp_path / "image.png"), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        cv2.imwrite(str(tmp_path / "labels.png"), labels)
        packed = pipeline({"img_path": str(tmp_path / "image.png"), "seg_map_path": str(tmp_path / "labels.png")})
        instances, size = packed["data_samples"].gt_instances, tuple(packed["inputs"].shape[1:])
        assert instances.labels.tolist() == [3, 170]
        assert tuple(instances.masks.shape[1:]) == size
        shares = instances.masks.flatten(1).float().mean(1)
        torch.testing.assert_close(shares, torch.tensor([0.5, 0.25]), atol=0.01, rtol=0)
        assert not (instances.masks[0] & instances.masks[1]).any()
        sizes[(height, width)] = size
    assert sizes == {(60, 80): (800, 1067), (40, 90): (592, 1333)}
