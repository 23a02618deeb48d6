"""Building a SAM from a package's registry or from its modules, and filling it from a file.

Kirillov et al.: "Segment Anything", ICCV 2023 (arXiv 2304.02643).
"""

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.towers.layouts import compare_keys
from mmseg_plugins.towers.weights import find_file

logger = logging.getLogger(__name__)

PACKAGE = "segment_anything"
_EXTRAS = {PACKAGE: "sam", "mobile_sam": "mobile-sam"}  # of this package, by the module that they bring
# Sizes of the registries by their names, and the records of their released weights.
_RELEASED = {
    "default": "sam_vit_h",
    "vit_h": "sam_vit_h",
    "vit_l": "sam_vit_l",
    "vit_b": "sam_vit_b",
    "vit_t": "mobile_sam",
}
_NORM_EPS = 1e-6  # of the image encoder, as published
_PIXEL_MEAN, _PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class SamSize:
    """The numbers of a SAM that is in no registry; the defaults are small, for tests and trials.

    Attributes:
        image_size: side of the square that images are brought to, in pixels.
        patch: side of a patch; divides ``image_size``.
        width, depth, heads: of the image encoder.
        window: side of the attention windows, in patches.
        global_blocks: indices of the blocks that attend to the whole image.
        prompt_width: width of prompts and decoder; a multiple of 8.
        decoder_heads, decoder_depth, decoder_mlp: of the two-way transformer.
    """

    image_size: int = 64
    patch: int = 8
    width: int = 32
    depth: int = 2
    heads: int = 2
    window: int = 4
    global_blocks: tuple[int, ...] = (1,)
    prompt_width: int = 32
    decoder_heads: int = 2
    decoder_depth: int = 2
    decoder_mlp: int = 64

    def __post_init__(self) -> None:
        if self.image_size % self.patch or self.prompt_width % 8:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of patch {self.patch}, and prompt_width "
                f"{self.prompt_width} one of 8."
            )


def import_package(name: str = PACKAGE) -> ModuleType:
    """Import a SAM package: ``segment_anything``, or one with the same interface, such as ``mobile_sam``.

    Raises:
        ImportError: if it is missing, or has another interface.
    """
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        extra = _EXTRAS.get(name)
        install = f"pip install 'mmseg_plugins[{extra}]'" if extra else f"install the package that has {name!r}"
        raise ImportError(f"SAM proposals need the package {name!r} ({error}). Remedy: {install}.") from error
    wanted = ("sam_model_registry", "SamPredictor", "SamAutomaticMaskGenerator")
    missing = [part for part in wanted if not hasattr(package, part)]
    if missing:
        raise ImportError(f"package {name!r} has no {', '.join(missing)}: it is not made like {PACKAGE!r}.")
    return package


def check_model(model: str | Mapping[str, Any]) -> None:
    """Raise unless a model's config is of the right form; the package need not be there.

    Raises:
        ValueError: if the numbers are unknown or do not fit.
        TypeError: if it is neither a name nor numbers.
    """
    if isinstance(model, str):
        return
    if not isinstance(model, Mapping):
        raise TypeError(f"expected model to be a name or a dict of numbers, but got {type(model).__name__}.")
    unknown = sorted(set(model) - {item.name for item in fields(SamSize)})
    if unknown:
        raise ValueError(f"unknown numbers {unknown} of a SAM. Known: {[item.name for item in fields(SamSize)]}.")
    SamSize(**model)


def build_sam(model: str | Mapping[str, Any], package: str = PACKAGE) -> nn.Module:
    """Build a SAM with random weights, in eval mode and without gradient.

    Args:
        model: name in the package's registry (``vit_b``, ``vit_l``, ``vit_h``, ...), or fields of :class:`SamSize`.
        package: package to take it from.

    Raises:
        ImportError: if the package is missing.
        KeyError: if the registry has no such name; the message lists those it has.
    """
    check_model(model)
    source = import_package(package)
    if isinstance(model, str):
        if model not in source.sam_model_registry:
            hint = " MobileSAM is built with package='mobile_sam'." if model == "vit_t" else ""
            raise KeyError(f"{package!r} has no model {model!r}. It has: {', '.join(source.sam_model_registry)}.{hint}")
        sam = source.sam_model_registry[model](checkpoint=None)
    else:
        sam = _assemble(SamSize(**model), importlib.import_module(f"{package}.modeling"))
    return sam.eval().requires_grad_(False)


def _assemble(size: SamSize, parts: ModuleType) -> nn.Module:
    grid = size.image_size // size.patch
    return parts.Sam(
        image_encoder=parts.ImageEncoderViT(
            img_size=size.image_size,
            patch_size=size.patch,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            out_chans=size.prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=_NORM_EPS),
            use_rel_pos=True,
            window_size=size.window,
            global_attn_indexes=size.global_blocks,
        ),
        prompt_encoder=parts.PromptEncoder(
            embed_dim=size.prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(size.image_size, size.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=parts.MaskDecoder(
            num_multimask_outputs=3,
            transformer=parts.TwoWayTransformer(
                depth=size.decoder_depth,
                embedding_dim=size.prompt_width,
                mlp_dim=size.decoder_mlp,
                num_heads=size.decoder_heads,
            ),
            transformer_dim=size.prompt_width,
        ),
        pixel_mean=list(_PIXEL_MEAN),
        pixel_std=list(_PIXEL_STD),
    )


def released_weights(model: str | Mapping[str, Any]) -> str | None:
    """Return the name of the record of a registry model's released weights, None where none is known."""
    return _RELEASED.get(model) if isinstance(model, str) else None


def load_sam_weights(sam: nn.Module, checkpoint: str) -> None:
    """Fill a SAM, whole or not at all.

    Args:
        sam: from :func:`build_sam`.
        checkpoint: path, or name of a record of weights, fetched on first use.

    Raises:
        FileNotFoundError: if the file is not there and cannot be fetched.
        ValueError: if it is damaged, unsafe to read, or of another model.
    """
    path = find_file(checkpoint)
    tensors = unwrap_state_dict(read_tensors(path), path)
    own = sam.state_dict()
    compare_keys(own, tensors, what=f"this SAM ({path})")
    sam.load_state_dict({key: tensors[key] for key in own})
    logger.info("loaded SAM weights from %s", path)
