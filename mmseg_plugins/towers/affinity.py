"""Vision models that say which places of an image belong together: DINO and its kind from timm, any CLIP image tower.

Only their features for each patch are used, never their words, so an image tower without a text tower (MLCD) serves
too.
"""

import sys
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mmseg_plugins.towers.attention import merge_heads
from mmseg_plugins.towers.clip import AUTO_MODEL, ClipSource, find_clip, load_clip_weights
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.towers.dino import backbone_tensors
from mmseg_plugins.towers.files import read_tensors
from mmseg_plugins.towers.layouts import compare_keys
from mmseg_plugins.towers.model import Clip
from mmseg_plugins.towers.position import Grid, PositionResize, pad_image, resize_positions, to_map
from mmseg_plugins.towers.timm_vit import TimmBlock
from mmseg_plugins.towers.weights import WeightsRecord, find_file, resolve

# B batch, N = h*w patches, P = prefix + N tokens, C channels, H W image

AffinityFeature = Literal["norm", "q", "k", "v", "qk"]

_SUPPORTED = ("VisionTransformer", "Eva")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class AffinitySource(nn.Module):
    """A vision model whose patch features are compared with each other.

    Args:
        feature: ``norm``: output of the last block behind the last norm; ``q``, ``k``, ``v``: of the last block's
            attention, heads side by side; ``qk``: q + k.
        stride: pixels per patch.
        mean, std: RGB statistics on the 0..255 scale that the model was trained with.

    Raises:
        ValueError: if there is no such feature.
    """

    def __init__(
        self,
        feature: AffinityFeature,
        *,
        stride: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        if feature not in get_args(AffinityFeature):
            raise ValueError(f"expected feature to be one of {', '.join(get_args(AffinityFeature))}, got {feature!r}.")
        self.feature, self.stride, self.mean, self.std = feature, stride, tuple(mean), tuple(std)
        self._is_loaded = False

    @abstractmethod
    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return features for each patch.

        Args:
            image_B3HW: (B, 3, H, W), normalised with this model's own statistics; a remainder of a patch at the bottom
                and right is dropped.

        Returns:
            (B, C, h, w), not normalised.
        """

    @abstractmethod
    def load_weights(self) -> None:
        """Load the weights that were named, fetched on first use; nothing where none were named."""

    def ensure_weights(self) -> None:
        """Load the weights once."""
        if not self._is_loaded:
            self.load_weights()
            self._is_loaded = True

    def note_loaded(self) -> None:
        """Remember that a checkpoint has filled this model."""
        self._is_loaded = True


class TimmAffinity(AffinitySource):
    """A transformer of timm: DINO, DINOv2, DINOv3, MAE, and other plain vision transformers.

    Args:
        model: timm's name, such as ``vit_base_patch8_224.dino`` or ``vit_base_patch14_reg4_dinov2.lvd142m``.
        feature: see :class:`AffinitySource`.
        pretrained: a file in timm's or the publishers' layout (a backbone, or a whole training checkpoint), the name of
            a record of weights (``dino_vitb8``), True for timm's own weights of this name; None: random weights.
        position_resize: how the position table meets another grid, see
            :func:`~mmseg_plugins.towers.position.resize_positions`: ``scale_factor`` is DINO's own rule. None: timm's
            rule (bicubic with antialiasing, DINOv2's own with registers). Models with rotary positions have no table.
        mean, std: statistics on the 0..255 scale instead of those that timm states.
        options: further arguments of the model, for other sizes.

    Raises:
        ValueError: if timm has no such model, or it is not a plain transformer.
    """

    def __init__(
        self,
        model: str,
        *,
        feature: AffinityFeature = "norm",
        pretrained: str | Path | bool | None = None,
        position_resize: PositionResize | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        trunk = _build_trunk(model, dict(options or {}))
        stated = trunk.pretrained_cfg
        super().__init__(
            feature,
            stride=int(trunk.patch_embed.feat_ratio()),
            mean=mean or tuple(255 * value for value in stated["mean"]),
            std=std or tuple(255 * value for value in stated["std"]),
        )
        self.trunk, self.prefix = trunk, trunk.num_prefix_tokens
        self.model, self.pretrained, self.position_resize = model, pretrained, position_resize

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return features for each patch, see :meth:`AffinitySource.forward`."""
        tokens, ropes, grid = self._embed(pad_image(image_B3HW, self.stride, "floor"))
        blocks = [TimmBlock(block, rope) for block, rope in zip(self.trunk.blocks, ropes, strict=True)]
        for block in blocks[:-1]:
            tokens = block(tokens)
        return to_map(self._last(blocks[-1], tokens)[:, self.prefix :], grid)

    def _last(self, block: TimmBlock, tokens: Tensor) -> Tensor:
        if self.feature == "norm":
            return self.trunk.norm(block(tokens))
        return _pick(self.feature, *block.project(block.norm_attention(tokens)))

    def _embed(self, image_B3HW: Tensor) -> tuple[Tensor, list[Tensor | None], Grid]:
        trunk, patches_BhwC = self.trunk, self.trunk.patch_embed(image_B3HW)
        grid, depth = (patches_BhwC.shape[1], patches_BhwC.shape[2]), len(self.trunk.blocks)
        if self.position_resize is not None and getattr(trunk, "pos_embed", None) is not None:
            return trunk.norm_pre(self._place(patches_BhwC.flatten(1, 2), grid)), [None] * depth, grid
        embedded = trunk._pos_embed(patches_BhwC)
        tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        is_mixed = getattr(trunk, "rope_mixed", False) and rope is not None
        return trunk.norm_pre(tokens), list(rope) if is_mixed else [rope] * depth, grid

    def _place(self, patches_BNC: Tensor, grid: Grid) -> Tensor:
        """Class token, registers and positions, the table resized by this model's own rule."""
        trunk = self.trunk
        table_PC = resize_positions(trunk.pos_embed[0], trunk.patch_embed.grid_size, grid, self.position_resize)
        front = [
            token.expand(len(patches_BNC), -1, -1)
            for token in (trunk.cls_token, getattr(trunk, "reg_token", None))
            if token is not None
        ]
        if table_PC.shape[0] == patches_BNC.shape[1]:  # a table for the patches alone
            return torch.cat([*front, patches_BNC + table_PC], dim=1)
        return torch.cat([*front, patches_BNC], dim=1) + table_PC

    def load_weights(self) -> None:
        """Load the weights that were named.

        Raises:
            KeyError: if there is no such record.
            FileNotFoundError: if a file does not exist and cannot be fetched.
            ValueError: if the weights do not fit.
        """
        if self.pretrained is not None and self.pretrained is not False:
            path = self._path()
            self.load_tensors(backbone_tensors(read_tensors(path)), str(path))

    def _path(self) -> Path:
        if self.pretrained is True:
            return resolve(self._hub_record())
        return find_file(self.pretrained)

    def _hub_record(self) -> WeightsRecord:
        stated = self.trunk.pretrained_cfg
        repo = stated.get("hf_hub_id") or ""
        if not repo:
            raise ValueError(f"timm has no weights of its own for {self.model!r}. Name a file or a record.")
        repo = f"{repo}{stated['architecture']}.{stated['tag']}" if repo.endswith("/") else repo
        return WeightsRecord(name=f"timm/{self.model}", repo=repo, files=_HUB_FILES, licence=stated.get("license"))

    def load_tensors(self, state: Mapping[str, Tensor], what: str) -> None:
        """Fill the model from tensors in timm's or the publishers' layout.

        Args:
            state: flat tensors.
            what: where they come from, for messages.

        Raises:
            ValueError: naming what is missing, unexpected or of another shape.
        """
        adapted = sys.modules[type(self.trunk).__module__].checkpoint_filter_fn(dict(state), self.trunk)
        compare_keys(self.trunk.state_dict(), adapted, what=f"{self.model!r} ({what})")
        self.trunk.load_state_dict(adapted)
        self.note_loaded()


class ClipAffinity(AffinitySource):
    """An image tower of CLIP's kind, with or without words: MLCD, or CLIP itself.

    Args:
        clip: arguments of :func:`mmseg_plugins.towers.clip.build_clip`: ``model``, ``pretrained``, ``act``,
            ``norm_eps``. With ``model='auto'`` the sizes are read off the file when the model is built; ``pretrained``
            may then also be the name of a record (``mlcd_vit_l_14_336``).
        feature: see :class:`AffinitySource`.
        position_resize: see :class:`TimmAffinity`; timm towers use their own rule.

    Raises:
        ValueError: if the tower is not a transformer.
    """

    def __init__(
        self,
        clip: Mapping[str, Any],
        *,
        feature: AffinityFeature = "norm",
        position_resize: PositionResize = "size",
    ) -> None:
        source = _find_tower(dict(clip))
        if source.config.vision is None or source.config.vision.family not in ("vit", "timm"):
            raise ValueError(f"{source.config.name!r} has no image transformer to take features from.")
        tower = Clip(source.config, text=False)
        super().__init__(feature, stride=tower.visual.stride, mean=tower.visual.mean, std=tower.visual.std)
        self.clip, self._source = tower, source
        taps = () if feature == "norm" else tuple(feature)
        self._options = DenseOptions(
            padding="floor", position_resize=position_resize, taps=taps, ordinary=feature == "norm"
        )

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return features for each patch, see :meth:`AffinitySource.forward`."""
        features = self.clip.visual.forward_dense(image_B3HW, self._options)
        if self.feature == "norm":
            return features.patch_tokens
        members = {name: features.extras.get(name) for name in "qkv"}
        tokens = _pick(self.feature, members["q"], members["k"], members["v"])
        return to_map(tokens[:, -features.grid[0] * features.grid[1] :], features.grid)

    def load_weights(self) -> None:
        """Load the weights that were named; the file may hold a text tower as well."""
        path = self._source.path()
        if path is not None:
            load_clip_weights(self.clip, path)


def _find_tower(settings: dict[str, Any]) -> ClipSource:
    """Like ``find_clip``, but a record of an image tower may be named where a file is expected."""
    pretrained = settings.get("pretrained")
    if settings.get("model") == AUTO_MODEL and pretrained is not None:
        settings["pretrained"] = find_file(pretrained)
    return find_clip(**settings)


def _pick(feature: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, P, d) of one or two members -> (B, P, C), heads side by side."""
    if feature == "qk":
        return merge_heads(q) + merge_heads(k)
    return merge_heads({"q": q, "k": k, "v": v}[feature])


def _build_trunk(model: str, options: dict[str, Any]) -> nn.Module:
    import timm

    try:
        trunk = timm.create_model(model, pretrained=False, num_classes=0, dynamic_img_size=True, **options)
    except RuntimeError as error:  # timm's answer to an unknown name
        raise ValueError(f"timm has no model {model!r}: {error}. timm.list_models('*dino*') shows names.") from error
    except TypeError:
        trunk = None
    if type(trunk).__name__ not in _SUPPORTED:
        raise ValueError(f"{model!r} is not a plain vision transformer of timm, such as vit_base_patch8_224.dino.")
    return trunk
