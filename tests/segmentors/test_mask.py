import logging

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_plugins.register  # noqa: F401  (fills the registries)
from mmseg_plugins.classify.ensemble import clip_scores
from mmseg_plugins.evaluation.metrics.instance_metric import InstanceAPMetric
from mmseg_plugins.evaluation.metrics.panoptic_metric import PanopticQualityMetric
from mmseg_plugins.evaluation.saving import PredictionSaver
from mmseg_plugins.masks.proposals import MaskProposals, ProposalSource
from mmseg_plugins.segmentors.mask import MaskSegmentor
from mmseg_plugins.segmentors.mask_options import MaskOutputs, MaskScoring, read_options
from mmseg_plugins.segmentors.mask_prediction import masks_over_input
from mmseg_plugins.segmentors.tta import OpenVocabularyTTAModel
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig

TEXT = TextConfig(width=16, heads=2, layers=1)
VISION = {
    "convnext": VisionConfig(
        family="convnext", timm_name="convnext_base", timm_pool="",
        timm_options={"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    ),
    "resnet": VisionConfig(family="resnet", width=8, layers=(1, 1, 1, 1), heads=4, image_size=(64, 64)),
    "vit": VisionConfig(family="vit", width=16, layers=2, heads=2, patch=8, image_size=(64, 64)),
    "fastvit": VisionConfig(family="pyramid", timm_name="fastvit_mci0", timm_proj="linear"),
    "timm": VisionConfig(
        family="timm", timm_name="vit_tiny_patch16_224", timm_pool="token", image_size=(64, 64),
        timm_options={"embed_dim": 16, "depth": 2, "num_heads": 2},
    ),
    "vit14": VisionConfig(family="vit", width=16, layers=2, heads=2, patch=14, image_size=(56, 56)),
}  # fmt: skip
STAGES = {"convnext": (8, 8, 16, 16), "resnet": (32, 64, 128, 256), "fastvit": (64, 128, 256, 512)}
SMALL = {
    "embed_dim": 12, "conv_dim": 16, "mask_dim": 16, "hidden_dim": 16, "num_queries": 6, "encoder_layers": 1,
    "decoder_layers": 3, "heads": 2, "encoder_ffn": 16, "decoder_ffn": 16, "norm_groups": 4,
}  # fmt: skip


@MODELS.register_module(force=True)
class HalvesForTest(ProposalSource):
    """Left and right half of the image, as masks of the image or of the padded input."""

    def __init__(self, *, covers="image", count=2):
        super().__init__()
        self.covers, self.count, self.requests = covers, count, []

    def propose(self, request):
        self.requests.append(request)
        size = request.image_sizes[0] if self.covers == "image" else request.padded_size
        masks = torch.full((2, *size), -20.0)
        middle = request.image_sizes[0][1] // 2
        masks[0, :, :middle], masks[1, :, middle:] = 20.0, 20.0
        return [MaskProposals(mask_logits=masks[: self.count], covers=self.covers) for _ in request.images]


def build(family="convnext", kind="decoder", **options):
    torch.manual_seed(0)
    init_default_scope("mmseg")
    config = {
        "clip": {"model": ClipConfig(name=family, embed_dim=12, vision=VISION[family], text=TEXT)},
        "vocabulary": {"source": "cat; sofa, couch; sky", "templates": ["a {}."]},
        "text_cache": False,
    }
    if kind == "decoder":
        stages = STAGES.get(family)
        if stages is None:
            config["pyramid"] = {"type": "SimplePyramid", "width": 16, "stride": VISION[family].patch or 16}
            stages = MODELS.build(config["pyramid"]).stage_channels
        config["proposals"] = {"type": "OpenVocabularyMask2Former", "stage_channels": stages, **SMALL}
        config["train_vocabulary"] = {"source": "cat; dog, couch", "templates": ["a {}."]}
    else:
        config |= {"proposals": {"type": "HalvesForTest"}, "scoring": {"rule": "clip"}}
    return MaskSegmentor(**(config | options)).eval()


def sample(**meta):
    return SegDataSample(metainfo=meta)


@pytest.mark.parametrize("family", sorted(VISION))
@pytest.mark.parametrize("kind", ["decoder", "halves"])
def test_every_tower_crosses_with_every_source(family, kind):
    outputs = {"panoptic": True, "instance": True}
    model = build(family, kind, outputs=outputs)
    [result] = model.predict(torch.randn(1, 3, 50, 70), [sample(ori_shape=(100, 140))])
    assert result.pred_sem_seg.data.shape == (1, 100, 140)
    assert 0 <= int(result.pred_sem_seg.data.min()) <= int(result.pred_sem_seg.data.max()) < 3
    segments = result.pred_panoptic_seg
    present = {segment["id"] for segment in segments.segments_info}
    assert set(segments.data.unique().tolist()) - {0} == present
    found = result.pred_instances
    assert found.masks.shape == (len(found.labels), 100, 140)
    assert found.scores.isfinite().all()


@pytest.mark.parametrize("kind", ["decoder", "halves"])
def test_a_batch_gives_what_its_images_give_one_by_one(kind):
    model = build(kind=kind, outputs={"panoptic": True})
    images = torch.randn(3, 3, 64, 64)
    padding = [(0, 0, 0, 0), (0, 14, 0, 10), (0, 0, 0, 0)]
    samples = [sample(ori_shape=(40, 60), img_padding_size=pad) for pad in padding]
    together = model.predict(images, samples)
    for index in range(3):
        _, right, _, bottom = padding[index]
        image = images[index : index + 1, :, : 64 - bottom, : 64 - right]
        [alone] = model.predict(image, [sample(ori_shape=(40, 60))])
        same = (alone.pred_sem_seg.data == together[index].pred_sem_seg.data).float().mean()
        assert same > 0.999
        assert (alone.pred_panoptic_seg.data == together[index].pred_panoptic_seg.data).float().mean() > 0.999


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flips_are_undone(direction):
    """With symmetric weights the network would commute with flips; a stub that marks one corner shows the undoing."""
    model = build()
    axis = {"horizontal": -1, "vertical": -2}[direction]
    image = torch.randn(1, 3, 50, 70)
    image[..., :20, :20] += 30

    def mark(images):
        encoded = type(model).encode(model, images)
        bright = F.avg_pool2d(images.mean(1, keepdim=True), 2)
        model.proposals.forward = lambda *_, **__: [
            type("P", (), {"mask_logits": bright - 10, "class_logits": torch.tensor([[[9.0, 0.0, 0.0, 0.0]]])})()
        ]
        return encoded

    model.encode = mark
    model.outputs = MaskOutputs(instance=True, top_k=1)
    flip = {"flip": True, "flip_direction": direction}
    [plain], [flipped] = (
        model.predict(image, [sample(ori_shape=(50, 70))]),
        model.predict(image.flip(axis), [sample(ori_shape=(50, 70), **flip)]),
    )
    assert torch.equal(plain.pred_instances.masks, flipped.pred_instances.masks)
    assert 300 < int(plain.pred_instances.masks.sum()) < 500


def test_unknown_flips_and_flips_of_whole_image_masks_are_refused():
    image = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="diagonal"):
        build().predict(image, [sample(flip=True, flip_direction="diagonal")])
    with pytest.raises(ValueError, match="leave out flips"):
        build(kind="halves").predict(image, [sample(flip=True, flip_direction="horizontal")])


def test_masks_of_the_image_and_of_the_input_are_named_alike():
    images = torch.randn(1, 3, 50, 70)
    maps = []
    for covers in ("image", "input"):
        model = build(kind="halves", proposals={"type": "HalvesForTest", "covers": covers})
        maps.append(model.predict(images)[0].pred_sem_seg.data)
        request = model.proposals.requests[0]
        assert request.padded_size == (64, 96)
        assert request.image_sizes == [(50, 70)]
    assert torch.equal(*maps)


def test_oracle_halves_get_the_scores_of_their_pooled_features():
    model = build(kind="halves")
    image = torch.randn(1, 3, 64, 64)
    dense = model.encode(image).features.dense[0]
    text = model.text_embeddings
    labels = []
    for half in (dense[:, :, :1], dense[:, :, 1:]):
        cosines = F.normalize(model.clip.visual.project(half.flatten(1).mean(1)), dim=0) @ text.rows.T
        best = torch.stack([cosines[text.row_class == index].max() for index in range(3)])
        labels.append(int(best.argmax()))
    predicted = model.predict(image)[0].pred_sem_seg.data[0]
    assert torch.equal(predicted[:, :32].unique(), torch.tensor([labels[0]]))
    assert torch.equal(predicted[:, 32:].unique(), torch.tensor([labels[1]]))


def test_no_masks_give_empty_results():
    model = build(
        kind="halves", proposals={"type": "HalvesForTest", "count": 0}, outputs={"panoptic": True, "instance": True}
    )
    [result] = model.predict(torch.randn(1, 3, 32, 32))
    assert not result.pred_sem_seg.data.any()
    assert result.pred_panoptic_seg.segments_info == []
    assert len(result.pred_instances.labels) == 0


def test_vocabulary_is_a_value_one_class_included():
    model = build(outputs={"panoptic": True, "instance": True, "keep_logits": True})
    image = torch.randn(1, 3, 64, 64)
    assert model.seen.tolist() == [True, True, False]
    model.set_vocabulary("zebra")
    [result] = model.predict(image)
    assert model.seen.tolist() == [False]
    assert result.seg_logits.data.shape == (1, 64, 64)
    assert not result.pred_sem_seg.data.any()
    assert set(result.pred_instances.labels.tolist()) == {0}
    model.set_vocabulary("zebra", background={"threshold": 0.9})
    assert model.num_classes == 2
    background = model.vocabulary.background.index
    labels = model.predict(image)[0].pred_sem_seg.data
    sums = model.predict(image)[0].seg_logits.data[1 - background]
    torch.testing.assert_close(labels[0] == background, sums < 0.9)


def test_synonyms_count_by_their_best_name():
    model = build(kind="halves")
    image = torch.randn(1, 3, 64, 64)
    text = model.text_embeddings
    features = model.encode(image).features
    logits = model.out_vocabulary_logits(features, torch.ones(1, 1, 4, 4), text)[0, 0]
    single = []
    for name in text.rows:
        unit = F.normalize(model.mask_classifier(features, torch.ones(1, 1, 4, 4))[0, 0], dim=0)
        single.append(float(model.clip.logit_scale.exp() * unit @ name))
    torch.testing.assert_close(logits, torch.tensor([single[0], max(single[1:3]), single[3]]))


@pytest.mark.parametrize("rule", ["ensemble", "void", "clip"])
def test_scoring_rules_run_in_half_precision_without_nan(rule):
    model = build("resnet", scoring={"rule": rule}, outputs={"panoptic": True, "keep_logits": True})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        [result] = model.predict(torch.randn(1, 3, 64, 64))
    assert result.seg_logits.data.isfinite().all()


@pytest.mark.parametrize("rule", ["ensemble", "void"])
def test_temperature_divides_the_decoders_logits_void_included(rule):
    """Hotter logits score as logits that were divided before; a temperature of 1 changes no bit."""
    features = encode_features()
    model = build(scoring={"rule": rule, "in_temperature": 2.0})
    plain = build(scoring={"rule": rule})
    logits, masks = torch.randn(4, 4) * 5, torch.randn(1, 4, 16, 16)

    def scores(of, class_logits):
        given = MaskProposals(mask_logits=masks[0], class_logits=class_logits)
        return of.score_masks(features, given, masks, of.classifier_text())

    assert torch.equal(scores(model, logits), scores(plain, logits / 2))
    assert not torch.allclose(scores(model, logits), scores(plain, logits))
    with pytest.raises(ValueError, match=r"in_temperature above 0.* but got 0"):
        MaskScoring(in_temperature=0)


def encode_features():
    with torch.no_grad():
        return build().encode(torch.randn(1, 3, 64, 64)).features


def test_empty_masks_of_a_resnet_do_not_spoil_the_map():
    model = build("resnet", "halves")
    features = model.encode(torch.randn(1, 3, 64, 64)).features
    masks = torch.stack([torch.full((8, 8), -1.0), torch.ones(8, 8)])[None]
    logits = model.out_vocabulary_logits(features, masks, model.text_embeddings)
    assert clip_scores(logits).isfinite().all()


def test_scores_and_logits_agree_with_the_label_map():
    model = build(outputs={"keep_logits": True})
    [result] = model.predict(torch.randn(1, 3, 50, 70), [sample(ori_shape=(30, 40))])
    assert torch.equal(result.seg_logits.data.argmax(0), result.pred_sem_seg.data[0])
    scores = model.encode_decode(torch.randn(2, 3, 50, 70))
    assert scores.shape == (2, 3, 50, 70)


def test_test_time_augmentation_averages_the_sums_of_views():
    model = build()
    augmented = OpenVocabularyTTAModel(module=model)
    image = torch.randn(1, 3, 64, 64)
    flip = {"flip": True, "flip_direction": "horizontal"}
    views = [
        model.predict(image, [sample(ori_shape=(64, 64), img_path="a.png")]),
        model.predict(image.flip(-1), [sample(ori_shape=(64, 64), img_path="a.png", **flip)]),
    ]
    shares = [view[0].seg_logits.data / view[0].seg_logits.data.sum(0) for view in views]
    views[0][0].set_data({"gt_sem_seg": PixelData(data=torch.zeros(1, 64, 64))})
    [merged] = augmented.merge_preds([[view[0] for view in views]])
    assert torch.equal(merged.pred_sem_seg.data[0], sum(shares).argmax(0))


def test_clip_is_frozen_and_stays_in_eval_mode():
    model = build().train()
    assert model.training
    assert model.proposals.training
    assert not any(module.training for module in model.clip.modules())
    trained = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"proposals", "void_embedding"}
    assert not model.encode(torch.randn(1, 3, 32, 32)).features.dense.requires_grad
    assert build(freeze_clip=False).encode(torch.randn(1, 3, 32, 32)).features.dense.requires_grad


