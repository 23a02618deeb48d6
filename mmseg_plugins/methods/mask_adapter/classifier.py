"""Mask-Adapter as a mask classifier: what a mask's activation maps pool from CLIP names it."""

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_plugins.classify.classifier import MaskClassifier, PoolableMasks
from mmseg_plugins.classify.features import ClipMaskFeatures
from mmseg_plugins.classify.tokens import TOKEN_ORDERS, TokenOrder, check_token_order
from mmseg_plugins.methods.mask_adapter.adapter import MaskAdapter
from mmseg_plugins.methods.mask_adapter.matching import logit
from mmseg_plugins.ops import mask_pool

# B batch, Q masks, K maps per mask, C channels of the dense map, D joint width, h w its grid, H W grid of the masks


@MODELS.register_module()
class MaskAdapterClassifier(MaskClassifier):
    """Mean over K activation maps of what each pools from CLIP's dense map, projected one by one.

    A mask is binarised, the adapter turns it and the dense embedding into maps, each map's sigmoid divided by its sum
    weighs the dense map, and CLIP's head projects every pooled vector before the plain mean. An empty mask is a legal
    input and has an embedding too.

    Args:
        embed_dim: joint width of CLIP.
        threshold: probability above which a place belongs to a mask (FC-CLIP L 0.5, MAFT+ B 0.45, MAFT+ L 0.4).
        token_order: how the dense embedding that the adapter sees is read from the map. ``channels_last``: every place;
            ``legacy``: scrambled as in the published code on MAFT+, which its weights need. None: as a checkpoint
            records, ``legacy`` for published files of MAFT+, else ``channels_last``.
        impl: which implementation of the pooling operator, see :func:`mmseg_plugins.ops.mask_pool`.
        **adapter: sizes of the :class:`~mmseg_plugins.methods.mask_adapter.adapter.MaskAdapter`, ``chunk``, ``half``.

    Attributes:
        adapter: the module with the published parameter names.

    Raises:
        ValueError: if the threshold is not between 0 and 1, or there is no such order.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        threshold: float = 0.5,
        token_order: TokenOrder | None = None,
        impl: str = "auto",
        **adapter: Any,
    ) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise ValueError(f"Expected mask_classifier.threshold between 0 and 1, but got {threshold}.")
        if token_order is not None:
            check_token_order(token_order)
        self.threshold, self.impl = threshold, impl
        self._token_order = token_order
        self.adapter = MaskAdapter(embed_dim=embed_dim, **adapter)

    # --- token order --------------------------------------------------------------------------------------------------

    @property
    def token_order(self) -> TokenOrder:
        """How the dense embedding is read; ``channels_last`` where nobody has said."""
        return self._token_order or "channels_last"

    @property
    def has_token_order(self) -> bool:
        """Whether the configuration or a checkpoint has said how the map is read."""
        return self._token_order is not None

    def settle(self, token_order: TokenOrder) -> None:
        """Take over what a checkpoint says, where the configuration left it open."""
        check_token_order(token_order)
        self._token_order = self._token_order or token_order

    def get_extra_state(self) -> Tensor:
        """Return the token order for the checkpoint, (1,) int64: its place in the list of choices, -1 unknown."""
        return torch.tensor([-1 if self._token_order is None else TOKEN_ORDERS.index(self._token_order)])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` gave; see :meth:`check_record`."""
        self._token_order = self.check_record(state) or self._token_order

    def check_record(self, state: Tensor) -> TokenOrder | None:
        """Return the token order that a checkpoint records, None if it does not know.

        Raises:
            ValueError: if the record is of another form, or the configuration says otherwise.
        """
        numbers = state.flatten().tolist()
        if len(numbers) != 1 or not -1 <= numbers[0] < len(TOKEN_ORDERS):
            raise ValueError(f"the record of the mask adapter should be one choice, but is {numbers}.")
        recorded = None if numbers[0] < 0 else TOKEN_ORDERS[numbers[0]]
        if None not in (recorded, self._token_order) and recorded != self._token_order:
            raise ValueError(
                f"the checkpoint's adapter was trained with token_order={recorded!r}, but this model was built with "
                f"{self._token_order!r}: the numbers would be wrong without an error. Set "
                f"mask_classifier.token_order={recorded!r}, or load another file."
            )
        return recorded

    def check_segmentor(self, segmentor: nn.Module) -> None:
        """Refuse segmentors that neither load files with an adapter nor leave all but the adapter as it is in training.

        Raises:
            ValueError: saying what to set.
        """
        if not isinstance(segmentor, MODELS.get("MaskAdapterSegmentor")):
            raise ValueError(
                f"a {type(segmentor).__name__} neither loads nor trains a mask adapter. Set "
                "type='MaskAdapterSegmentor' with the same proposals, and on MAFT+'s fine-tuned CLIP "
                "text_transfer=dict(type='ContentDependentTransfer', ...), as the configs named mask-adapter_* do."
            )

    # --- network ------------------------------------------------------------------------------------------------------

    def forward(self, features: ClipMaskFeatures, mask_logits: Tensor | PoolableMasks) -> Tensor:
        """Embed masks given as logits, see :class:`MaskClassifier`.

        Raises:
            ValueError: if the masks are compressed.
        """
        return self.embed(features, self.binarise(mask_logits))

    def binarise(self, mask_logits: Tensor | PoolableMasks) -> Tensor:
        """Return (B, Q, H, W) bool: where a mask's probability exceeds the threshold."""
        if not isinstance(mask_logits, Tensor):
            raise ValueError(
                "Mask-Adapter looks at masks place by place, but got compressed masks. Use MaskAdapterSegmentor, which "
                "hands it the decoded ones, or mask_classifier=dict(type='MaskPoolingClassifier')."
            )
        return mask_logits > logit(self.threshold)

    def embed(self, features: ClipMaskFeatures, masks: Tensor) -> Tensor:
        """Embed masks given as such.

        Args:
            features: of B images.
            masks: (B, Q, H, W) bool, or numbers from 0 to 1.

        Returns:
            (B, Q, D), not normalised.
        """
        if not masks.shape[1]:
            width = features.project(features.dense[:, :, 0, 0]).shape[-1]
            return features.dense.new_zeros((len(masks), 0, width))
        return self.project(features, self.pool(features.dense, self.maps(features, masks)))

    def dense_embedding(self, features: ClipMaskFeatures) -> Tensor:
        """Return (B, D, h, w), what the adapter sees of the image."""
        return features.joint(self.token_order)

    def maps(self, features: ClipMaskFeatures, masks: Tensor) -> Tensor:
        """Return the raw activation maps, (B, Q * K, h, w), of masks as in :meth:`embed`."""
        return self.adapter(self.dense_embedding(features), masks)

    def pool(self, dense: Tensor, maps: Tensor) -> Tensor:
        """Pool (B, C, h, w) under raw maps (B, Q * K, h, w): (B, Q * K, C)."""
        count = self.adapter.num_maps
        return mask_pool(dense, maps, mode="kmap", maps_per_mask=count, reduce="none", impl=self.impl)

    def project(self, features: ClipMaskFeatures, pooled: Tensor) -> Tensor:
        """Project (B, Q * K, C) vectors and take the mean over each mask's: (B, Q, D)."""
        return features.project(pooled).unflatten(1, (-1, self.adapter.num_maps)).mean(2)

    def activation_maps(self, features: ClipMaskFeatures, mask_logits: Tensor) -> Tensor:
        """Return the weights that masks pool with, for drawing.

        Args:
            features: of B images.
            mask_logits: (B, Q, H, W).

        Returns:
            (B, Q, K, h, w), each map of sum 1.
        """
        return pooling_weights(self.maps(features, self.binarise(mask_logits)), self.adapter.num_maps)


def pooling_weights(maps: Tensor, num_maps: int) -> Tensor:
    """Turn raw maps (B, Q * K, h, w) into weights, (B, Q, K, h, w): each sigmoid over its sum, without underflow."""
    weights = F.logsigmoid(maps.float()).flatten(2).softmax(-1)
    return weights.unflatten(-1, maps.shape[-2:]).unflatten(1, (-1, num_maps))
