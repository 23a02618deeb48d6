from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import load_checkpoint
from mmseg.structures import SegDataSample

from mmseg_plugins.cases import Case, verify
from mmseg_plugins.methods.clip_dinoiser.checkpoint import to_published_names
from mmseg_plugins.methods.clip_dinoiser.dino_clip import DinoCLIP
from mmseg_plugins.methods.clip_dinoiser.layers import LearntLayers
from mmseg_plugins.methods.clip_dinoiser.losses import correlation_loss, foreground_loss
from mmseg_plugins.methods.clip_dinoiser.pooling import (
    class_probabilities,
    correlate,
    force_background,
    pad_corner,
    pool_by_correlation,
)
from mmseg_plugins.segmentors.tta import OpenVocabularyTTAModel
from tests.methods.clip_dinoiser_models import TEACHER, build, write_teachers

FIXTURES = Path(__file__).parent.parent / "fixtures" / "clip_dinoiser"
CASES = sorted(path.stem for path in FIXTURES.glob("*.json"))


@pytest.mark.parametrize("name", CASES)
def test_reference_case_agrees(name):
    results = verify(Case.load(FIXTURES / f"{name}.json"))
    assert results
    assert [result for result in results if not result.passed] == []


def test_all_cases_are_here():
    assert len(CASES) == 4


def sample(ori_shape):
    return SegDataSample(metainfo={"ori_shape": ori_shape})


def labels(samples):
    return torch.stack([sample.pred_sem_seg.data[0] for sample in samples])


# --- pooling ----------------------------------------------------------------------------------------------------------


def slow_pooling(features, unit, gamma):
    """The equation of the specification, position by position."""
    pooled = torch.empty_like(features)
    places = [(i, j) for i in range(features.shape[2]) for j in range(features.shape[3])]
    for b in range(len(features)):
        for i, j in places:
            weights = {p: float(unit[b, :, i, j] @ unit[b, :, p[0], p[1]]) for p in places}
            kept = {p: w for p, w in weights.items() if w >= gamma}
            total = sum(w * features[b, :, p[0], p[1]] for p, w in kept.items())
            pooled[b, :, i, j] = total / (sum(kept.values()) + 1e-6)
    return pooled


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 0.2, 0.9])
def test_pooling_equals_the_equation_position_by_position(gamma):
    torch.manual_seed(0)
    features, unit = torch.randn(2, 5, 3, 4), F.normalize(torch.randn(2, 6, 3, 4).abs(), dim=1)
    torch.testing.assert_close(
        pool_by_correlation(features, unit, gamma), slow_pooling(features, unit, gamma), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("step", [1, 5, 12, 100])
def test_pooling_some_positions_at_a_time_changes_nothing(step):
    torch.manual_seed(0)
    features, unit = torch.randn(2, 5, 3, 4), F.normalize(torch.randn(2, 6, 3, 4), dim=1)
    whole = pool_by_correlation(features, unit, 0.2)
    torch.testing.assert_close(pool_by_correlation(features, unit, 0.2, positions_per_step=step), whole)


def test_features_on_another_grid_come_to_the_grid_of_the_descriptors():
    torch.manual_seed(0)
    features, unit = torch.randn(1, 5, 6, 8), F.normalize(torch.randn(1, 6, 3, 4), dim=1)
    resized = F.interpolate(features, (3, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pool_by_correlation(features, unit, 0.2), pool_by_correlation(resized, unit, 0.2))


def test_no_positions_at_a_time_is_an_error():
    with pytest.raises(ValueError, match="positions_per_step"):
        pool_by_correlation(torch.ones(1, 2, 1, 1), torch.ones(1, 1, 1, 1), 0.2, positions_per_step=0)


def test_positions_that_share_a_descriptor_get_one_feature():
    unit = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), dim=1).T.reshape(1, 2, 2, 2)
    features = torch.tensor([1.0, 3.0, 10.0, 20.0]).reshape(1, 1, 2, 2)
    pooled = pool_by_correlation(features, unit, 0.2)
    torch.testing.assert_close(pooled.flatten(), torch.tensor([2.0, 2.0, 15.0, 15.0]), atol=1e-4, rtol=0)


