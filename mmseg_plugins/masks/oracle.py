"""Ground-truth masks as proposals: how well masks are named when they are perfect."""

from typing import Any, Literal, get_args

import torch
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.masks.binary import proposals_of
from mmseg_plugins.masks.overlaps import Overlaps, Unclaimed, check_rules, settle_pixels
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest, ProposalSource
from mmseg_plugins.masks.run_lengths import RunLengthMasks

Annotation = Literal["segments", "classes"]
ANNOTATIONS: tuple[str, ...] = get_args(Annotation)


@MODELS.register_module()
class OracleProposals(ProposalSource):
    """The annotated masks, without their classes.

    ``SegmentAccuracyMetric`` then gives the share of masks that are named rightly. The test pipeline must load ground
    truth at the size of the original image, unflipped: ``PackSegments`` with ``with_instances=True``, or a semantic
    map.

    Args:
        annotation: ``segments`` reads ``gt_instances``; ``classes`` makes a mask of every class in ``gt_sem_seg``.
        ignore_index: value of unlabelled pixels (``classes``).
        overlaps, unclaimed, min_area: see :func:`mmseg_plugins.masks.overlaps.settle_pixels`; unlabelled pixels are
            left unclaimed by default.

    Raises:
        ValueError: if an option does not exist or is out of range.
    """

    def __init__(
        self,
        *,
        annotation: Annotation = "segments",
        ignore_index: int = 255,
        overlaps: Overlaps = "keep",
        unclaimed: Unclaimed = "none",
        min_area: float = 0.01,
    ) -> None:
        super().__init__()
        check_rules(overlaps, unclaimed, min_area)
        if annotation not in ANNOTATIONS:
            raise ValueError(f"Expected proposals.annotation to be one of {ANNOTATIONS}, but got {annotation!r}.")
        self.annotation, self.ignore_index = annotation, ignore_index
        self.overlaps, self.unclaimed, self.min_area = overlaps, unclaimed, min_area

    def extra_repr(self) -> str:
        """Return what the masks depend on."""
        return f"{self.annotation}, overlaps {self.overlaps}, unclaimed {self.unclaimed}, min_area {self.min_area}"

    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Return the annotated masks of each image; ``extras`` holds their ``labels``, -1 for unclaimed pixels.

        Raises:
            ValueError: if a sample has no ground truth of the kind asked for.
        """
        samples = request.data_samples or [None] * len(request.images)
        results = []
        for size, sample in zip(request.image_sizes, samples, strict=True):
            masks, labels = self._annotated(sample)
            compressed = RunLengthMasks.from_masks(masks.to(request.images.device))
            compressed, source = settle_pixels(
                compressed, overlaps=self.overlaps, unclaimed=self.unclaimed, min_area=self.min_area
            )
            labels = torch.cat([labels.to(source.device), source.new_full((1,), -1)])[source]
            results.append(proposals_of(compressed, size, request.padded_size, {"labels": labels}))
        return results

    def _annotated(self, sample: Any) -> tuple[Tensor, Tensor]:
        field = "gt_instances" if self.annotation == "segments" else "gt_sem_seg"
        truth = getattr(sample, field, None)
        if truth is None:
            where = getattr(sample, "img_path", "") or "an image"
            raise ValueError(
                f"oracle masks need {field}, but the sample of {where} has none. Load ground truth in the test "
                "pipeline: LoadPanopticSegments and PackSegments(with_instances=True), or a semantic map and "
                "proposals.annotation='classes'."
            )
        if self.annotation == "segments":
            return truth.masks.bool(), truth.labels.long()
        labels = truth.data[0].unique()
        labels = labels[labels != self.ignore_index].long()
        return truth.data[0] == labels[:, None, None], labels
