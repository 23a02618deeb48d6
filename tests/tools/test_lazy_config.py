"""Python-style configs of mmengine, which name classes instead of strings."""

from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_plugins.methods.maskclip.model import MaskCLIP

BASE = """
from mmseg.models.data_preprocessor import SegDataPreProcessor

from mmseg_plugins.methods.maskclip.model import MaskCLIP

model = dict(
    type=MaskCLIP,
    clip=dict(model="shapesworld"),
    vocabulary=dict(source="shapesworld_38"),
    data_preprocessor=dict(type=SegDataPreProcessor, mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=True),
)
"""
DERIVED = """
from mmengine.config import read_base

with read_base():
    from .base import model

model.update(ks_thresh=1.0)
"""


def test_python_style_configs_inherit_and_build(tmp_path):
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "derived.py").write_text(DERIVED)
    config = Config.fromfile(tmp_path / "derived.py")
    model = MODELS.build(config.model)
    assert isinstance(model, MaskCLIP)
    assert model.ks_thresh == 1.0
    assert model.num_classes == 38
