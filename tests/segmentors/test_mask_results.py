"""Annotated segments as masks with sure classes: the way through segmentor, exporter and scorer must lose nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_plugins.cli.main import main
from mmseg_plugins.evaluation.class_lists import load_class_list
from mmseg_plugins.evaluation.saving import LABEL_MAPS, PredictionSaver
from mmseg_plugins.masks.proposals import MaskProposals, ProposalSource
from mmseg_plugins.vocabulary.embed import TextEmbeddings
from tests.segmentors.test_mask import build

COCO = Path(__file__).parents[1] / "fixtures/samples/coco_panoptic"
TRUTH = COCO / "annotations/panoptic_examples.json"
CLASSES = load_class_list("coco_panoptic")


@MODELS.register_module(force=True)
class AnnotatedForTest(ProposalSource):
    """The segments of a panoptic PNG, with in-vocabulary logits that leave no doubt."""

    gives_classes = True

    def propose(self, request):
        [sample] = request.data_samples
        masks = torch.from_numpy(np.stack([sample.ids == segment["id"] for segment in sample.segments]))
        labels = [CLASSES.index_of_category[segment["category_id"]] for segment in sample.segments]
        logits = torch.zeros(len(labels), CLASSES.num_classes + 1)
        logits[range(len(labels)), labels] = 40.0
        sharp = torch.where(masks, 127, -127).to(torch.int8)
        return [MaskProposals(mask_logits=sharp, covers="image", class_logits=logits)]


def annotated_samples():
    content = json.loads(TRUTH.read_text())
    for entry in content["annotations"]:
        rgb = np.array(Image.open(TRUTH.with_suffix("") / entry["file_name"]), dtype=np.int64)
        ids = rgb @ np.array([1, 256, 65536])
        name = entry["file_name"].replace(".png", ".jpg")
        sample = SegDataSample(metainfo={"ori_shape": ids.shape, "img_path": name, "img_id": entry["image_id"]})
        sample.set_field([s for s in entry["segments_info"] if not s["iscrowd"]], "segments", field_type="metainfo")
        sample.set_field(ids, "ids", field_type="metainfo")
        yield sample


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictions")
    model = build(
        kind="annotated",
        proposals={"type": "AnnotatedForTest"},
        vocabulary={"source": "coco_panoptic_133", "templates": ["a {}."]},
        train_vocabulary={"source": "coco_panoptic_133", "templates": ["a {}."]},
        scoring={"rule": "ensemble", "alpha": 0.0, "beta": 0.0},
        outputs={"panoptic": True, "instance": True},
        mask_classifier={"type": "MaskPoolingClassifier", "resize": "features"},
    )
    model.set_text_embeddings(random_text(model))
    meta = {"classes": CLASSES.names, "isthing": CLASSES.is_thing, "dataset_ids": CLASSES.category_ids}
    saver = PredictionSaver(folder, dataset_meta=meta)
    samples = list(annotated_samples())
    for sample in samples:
        height, width = (side // 4 for side in sample.ori_shape)
        [result] = model.predict(torch.randn(1, 3, height, width), [sample])
        saver.save(result.to_dict())
    saver.finish(len(samples))
    return folder


def random_text(model):
    rows = torch.nn.functional.normalize(torch.randn(model.num_classes, 12), dim=-1)
    return TextEmbeddings(rows, torch.arange(model.num_classes), model.num_classes)


def score(capsys, *arguments):
    code = main(["score", *map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)["figures"]


def test_panoptic_predictions_score_100(predictions, capsys):
    figures = score(capsys, "panoptic", "--gt", TRUTH, "--pred", predictions, "--classes", "coco_panoptic")
    assert figures["All"]["pq"] == 1


def test_instance_predictions_score_100(predictions, capsys):
    pytest.importorskip("pycocotools")
    figures = score(capsys, "instance", "--gt", COCO / "instances_gt.json", "--pred", predictions)
    assert figures["segm"]["AP"] == pytest.approx(1.0, abs=1e-6)


def test_label_maps_name_every_annotated_pixel(predictions):
    for sample in annotated_samples():
        labels = np.array(Image.open(predictions / LABEL_MAPS / f"{Path(sample.img_path).stem}.png"))
        for segment in sample.segments:
            named = labels[sample.ids == segment["id"]]
            assert (named == CLASSES.index_of_category[segment["category_id"]]).all()
