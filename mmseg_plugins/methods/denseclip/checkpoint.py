"""Published files and configs of DenseCLIP, and CLIP files to start from.

A published checkpoint has this model's own names, key for key. Its class names stand in ``meta['CLASSES']``, as the
tokens are not stored. A CLIP file fills backbone and text encoder; its position tables are cut and resized here.
"""

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmseg_plugins.segmentors.strict_loading import check_fit
from mmseg_plugins.towers.files import install_safe_loader, unwrap_state_dict
from mmseg_plugins.towers.layouts import part_of, to_openai_layout
from mmseg_plugins.towers.loading import with_full_token_table
from mmseg_plugins.towers.position import Grid, resize_positions
from mmseg_plugins.towers.text import TextTower

logger = logging.getLogger(__name__)

# Entries of the published configs that their own code never reads.
INERT_KEYS = {
    "backbone": ("style",),
    "text_encoder": ("style",),
    "context_decoder": ("style", "outdim", "context_length"),
}
_IMAGE_PREFIX = "visual."
_POSITION_KEYS = ("positional_embedding", "attnpool.positional_embedding")
# Parts of CLIP's image tower that a backbone without embeddings leaves out.
_EMBEDDING_KEYS = ("attnpool.", "ln_post.", "proj")
_NOT_IN_CLIP = ("fpn1.", "fpn2.", "fpn3.", "fpn4.")


def adapt_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the ``model`` of a published config into one that builds here.

    Drops the entries of :data:`INERT_KEYS` and gives the identity head its number of classes; everything else stays,
    so an entry that nothing reads is still an error of the class that gets it.

    Args:
        config: ``model=dict(type='DenseCLIP', ...)`` of a published config, with ``class_names`` added.
    """
    adapted = copy.deepcopy(dict(config))
    dropped = []
    for part, names in INERT_KEYS.items():
        settings = adapted.get(part) or {}
        dropped += [f"{part}.{name}={settings.pop(name)!r}" for name in names if name in settings]
    if dropped:
        logger.info("dropped entries that have no effect: %s", ", ".join(dropped))
    head = adapted.get("identity_head")
    if head is not None:
        head["num_classes"] = adapted["decode_head"]["num_classes"]
    return adapted


def published_class_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names that a published checkpoint was trained with, None where it does not say.

    Files of this project and of mmseg 1.x are left out: theirs are the data set's, which need not be the model's.
    """
    meta = content.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    return None if names is None else tuple(names)


def read_clip_file(name: str) -> dict[str, Tensor]:
    """Return a CLIP file's tensors under OpenAI's names.

    Args:
        name: a path, ``open-clip://MODEL/TAG``, ``asset://shapes_clip`` or an address.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no readable CLIP file; a TorchScript archive is refused with the remedy.
    """
    install_safe_loader()
    content = CheckpointLoader.load_checkpoint(str(name), map_location="cpu")
    return to_openai_layout(unwrap_state_dict(content))[0]


def clip_backbone_state(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a CLIP file's image tower to a backbone's names and sizes.

    Args:
        backbone: one of the CLIP backbones of this method.
        tensors: the file's tensors under OpenAI's names.

    Returns:
        All of the backbone's tensors except those of its pyramid.

    Raises:
        ValueError: if the file has no image tower, or its tensors do not fit.
    """
    own = {key: value for key, value in backbone.state_dict().items() if not key.startswith(_NOT_IN_CLIP)}
    given = {key.removeprefix(_IMAGE_PREFIX): value for key, value in tensors.items() if key.startswith(_IMAGE_PREFIX)}
    if not given:
        raise ValueError("the CLIP file has no image tower (no keys below 'visual.').")
    given = {key: value for key, value in given.items() if key in own or not key.startswith(_EMBEDDING_KEYS)}
    for key in _POSITION_KEYS:
        if key in given:
            given[key] = _resized_positions(given[key], backbone.attnpool.grid if "attnpool" in key else backbone.grid)
    check_fit(own, given, ("",), f"this {type(backbone).__name__}")
    return given


def _resized_positions(table: Tensor, grid: Grid) -> Tensor:
    side = math.isqrt(len(table) - 1)
    if side * side != len(table) - 1:
        raise ValueError(f"expected a square table of positions behind the first one, but got {len(table) - 1} rows.")
    return resize_positions(table.float(), (side, side), grid, "bilinear")


def clip_text_state(encoder: TextTower, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[int] | None]:
    """Bring a CLIP file's text tower to a text encoder's names and length.

    Args:
        encoder: the text encoder.
        tensors: the file's tensors under OpenAI's names.

    Returns:
        All of the encoder's tensors, and the known token ids where the file stores only some.

    Raises:
        ValueError: if the file has no text tower, too few positions, or its tensors do not fit.
    """
    given = {key: value for key, value in tensors.items() if part_of(key) == "text"}
    if not given:
        raise ValueError("the CLIP file has no text tower.")
    given, known_ids = with_full_token_table(given, encoder.config.vocab_size)
    positions = given.get("positional_embedding")
    if positions is not None and len(positions) < encoder.context_length:
        raise ValueError(
            f"the CLIP file has {len(positions)} text positions, but the text encoder needs {encoder.context_length}. "
            "Lower its context_length."
        )
    if positions is not None:
        given["positional_embedding"] = positions[: encoder.context_length]
    check_fit(encoder.state_dict(), given, ("",), f"this {type(encoder).__name__}")
    return given, known_ids


def load_clip(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a CLIP backbone or a text encoder from a CLIP file's tensors; a pyramid keeps its values.

    Raises:
        ValueError: if the tensors do not fit.
    """
    if isinstance(module, TextTower):
        state, known_ids = clip_text_state(module, tensors)
        module.set_known_ids(known_ids)
    else:
        state = clip_backbone_state(module, tensors)
    # strict=False: a CLIP file has no pyramid; everything else was compared key by key.
    module.load_state_dict(state, strict=False)


class ClipPretrained(nn.Module):
    """Mixin of what can start from a CLIP file: ``init_weights`` loads ``clip_pretrained``, where it is set."""

    clip_pretrained: str | None = None

    def init_weights(self) -> None:
        """Load the CLIP file; mmengine calls this when a training starts."""
        if self.clip_pretrained is not None:
            load_clip(self, read_clip_file(self.clip_pretrained))
            logger.info("%s starts from %s", type(self).__name__, self.clip_pretrained)
