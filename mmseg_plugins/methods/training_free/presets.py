"""The published methods as settings of the one tower in ``towers/``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from mmseg_plugins.vocabulary.suggest import unknown_name

Surgery = Literal["none", "class_mean", "empty_text"]
MapScaling = Literal["none", "tokens", "image"]

# What the SCLIP family shares: the position table is resized by scale factor unless the number of tokens is the
# trained one, and a remainder of a patch is dropped.
_HARNESS = MappingProxyType({"position_resize": "scale_factor", "position_match": "count", "padding": "floor"})
_REDUCED = MappingProxyType({"residual": False, "mlp": False, **_HARNESS})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One method.

    Attributes:
        paper: title and place.
        dense: fields of :class:`mmseg_plugins.towers.dense.DenseOptions`.
        mean_share: share of the mean attention of earlier blocks in the last block's weights (ITACLIP).
        class_token_weight: factor of the class token's cosines, added to those of every place (SegEarth-OV).
        surgery: CLIP Surgery's removal of what all classes share: ``class_mean`` of the features weighted by the
            image's own classes, or the embedding of the ``empty_text``.
        map_scaling: scale the map of each prompt row to [0, 1]: over the ``tokens`` before it is enlarged (CLIP
            Surgery), or over the whole enlarged ``image`` (GEM).
    """

    paper: str
    dense: Mapping[str, Any] = field(default_factory=dict)
    mean_share: float = 0.0
    class_token_weight: float = 0.0
    surgery: Surgery = "none"
    map_scaling: MapScaling = "none"


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "clip": Preset(
            paper="Radford et al., ICML 2021: the unchanged last block, the baseline of all",
            dense={"rule": "qk", **_HARNESS},
        ),
        "maskclip": Preset(
            paper="Zhou et al., ECCV 2022, in the SCLIP family's harness; the paper's own is configs/maskclip",
            dense={"rule": "value", **_HARNESS},
        ),
        "clip_surgery": Preset(
            paper="Li et al., CLIP Surgery, Pattern Recognition 2025",
            dense={
                "rule": "vv",
                "stream": "parallel",
                "first_block": -6,
                "position_resize": "bilinear",
                "padding": "floor",
            },
            surgery="class_mean",
            map_scaling="tokens",
        ),
        "gem": Preset(
            paper="Bousselham et al., Grounding Everything, CVPR 2024",
            dense={
                "rule": "vv+kk+qq",
                "combine": "mean",
                "stream": "parallel",
                "first_block": -6,
                "unit_rows": True,
                "temperature": "norm",
                "iterations": 1,
                "keep_class_token": False,
                "position_resize": "antialias",
                "padding": "floor",
            },
        ),
        "anovl": Preset(
            paper="Deng et al., AnoVL, arXiv 2308.15939: its value path, without its prompts",
            dense={"rule": "vv", "stream": "parallel", "first_block": 0, "padding": "floor"},
        ),
        "sclip": Preset(
            paper="Wang et al., SCLIP, ECCV 2024",
            dense={"rule": "qq+kk", **_HARNESS},
        ),
        "clearclip": Preset(
            paper="Lan et al., ClearCLIP, ECCV 2024",
            dense={"rule": "qq", **_REDUCED},
        ),
        "naclip": Preset(
            paper="Hajimiri et al., NACLIP, WACV 2025",
            dense={"rule": "kk", "gaussian_std": 5.0, **_REDUCED},
        ),
        "itaclip": Preset(
            paper="Aydin et al., ITACLIP, CVPR workshops 2025: its attention, without image and text engineering",
            dense={"rule": "qq+kk", "mlp": False, "mean_blocks": (6, 7, 9), "mean_rule": "qq+kk", **_HARNESS},
            mean_share=0.5,
        ),
        "segearth": Preset(
            paper="Li et al., SegEarth-OV, CVPR 2025: without its learned up-sampler",
            dense={"rule": "qq+kk+vv", **_REDUCED, "ordinary": True},
            class_token_weight=-0.3,
        ),
        "reduced": Preset(
            paper="the last block's value path alone: its attention comes from another network (ProxyCLIP)",
            dense={"rule": "value", **_REDUCED},
        ),
    }
)


def find_preset(name: str) -> Preset:
    """Return a method's settings.

    Raises:
        KeyError: if there is no such method; the message lists them.
    """
    if name not in PRESETS:
        raise unknown_name("training-free method", name, list(PRESETS))
    return PRESETS[name]
