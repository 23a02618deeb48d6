"""FC-CLIP learns on generated scenes: a shortened training with masks of the seen classes, and what holds after it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample

from mmseg_plugins.datasets.shapesworld import SceneOptions, generate_scene
from mmseg_plugins.datasets.shapesworld.world import held_out_classes

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/fcclip/fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64.py"
STEPS, BATCH, SCENES = 90, 16, 100


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("fcclip_shapes", ROOT / "tools/benchmarks/fcclip_shapes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def training_sample(tool, scene, number_of):
    """The segments of a scene whose class has a number."""
    ids, segments = tool.truth(scene)
    kept = [index for index, label in enumerate(segments.categories.tolist()) if label in number_of]
    sample = SegDataSample()
    sample.gt_instances = InstanceData(
        labels=torch.tensor([number_of[int(segments.categories[index])] for index in kept], dtype=torch.long),
        masks=torch.stack([ids == int(segments.ids[index]) for index in kept]),
    )
    return sample


def train(tool, model):
    """The config's recipe, shortened, on scenes made on the way."""
    seen = [label for label in range(tool.CLASSES) if label not in held_out_classes(tool.CLASSES)]
    number_of = {label: number for number, label in enumerate(seen)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.8 * STEPS)], gamma=0.1)
    model.train()
    for step in range(STEPS):
        options = SceneOptions(pairs="seen")
        scenes = [generate_scene(0, step * BATCH + index, split="train", options=options) for index in range(BATCH)]
        losses = model.loss(tool._inputs(model, scenes), [training_sample(tool, scene, number_of) for scene in scenes])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.01)
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.mark.training
def test_decoder_beats_its_untrained_self_and_maskclip_and_joins_with_clip(tool):
    scenes = tool.make_scenes("test", SCENES)
    model = tool.build_model(CONFIG, None)
    ensemble = (model.scoring.alpha, model.scoring.beta)
    pairs = (tool.DECODER_ALONE, tool.CLIP_ALONE, ensemble)
    untrained = tool.score_model(model, scenes, pairs)
    trained = tool.score_model(train(tool, model), scenes, pairs)
    best_maskclip = max(tool.score_maskclip(scenes, rule=rule)["PQ"] for rule in ("value", "qk"))
    assert trained[ensemble]["PQ"] >= 3 * max(row["PQ"] for row in untrained.values())
    assert trained[ensemble]["PQ"] > best_maskclip
    best = {figure: max(trained[pair][figure] for pair in pairs[:2]) for figure in trained[ensemble]}
    for figure in ("PQ", "PQ harmonic"):  # by 1.7 and 2.3
        assert trained[ensemble][figure] >= best[figure]
    # By 0.5 and -0.3 here, 0.5 both after three full trainings (docs/fcclip.md). Another order of a processor's sums
    # moves figures of so short a training by up to 0.8.
    for figure in ("mIoU", "mIoU harmonic"):
        assert trained[ensemble][figure] > trained[tool.DECODER_ALONE][figure] + 3
        assert trained[ensemble][figure] >= best[figure] - 1


def test_components_are_segments_of_things_and_grounds_stay_whole(tool):
    labels = np.full((6, 6), 32)
    labels[0, 0] = labels[1, 1] = labels[4, 4] = 3
    labels[:, 5] = 33
    labels[2, 5] = 32
    ids, info = tool.components(labels)
    assert sorted(entry["category_id"] for entry in info) == [3, 3, 32, 33]
    assert ids[0, 0] == ids[1, 1] != ids[4, 4]
    assert len(np.unique(ids[labels == 32])) == 1


def test_truth_scores_a_hundred(tool):
    tally = tool.Tally()
    for scene in tool.make_scenes("test", 150):
        ids, segments = tool.truth(scene)
        info = [{"id": int(i), "category_id": int(c)} for i, c in zip(segments.ids, segments.categories, strict=True)]
        tally.add(scene, ids, info, torch.from_numpy(scene.labels(tool.CLASSES)).long())
    assert set(tally.figures().values()) == {100.0}


def test_weights_are_chosen_by_the_figure_and_published_ones_win_ties(tool):
    scored = {(0.0, 0.0): {"mIoU": 1.0}, (0.4, 0.8): {"mIoU": 2.0}, (0.9, 0.9): {"mIoU": 2.0}}
    assert tool.choose_weights(scored) == (0.4, 0.8)
