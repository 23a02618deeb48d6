"""A decode head without parameters, which lends a decode head's loss to the score map."""

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class IdentityHead(BaseDecodeHead):
    """Takes class logits as they are; the loss is mmseg's.

    Args:
        num_classes: K.
        loss_decode: config of the loss; the published weight is 0.4.
        **options: further arguments of mmseg's ``BaseDecodeHead``. Channels and dropout mean nothing here.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 1, channels: int = 1, **options: Any) -> None:
        # init_cfg=None: the base class would initialise the classifier that is not here.
        super().__init__(in_channels, channels, num_classes=num_classes, **{"init_cfg": None, **options})
        del self.conv_seg
        self.dropout = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the (B, K, h, w) logits that came in."""
        return inputs