def test_probabilities_sum_to_one_and_ignore_the_length_of_features():
    torch.manual_seed(0)
    features, rows = torch.randn(1, 5, 3, 4), F.normalize(torch.randn(7, 5), dim=1)
    probabilities = class_probabilities(features, rows, 100.0)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 3, 4))
    torch.testing.assert_close(class_probabilities(3 * features, rows, 100.0), probabilities, atol=1e-5, rtol=1e-4)


def test_background_takes_positions_that_are_neither_sure_nor_an_object():
    probabilities = torch.tensor([[0.2, 0.2, 0.005, 0.2], [0.8, 0.8, 0.995, 0.8]]).reshape(1, 2, 1, 4)
    is_foreground = torch.tensor([True, False, False, False]).reshape(1, 1, 1, 4)
    changed = force_background(probabilities, is_foreground, row=0, delta=0.99)
    torch.testing.assert_close(changed[0, 0, 0], torch.tensor([0.2, 1.0, 0.005, 1.0]))
    assert torch.equal(changed[:, 1], probabilities[:, 1])
    assert probabilities[0, 0, 0, 1] == pytest.approx(0.2), "the argument stays as it is"


def test_padding_has_the_colour_that_was_asked_for():
    image = torch.rand(2, 3, 5, 9)
    padded = pad_corner(image, 4, torch.tensor([1.0, 2.0, 3.0]))
    assert padded.shape == (2, 3, 8, 12)
    assert torch.equal(padded[..., :5, :9], image)
    assert torch.equal(padded[1, :, 7, 0], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(padded[0, :, 0, 11], torch.tensor([1.0, 2.0, 3.0]))


# --- layers and losses ------------------------------------------------------------------------------------------------


def test_losses_are_the_published_formula():
    torch.manual_seed(0)
    cosines, together = torch.rand(2, 4, 2, 2) * 2 - 1, torch.rand(2, 4, 2, 2) > 0.5
    logits, foreground = torch.randn(2, 1, 2, 2), torch.rand(2, 1, 2, 2) > 0.5
    clipped = cosines.clamp(min=0)
    want = torch.where(together, -clipped.sigmoid().log(), -(1 - clipped.sigmoid()).log()).mean()
    torch.testing.assert_close(correlation_loss(cosines, together), want)
    want = torch.where(foreground, -logits.sigmoid().log(), -(1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(foreground_loss(logits, foreground), want)


def test_negative_cosines_get_no_gradient():
    cosines = torch.tensor([-0.5, 0.5]).reshape(1, 1, 1, 2).requires_grad_()
    correlation_loss(cosines, torch.tensor([True, True]).reshape(1, 1, 1, 2)).backward()
    assert cosines.grad[0, 0, 0, 0] == 0
    assert cosines.grad[0, 0, 0, 1] < 0


@pytest.mark.parametrize(("kernel", "mode"), [(1, "zeros"), (3, "replicate"), (5, "reflect")])
def test_layers_keep_the_grid(kernel, mode):
    layers = LearntLayers(6, proj_channels=4, kernel_size=kernel, padding_mode=mode)
    unit = layers.describe(torch.randn(2, 6, 5, 7))
    assert unit.shape == (2, 4, 5, 7)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2, 5, 7))
    assert layers.foreground_logits(torch.randn(2, 6, 5, 7)).shape == (2, 1, 5, 7)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel_size"):
        LearntLayers(6, kernel_size=2)


def test_the_diagonal_of_correlations_is_one():
    unit = F.normalize(torch.randn(1, 4, 2, 3), dim=1)
    torch.testing.assert_close(correlate(unit).flatten(2).diagonal(dim1=1, dim2=2), torch.ones(1, 6))


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["student", "teachers"])
@pytest.mark.parametrize("slide", [False, True])
def test_batches_of_one_and_of_four_give_the_same_maps(model, slide):
    test_cfg = {"mode": "slide", "crop_size": (32, 32), "stride": (16, 16)} if slide else {"mode": "whole"}
    options = {"test_cfg": test_cfg, "use_background": True}
    network = build(**options) if model == "student" else build(DinoCLIP, teacher=TEACHER, **options)
    torch.manual_seed(1)
    images = 2 * torch.randn(4, 3, 37, 50)
    shapes = [(37, 50), (61, 77), (20, 30), (74, 100)]
    together = network.predict(images, [sample(shape) for shape in shapes])
    seen = set()
    for index, shape in enumerate(shapes):
        [alone] = network.predict(images[index : index + 1], [sample(shape)])
        assert torch.equal(alone.pred_sem_seg.data, together[index].pred_sem_seg.data)
        seen |= set(alone.pred_sem_seg.data.unique().tolist())
    assert len(seen) > 1, "a map of one class proves nothing"


