"""Mask2Former's two decoders in one module."""

# B batch, T text rows, E joint width, C classes

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from mmseg_plugins.masks.mask2former.deformable_sampling import Backend
from mmseg_plugins.masks.mask2former.pixel_decoder import PixelDecoder
from mmseg_plugins.masks.mask2former.predictions import MaskPrediction
from mmseg_plugins.masks.mask2former.query_decoder import QueryDecoder
from mmseg_plugins.vocabulary.class_logits import class_logits

__all__ = ["Mask2FormerHead", "MaskPrediction"]


class Mask2FormerHead(nn.Module):
    """Masks with in-vocabulary class logits from a backbone's stages; the defaults are FC-CLIP's.

    Parameter names are the published ones below ``sem_seg_head.``.

    Args:
        stage_channels: channels of res2, res3, res4, res5.
        embed_dim: joint width E of image and text.
        conv_dim: channels of the pixel decoder.
        mask_dim: channels of the mask features; must equal ``hidden_dim``.
        hidden_dim: channels of the queries.
        num_queries: masks per image (FC-CLIP 250, MAFT+ 100).
        encoder_layers: layers of the deformable encoder.
        decoder_layers: layers of the query decoder; FC-CLIP's configuration says one more.
        heads: attention heads of both.
        decoder_heads: those of the query decoder alone; None: ``heads``.
        points: samples per head and level of the deformable attention.
        encoder_ffn, decoder_ffn: widths of the feed-forward blocks.
        norm_groups: groups of the group normalisations.
        float32: run the whole pixel decoder outside autocast, as published; False: only its sampling.
        backend: of the deformable sampling.

    Attributes:
        pixel_decoder: the :class:`~mmseg_plugins.masks.mask2former.pixel_decoder.PixelDecoder`.
        predictor: the :class:`~mmseg_plugins.masks.mask2former.query_decoder.QueryDecoder`.
        num_queries: masks per image.

    Raises:
        ValueError: if widths do not fit together.
    """

    def __init__(
        self,
        *,
        stage_channels: Sequence[int],
        embed_dim: int,
        conv_dim: int = 256,
        mask_dim: int = 256,
        hidden_dim: int = 256,
        num_queries: int = 250,
        encoder_layers: int = 6,
        decoder_layers: int = 9,
        heads: int = 8,
        decoder_heads: int | None = None,
        points: int = 4,
        encoder_ffn: int = 1024,
        decoder_ffn: int = 2048,
        norm_groups: int = 32,
        float32: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if mask_dim != hidden_dim:
            raise ValueError(
                f"mask_dim {mask_dim} must equal hidden_dim {hidden_dim}: pooled mask features are added to queries."
            )
        self.num_queries = num_queries
        self.pixel_decoder = PixelDecoder(
            stage_channels=stage_channels,
            width=conv_dim,
            mask_dim=mask_dim,
            heads=heads,
            points=points,
            ffn=encoder_ffn,
            num_layers=encoder_layers,
            norm_groups=norm_groups,
            float32=float32,
            backend=backend,
        )
        self.predictor = QueryDecoder(
            in_channels=conv_dim,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            num_queries=num_queries,
            num_layers=decoder_layers,
            heads=decoder_heads or heads,
            ffn=decoder_ffn,
        )

    def forward(
        self,
        stages: Sequence[Tensor],
        rows: Tensor,
        row_class: Tensor,
        num_classes: int,
        *,
        all_predictions: bool = True,
    ) -> list[MaskPrediction]:
        """Predict masks and classes.

        Args:
            stages: res2 to res5, (B, C_i, h_i, w_i) at strides 4, 8, 16, 32.
            rows: (T, E), or (B, T, E) for rows of each image's own; unit rows, in the order of the classes, void last.
            row_class: (T,) int64, class of each row; void is class C.
            num_classes: C+1.
            all_predictions: False returns the last prediction alone and saves the time of the others; attention masks
                then come from mask features shrunk first, which is the same up to rounding.

        Returns:
            The prediction of the initial queries first, then one per decoder layer; the last is the result.

        Raises:
            ValueError: if there are not four stages, or rows and classes do not fit.
        """
        compare = partial(class_logits, rows=rows, row_class=row_class, num_classes=num_classes)
        return self.predictor(self.pixel_decoder(stages), compare, all_predictions=all_predictions)
