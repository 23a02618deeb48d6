"""Mask-Adapter on masks of Mask2Former and of SAM, on a frozen and a fine-tuned CLIP, through tools/test.py."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mmseg_plugins.register  # noqa: F401  (registers)
from mmseg_plugins.cli.main import main
from tests.methods.mask_adapter.models import published
from tests.tools.test_sam_test_tool import ROOT, run_test

pytest.importorskip("segment_anything", reason="SAM proposals need segment-anything")

BASE = ROOT / "configs/mask_adapter/_base_/shapes-vit.py"
TRANSFER = (
    "text_transfer=dict(type='ContentDependentTransfer', embed_dim=96, variant='semantic', token_order='legacy'),"
)
SAM = """proposals=dict(
        _delete_=True,
        type='SamProposals',
        model=dict(image_size=64, patch=8, width=32, depth=1),
        automatic=dict(points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0)),
    scoring=dict(_delete_=True, rule='clip'),"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    given = ["--split", "validation", "--count", "2", "--seed", "5", "--format", "both"]
    assert main(["shapes", "--out", str(folder), *given]) == 0
    return folder


def config(folder, name, *parts):
    path = folder / f"{name}.py"
    path.write_text(f"_base_ = [{str(BASE)!r}]\nmodel = dict(\n    {' '.join(parts)})\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["", TRANSFER], ids=["frozen", "fine-tuned"])
def base(request, tmp_path_factory):
    """What a base adds to the config, and a file in the published layout."""
    folder = tmp_path_factory.mktemp("files")
    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config(folder, "source", request.param)).model)
    state = {key: value for key, value in published(model, wrap=False).items() if not key.startswith("pyramid.")}
    torch.save({"model": state}, folder / "file.pth")
    return request.param, folder / "file.pth"


@pytest.mark.parametrize("masks", ["", SAM], ids=["decoder", "sam"])
def test_every_crossing_loads_a_published_file_and_is_scored(tmp_path, scenes, capsys, caplog, base, masks):
    transfer, file = base
    printed = run_test(config(tmp_path, "crossed", transfer, masks), tmp_path, scenes, capsys, load_from=file)
    assert {"PQ", "SQ", "RQ"} <= set(printed)
    assert not any(text.startswith("random weights:") for text in caplog.messages), "the file filled every part"