def test_background_of_one_image_leaves_the_others_alone():
    network = build(use_background=True)
    images = 2 * torch.randn(2, 3, 32, 32)
    text = network.text_embeddings
    network.layers.bkg_decoder.bias.data.fill_(-100)
    forced = network.row_logits(images, text)
    network.delta = 0.0  # every row is sure enough
    assert (forced[:, 0] == 1).any()
    assert not (network.row_logits(images, text)[:, 0] == 1).all()


def test_the_step_follows_the_vocabulary_unless_it_is_set():
    network, images = build(), torch.randn(1, 3, 32, 32)
    network.layers.bkg_decoder.bias.data.fill_(-100)
    network.delta = 1.0
    text = network.text_embeddings
    assert (network.row_logits(images, text)[:, 0] == 1).all()
    network.use_background = False
    assert (network.row_logits(images, text)[:, 0] < 1).any()
    network.use_background = None
    network.set_vocabulary("cat; dog")
    text = network.text_embeddings
    torch.testing.assert_close(network.row_logits(images, text).sum(1), torch.ones(1, 4, 4))


def test_a_step_without_a_background_class_says_how_to_get_one():
    network = build(vocabulary={"source": "cat; dog", "templates": ["a {}."]}, use_background=True)
    with pytest.raises(ValueError, match="background='background'"):
        network.predict(torch.randn(1, 3, 32, 32))


def test_windows_average_probabilities_behind_the_background_step():
    settings = {"mode": "slide", "crop_size": (32, 32), "stride": (32, 16)}
    network = build(use_background=True, test_cfg=settings)
    network.test_cfg.keep_logits = True
    torch.manual_seed(2)
    image = 2 * torch.randn(1, 3, 32, 48)
    [kept] = network.predict(image, [sample((32, 48))])
    text = network.text_embeddings
    left, right = (
        F.interpolate(network.row_logits(part, text), (32, 32), mode="bilinear", align_corners=False)
        for part in (image[..., :32], image[..., 16:])
    )
    rows = torch.zeros(1, 4, 32, 48)
    rows[..., :32] += left
    rows[..., 16:] += right
    rows[..., 16:32] /= 2
    want = torch.stack([rows[0, 0], rows[0, 1], rows[0, 2:].amax(0)])  # "dog" has two names
    torch.testing.assert_close(kept.seg_logits.data, want)


def test_an_image_that_is_no_multiple_of_the_patch_is_padded_with_black():
    network = build()
    mean, std = (torch.tensor(value)[:, None, None] for value in (network.clip.visual.mean, network.clip.visual.std))
    picture = torch.rand(1, 3, 30, 45)
    black = F.pad(picture, (0, 3, 0, 2))
    text = network.text_embeddings
    small, padded = (network.row_logits((255 * image - mean) / std, text) for image in (picture, black))
    assert small.shape[2:] == (4, 6)
    torch.testing.assert_close(small, padded, atol=1e-4, rtol=1e-4)  # float32 behind a softmax of 100 times cosines


def test_padding_follows_the_statistics_of_the_data_preprocessor():
    preprocessor = {"type": "mmseg.SegDataPreProcessor", "mean": [10.0, 20.0, 30.0], "std": [2.0, 4.0, 5.0]}
    network = build(data_preprocessor=preprocessor)
    padded = network.pad(torch.zeros(1, 3, 8, 7))
    assert padded[0, :, 0, 7].tolist() == [-5.0, -5.0, -6.0]
    torch.testing.assert_close(network.unit_range(padded)[0, :, 0, 7], torch.zeros(3))