def test_training_text_is_that_of_the_training_vocabulary():
    model = build()
    text = model.training_text()
    assert text.num_classes == 3
    assert text.row_class.tolist() == [0, 1, 1, 2]
    text.rows.sum().backward()
    assert model.void_embedding.weight.grad is not None
    assert model.classifier_text().num_classes == 4


def test_results_go_through_metrics_and_exporter(tmp_path):
    model = build(kind="halves", outputs={"panoptic": True, "instance": True})
    [result] = model.predict(torch.randn(1, 3, 64, 64), [sample(ori_shape=(64, 64), img_path="x/7.jpg", img_id=7)])
    entry = result.to_dict()
    meta = {"classes": model.vocabulary.class_names, "isthing": [1, 1, 1], "dataset_ids": [0, 1, 2]}
    ids, info = entry["pred_panoptic_seg"]["data"], entry["pred_panoptic_seg"]["segments_info"]
    truth = [{"id": s["id"], "label": s["category_id"], "is_crowd": False, "area": s["area"]} for s in info]
    entry["gt_panoptic_seg"] = {"data": ids, "segments_info": truth}
    metric = PanopticQualityMetric()
    metric.dataset_meta = meta
    metric.process({}, [entry])
    assert metric.evaluate(1)["PQ"] == pytest.approx(100.0)
    pytest.importorskip("pycocotools")
    best = entry["pred_instances"]["scores"].argsort(descending=True)[:2]
    entry["gt_instances"] = {key: entry["pred_instances"][key][best] for key in ("labels", "masks")}
    instances = InstanceAPMetric()
    instances.dataset_meta = meta
    instances.process({}, [entry])
    assert instances.evaluate(1)["AP"] > 0
    saver = PredictionSaver(tmp_path, dataset_meta=meta)
    saver.save(entry)
    saver.finish(1)
    assert (tmp_path / "panoptic" / "7.png").is_file()


