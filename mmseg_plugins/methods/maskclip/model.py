"""MaskCLIP: dense labels from a frozen CLIP, without training.

Zhou, Loy, Dai: "Extract Free Dense Labels from CLIP", ECCV 2022 (arXiv 2112.01071), section 3.2.

B batch, N prompt rows, D joint width, H W image, h w grid.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.maskclip.checkpoint import (
    flatten_release,
    is_release_file,
    is_release_state,
    to_clip_state,
)
from mmseg_plugins.methods.maskclip.refine import KeyNorm, denoise_prompts, smooth_with_keys
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.segmentors.pixel import PixelSegmentor
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions
from mmseg_plugins.vocabulary.embed import TextEmbeddings


@MODELS.register_module()
class MaskCLIP(PixelSegmentor):
    """Cosine of the value path's features with the text embeddings.

    Where the release departs from the paper or from CLIP, a switch chooses:

    * arithmetic: the released ViT uses exact GELU and a layer-norm epsilon of 1e-6, and its published numbers come
      from that; CLIP was trained with QuickGELU and 1e-5, which is the default here. Set
      ``clip=dict(act='gelu', norm_eps=1e-6)`` for the release;
    * input statistics: the release normalises with ImageNet's mean and std (the configs here do), later methods with
      CLIP's: a setting of the data preprocessor;
    * key smoothing: ``key_norm``;
    * position table: the release resizes it only when the number of tokens differs, so that 7 x 28 passes for
      14 x 14; set ``dense=dict(position_match='count')`` for that, the default compares grids.

    Args:
        ks_thresh: key-smoothing threshold, 1.0 in the release's ``ks`` variants; 0 is off.
        pd_thresh: prompt-denoising threshold, 0.5 in the release's ``pd`` variants; 0 is off.
        key_norm: ``token_axis`` (release) or ``channel_axis`` (paper).
        softmax_scale: temperature of both refinements.
        dense: further switches of the tower, see :class:`mmseg_plugins.towers.dense.DenseOptions`;
            ``dict(attention_pooling=True)`` is the paper's baseline for ResNets.
        **options: see :class:`PixelSegmentor`.
    """

    def __init__(
        self,
        *,
        ks_thresh: float = 0.0,
        pd_thresh: float = 0.0,
        key_norm: KeyNorm = "token_axis",
        softmax_scale: float = 100.0,
        dense: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if key_norm not in ("token_axis", "channel_axis"):
            raise ValueError(f"expected key_norm to be 'token_axis' or 'channel_axis', but got {key_norm!r}.")
        if not (0 <= ks_thresh <= 1 and 0 <= pd_thresh <= 1):
            raise ValueError(f"expected ks_thresh and pd_thresh in [0, 1], but got {ks_thresh} and {pd_thresh}.")
        self.ks_thresh, self.pd_thresh = ks_thresh, pd_thresh
        self.key_norm, self.softmax_scale = key_norm, softmax_scale
        self.dense = DenseOptions(**{"rule": "value", "qkv": ks_thresh > 0, **(dense or {})})
        if ks_thresh > 0 and self.dense.attention_pooling:
            raise ValueError("key smoothing needs the value path: switch off ks_thresh or attention_pooling.")

    def dense_features(self, images: Tensor) -> DenseFeatures:
        """Return the tower's features of (B, 3, H, W) normalised images."""
        with torch.no_grad():
            return self.clip.visual.forward_dense(images, self.dense)

    def cosines(self, features: DenseFeatures, text: TextEmbeddings) -> Tensor:
        """Return (B, N, h, w) cosines in [-1, 1] of every position with every prompt row."""
        unit_BDhw = F.normalize(features.pixels.float(), dim=1)
        # Cosines of neighbouring classes differ by less than half precision can tell apart.
        with without_autocast(unit_BDhw):
            return torch.einsum("bdhw,nd->bnhw", unit_BDhw, text.rows)

    def row_logits(self, images: Tensor, text: TextEmbeddings) -> Tensor:
        """Score positions: cosines, then the refinements that are switched on (evaluation only)."""
        features = self.dense_features(images)
        logits_BNhw = self.cosines(features, text)
        if self.training:
            return logits_BNhw
        logits_BNhw = denoise_prompts(logits_BNhw, self.pd_thresh, scale=self.softmax_scale)
        if self.ks_thresh > 0:
            logits_BNhw = smooth_with_keys(
                logits_BNhw, features.key, self.ks_thresh, scale=self.softmax_scale, key_norm=self.key_norm
            )
        return logits_BNhw

    def open_checkpoint(self, content: Mapping[str, Any]) -> dict[str, Tensor]:
        """Accept the release's converted files, which nest their tensors, besides flat ones."""
        return flatten_release(content) if is_release_file(content) else super().open_checkpoint(content)

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Accept the release's converted files besides CLIP's own layouts."""
        if not is_release_state(state):
            return super().adapt_checkpoint(state)
        adapted, parts = super().adapt_checkpoint(to_clip_state(state))
        # The release drops the attention pool's positions, and no dense feature reads them: ours stay as they are.
        unused = "clip.visual.attnpool.positional_embedding"
        own = self.state_dict()
        return adapted | ({unused: own[unused]} if unused in own else {}), parts