def test_a_threshold_compares_the_probability_itself():
    vocabulary = {"source": "cat; dog", "templates": ["a {}."], "background": 0.7}
    network = build(vocabulary=vocabulary)
    torch.manual_seed(3)
    image = 2 * torch.randn(1, 3, 32, 32)
    probabilities = F.interpolate(
        network.row_logits(image, network.text_embeddings), (32, 32), mode="bilinear", align_corners=False
    )
    best, winner = probabilities[0].max(0)
    want = torch.where(best < 0.7, 0, winner + 1)
    found = labels(network.predict(image, [sample((32, 32))]))[0]
    assert torch.equal(found, want)
    assert (want == 0).any()
    assert (want > 0).any()


def test_augmentation_averages_probabilities_without_another_softmax():
    network = build(vocabulary={"source": "cat; dog; sky", "templates": ["a {}."]})
    tta = OpenVocabularyTTAModel(module=network)
    torch.manual_seed(4)
    image = 2 * torch.randn(1, 3, 32, 32)
    views = [network.predict(view, [sample((32, 32))])[0] for view in (image, image + 0.5 * torch.randn_like(image))]
    for view in views:
        view.set_metainfo({"img_path": "a.png"})
    want = (sum(view.seg_logits.data / view.seg_logits.data.sum(0) for view in views) / 2).argmax(0)
    [merged] = tta.merge_preds([views])
    assert torch.equal(merged.pred_sem_seg.data[0], want)


@pytest.mark.parametrize("options", [{"gamma": 1.5}, {"delta": -0.1}])
def test_thresholds_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        build(**options)


def test_the_layers_may_read_the_joint_space():
    network = build(feature_block="final")
    assert network.layers.obj_proj.in_channels == 16
    assert network.row_logits(torch.randn(1, 3, 32, 32), network.text_embeddings).shape == (1, 4, 4, 4)


def test_half_precision_comes_close():
    network, image = build(), torch.randn(1, 3, 32, 32)
    text = network.text_embeddings
    full = network.pool(network.dense_features(image).pixels, network.layers.describe(torch.randn(1, 24, 4, 4)))
    assert full.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        reduced = network.row_logits(image, text)
    assert reduced.dtype == torch.float32
    assert (reduced.argmax(1) == network.row_logits(image, text).argmax(1)).float().mean() > 0.8


# --- files ------------------------------------------------------------------------------------------------------------


def published(network):
    return {"epoch": 99, "model_state_dict": to_published_names(network.state_dict())}


def clip_file(network):
    """CLIP's tensors under OpenAI's names."""
    state = {key.removeprefix("clip."): value for key, value in network.state_dict().items() if key.startswith("clip.")}
    return {key.removeprefix("text."): value for key, value in state.items()}


def test_the_published_file_has_four_tensors(tmp_path):
    content = published(build())
    assert sorted(content["model_state_dict"]) == [
        "bkg_decoder.bias", "bkg_decoder.weight", "obj_proj.bias", "obj_proj.weight",
    ]  # fmt: skip


def test_the_published_file_loads_on_top_of_clips_own(tmp_path):
    source = build(seed=1)
    torch.save(published(source), tmp_path / "last.pt")
    torch.save(clip_file(source), tmp_path / "clip.pt")
    torch.manual_seed(5)
    from tests.methods.clip_dinoiser_models import SIZES

    clip = {"model": SIZES, "pretrained": str(tmp_path / "clip.pt")}
    target = type(source)(
        clip=clip, vocabulary={"source": ["any"]}, proj_channels=8, gamma=0.3, text_cache=False
    ).eval()
    load_checkpoint(target, str(tmp_path / "last.pt"))
    image = torch.randn(1, 3, 32, 32)
    text = source.text_embeddings
    target.set_vocabulary(source.vocabulary, templates=["a {}."])
    target.predict(image)  # fetches CLIP
    torch.testing.assert_close(target.row_logits(image, text), source.row_logits(image, text))


def test_layers_load_from_the_file_that_the_config_names(tmp_path, caplog):
    source = build(seed=1)
    torch.save(published(source), tmp_path / "last.pt")
    target = build(seed=2, layers_pretrained=str(tmp_path / "last.pt"))
    target.predict(torch.randn(1, 3, 32, 32))
    assert torch.equal(target.layers.obj_proj.weight, source.layers.obj_proj.weight)
    assert "random" not in "".join(record.message for record in caplog.records if "two layers" in record.message)