def test_random_decoders_are_mentioned_once(caplog):
    model = build()
    with caplog.at_level(logging.WARNING):
        model.predict(torch.randn(1, 3, 32, 32))
        model.predict(torch.randn(1, 3, 32, 32))
    assert sum("mask decoder has random weights" in record.message for record in caplog.records) == 1


def test_a_decoder_that_was_just_trained_is_not_called_random(caplog):
    model = build().train()
    model.decode(model.encode(torch.randn(1, 3, 32, 32)).stages, model.classifier_text())
    model.eval().predict(torch.randn(1, 3, 32, 32))
    assert "mask decoder has random weights" not in caplog.text


def test_masks_over_input_put_an_outside_around_masks_of_the_image():
    masks = torch.ones(1, 25, 35)
    padded = masks_over_input(MaskProposals(mask_logits=masks, covers="image"), (50, 70), (64, 96))
    assert padded.shape == (1, 32, 48)
    assert (padded[:, :25, :35] == 1).all()
    assert (padded[:, 25:] == -1).all()


@pytest.mark.parametrize(
    ("family", "kind", "options", "message"),
    [
        ("convnext", "halves", {"scoring": {"rule": "ensemble"}}, "rule='clip'"),
        ("convnext", "halves", {"scoring": {"rule": "void"}}, "without"),
        ("convnext", "decoder", {"train_vocabulary": None}, "train_vocabulary"),
        ("vit", "decoder", {"pyramid": None}, "SimplePyramid"),
        ("convnext", "decoder", {"pyramid": {"type": "SimplePyramid", "width": 16, "stride": 8}}, "leave out pyramid"),
        ("convnext", "decoder", {"test_cfg": {"mode": "slide"}}, "mode='whole'"),
        ("convnext", "decoder", {"align_corners": True}, "align_corners"),
        ("convnext", "decoder", {"scoring": {"rule": "vote"}}, "vote"),
        ("convnext", "decoder", {"scoring": {"alpha": 2.0}}, "alpha"),
        ("convnext", "decoder", {"scoring": {"gamma": 2.0}}, "gamma"),
        ("convnext", "decoder", {"outputs": {"semantic": False}}, "asks for nothing"),
        ("convnext", "decoder", {"outputs": {"top_k": 0}}, "top_k"),
        ("convnext", "decoder", {"outputs": {"overlap_threshold": 1.5}}, "overlap_threshold"),
        ("convnext", "decoder", {"outputs": {"resize_order": "twice"}}, "twice"),
        ("convnext", "decoder", {"dense": {"rule": "qq"}}, "convolutional"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(family, kind, options, message):
    with pytest.raises(ValueError, match=message):
        build(family, kind, **options).predict(torch.randn(1, 3, 32, 32))


def test_options_are_values():
    assert read_options(MaskScoring, None, "scoring") == MaskScoring()
    ready = MaskOutputs(panoptic=True)
    assert read_options(MaskOutputs, ready, "outputs") is ready
    assert ready.order == "masks"
    assert MaskOutputs().order == "scores"
    assert MaskOutputs(resize_order="masks").order == "masks"
    settings = build().harness_settings()
    assert settings["seen classes"] == "2 of 3"
    assert "alpha 0.4" in settings["scoring"]
