from pathlib import Path

import pytest
from mmengine.config import Config

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
    assert len(TRAINING) == 3


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