def test_a_checkpoint_wins_over_the_file_that_the_config_names(tmp_path):
    named, given = build(seed=1), build(seed=2)
    torch.save(published(named), tmp_path / "last.pt")
    target = build(seed=3, layers_pretrained=str(tmp_path / "last.pt"))
    target.load_state_dict(to_published_names(given.state_dict()))
    target.predict(torch.randn(1, 3, 32, 32))
    assert torch.equal(target.layers.obj_proj.weight, given.layers.obj_proj.weight)


def test_random_layers_are_warned_of(caplog):
    build().predict(torch.randn(1, 3, 32, 32))
    assert any("two layers have random weights" in record.message for record in caplog.records)


def test_a_file_of_other_sizes_is_refused_whole(tmp_path):
    target = build(seed=2)
    before = target.layers.bkg_decoder.weight.clone()
    with pytest.raises(ValueError, match="of another shape"):
        target.load_state_dict(published(build(seed=1, proj_channels=9)))
    with pytest.raises(ValueError, match="missing"):
        target.load_state_dict({"obj_proj.bias": torch.zeros(8)})
    assert torch.equal(target.layers.bkg_decoder.weight, before)


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="two layers"):
        build(layers_pretrained=str(tmp_path / "other.pt")).predict(torch.randn(1, 3, 32, 32))
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match=r"No tensors found in .*empty\.pt\. Entries: epoch"):
        build(layers_pretrained=str(tmp_path / "empty.pt")).predict(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("entry", "file", "message"),
    [
        ("dino_pretrained", "found_vit.pth", r"found_vit\.pth.*of another shape.*build the model that the file is of"),
        ("dino_pretrained", "found.pt", r"found\.pt: No tensors found\. Entries: decoder"),
        ("found_decoder", "dino.pth", r"dino\.pth is not FOUND's decoder: expected the entry 'decoder'"),
        ("found_pretrained", "absent.pth", r"absent\.pth does not exist"),
    ],
)
def test_a_wrong_file_of_a_teacher_is_named(tmp_path, entry, file, message):
    teacher = {**write_teachers(tmp_path), entry: str(tmp_path / file)}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(teacher=teacher).loss(torch.randn(1, 3, 32, 32), [SegDataSample()])


def test_a_whole_state_makes_the_round_trip():
    source, target = build(seed=1), build(seed=2)
    target.load_state_dict(source.state_dict())
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_teachers_are_no_part_of_the_state():
    network = build(teacher=TEACHER)
    assert {key.split(".")[0] for key in network.state_dict()} == {"clip", "layers"}
    assert {key.split(".")[0] for key in build(DinoCLIP, teacher=TEACHER).state_dict()} == {"clip"}


# --- gradients --------------------------------------------------------------------------------------------------------


def test_only_the_two_layers_learn():
    network = build(teacher=TEACHER).train()
    assert not network.clip.training
    teacher = {key: value.clone() for key, value in network.teacher.state_dict().items()}
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    losses = network.loss(torch.randn(2, 3, 32, 40), [SegDataSample(), SegDataSample()])
    assert set(losses) == {"loss_corr", "loss_bkg"}
    sum(losses.values()).backward()
    with_gradient = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"layers.{name}" for name, _ in network.layers.named_parameters()}
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == with_gradient
    assert all(torch.equal(value, teacher[key]) for key, value in network.teacher.state_dict().items())


def test_something_else_that_would_learn_is_named():
    network = build(teacher=TEACHER)
    network.clip.visual.proj.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"clip\.visual\.proj"):
        network.loss(torch.randn(1, 3, 32, 32), [SegDataSample()])


def test_training_without_a_teacher_says_what_to_set():
    with pytest.raises(ValueError, match="DinoFoundTeacher"):
        build().loss(torch.randn(1, 3, 32, 32), [SegDataSample()])


def test_losses_under_mixed_precision_are_float32_and_close():
    network = build(teacher=TEACHER).train()
    images = torch.randn(2, 3, 32, 32)
    full = network.loss(images, [SegDataSample(), SegDataSample()])
    with torch.autocast("cpu", torch.bfloat16):
        reduced = network.loss(images, [SegDataSample(), SegDataSample()])
    for name, value in reduced.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, full[name], atol=0.05, rtol=0)  # bfloat16 has three digits
    sum(reduced.values()).backward()
    assert network.layers.obj_proj.weight.grad.isfinite().all()
