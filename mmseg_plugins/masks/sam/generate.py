"""Masks of a picture from SAM: automatic, from points, from boxes. They stay compressed.

Q masks, n prompts, P points of a prompt, H W picture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmseg_plugins.masks.run_lengths import RunLengthMasks
from mmseg_plugins.masks.sam.model import PACKAGE, import_package
from mmseg_plugins.ops._precision import without_autocast


@dataclass(frozen=True)
class FoundMasks:
    """Masks of one picture.

    Attributes:
        masks: Q masks at the size of the picture.
        iou: (Q,) SAM's own guess of how good each is, about 0 to 1.
        stability: (Q,) IoU of the mask with itself at a higher and a lower threshold (automatic masks), else None.
    """

    masks: RunLengthMasks
    iou: Tensor
    stability: Tensor | None = None


class SamGenerator:
    """Asks a SAM for masks of pictures.

    Args:
        sam: from :func:`mmseg_plugins.masks.sam.model.build_sam`.
        package: package that it comes from.
        automatic: arguments of the package's ``SamAutomaticMaskGenerator``; its defaults are the published ones.
        prompts_at_a_time: points or boxes that run together.

    Raises:
        ValueError: if the generator has no such argument.
    """

    def __init__(
        self,
        sam: nn.Module,
        *,
        package: str = PACKAGE,
        automatic: Mapping[str, Any] | None = None,
        prompts_at_a_time: int = 64,
    ) -> None:
        source = import_package(package)
        self.sam = sam
        self.prompts_at_a_time = prompts_at_a_time
        self._predictor = source.SamPredictor(sam)
        given = dict(automatic or {})
        if "output_mode" in given:
            raise ValueError("output_mode is not to be chosen: masks stay compressed. Leave it out of automatic.")
        try:
            self._automatic = source.SamAutomaticMaskGenerator(sam, **given, output_mode="uncompressed_rle")
        except (TypeError, AssertionError) as error:
            raise ValueError(f"{package}'s generator refuses automatic={given}: {error}") from error

    def automatic(self, picture: NDArray[np.uint8]) -> FoundMasks:
        """Find masks from a grid of points, filtered and without duplicates.

        Args:
            picture: (H, W, 3) uint8 RGB.
        """
        with self._in_full_precision():
            records = self._records(picture)
        size = picture.shape[:2]
        masks = RunLengthMasks.from_counts([record["segmentation"]["counts"] for record in records], size)
        iou, stability = (
            torch.tensor([record[key] for record in records], dtype=torch.float32)
            for key in ("predicted_iou", "stability_score")
        )
        return FoundMasks(masks.to(self.sam.device), iou.to(self.sam.device), stability.to(self.sam.device))

    def _records(self, picture: NDArray[np.uint8]) -> list[dict[str, Any]]:
        try:
            return self._automatic.generate(picture)
        except IndexError:
            # With crops the package compares the areas of the crops of all masks, and stumbles when there are none.
            if not self._automatic.crop_n_layers:
                raise
            return []

    def from_points(
        self,
        picture: NDArray[np.uint8],
        points: NDArray[np.floating],
        labels: NDArray[np.integer] | None = None,
        *,
        best_only: bool = True,
    ) -> FoundMasks:
        """Find the masks of points.

        Args:
            picture: (H, W, 3) uint8 RGB.
            points: (n, 2) (x, y) in pixels, a prompt each, or (n, P, 2), P points for each prompt.
            labels: (n,) or (n, P), 1 for points inside and 0 for points outside; None: all inside.
            best_only: keep the best of the three masks that SAM gives each prompt; False keeps all three.

        Raises:
            ValueError: if shapes do not fit.
        """
        points = np.asarray(points, dtype=np.float64)
        points = points[:, None] if points.ndim == 2 else points
        if points.ndim != 3 or points.shape[-1] != 2:
            raise ValueError(f"expected points (n, 2) or (n, P, 2), but got shape {points.shape}.")
        flags = np.ones(points.shape[:2], dtype=np.int64) if labels is None else np.asarray(labels)
        flags = flags[:, None] if flags.ndim == 1 else flags
        if flags.shape != points.shape[:2]:
            raise ValueError(f"expected one label for each of points {points.shape[:2]}, but got {flags.shape}.")
        scaled = self._predictor.transform.apply_coords(points, picture.shape[:2])
        coordinates, flags = self._tensor(scaled), torch.as_tensor(flags, dtype=torch.int, device=self.sam.device)

        def ask(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            return self._predictor.predict_torch(coordinates[part], flags[part], multimask_output=True)

        return self._prompted(picture, len(points), ask, best_only)

    def from_boxes(
        self, picture: NDArray[np.uint8], boxes: NDArray[np.floating], *, best_only: bool = True
    ) -> FoundMasks:
        """Find the masks of boxes.

        Args:
            picture: (H, W, 3) uint8 RGB.
            boxes: (n, 4) (left, top, right, bottom) in pixels.
            best_only: one mask for each box, as is usual for boxes; False keeps the three of the ambiguous answer.

        Raises:
            ValueError: if shapes do not fit.
        """
        boxes = np.asarray(boxes, dtype=np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"expected boxes (n, 4), but got shape {boxes.shape}.")
        scaled = self._tensor(self._predictor.transform.apply_boxes(boxes, picture.shape[:2]))

        def ask(part: slice) -> tuple[Tensor, Tensor, Tensor]:
            return self._predictor.predict_torch(None, None, boxes=scaled[part], multimask_output=not best_only)

        return self._prompted(picture, len(boxes), ask, best_only)

    def _prompted(
        self,
        picture: NDArray[np.uint8],
        number: int,
        ask: Callable[[slice], tuple[Tensor, Tensor, Tensor]],
        best_only: bool,
    ) -> FoundMasks:
        """Ask for the masks of some prompts at a time, and compress them before the next are asked for."""
        found, quality = [RunLengthMasks.empty(picture.shape[:2], self.sam.device)], []
        if not number:
            return FoundMasks(found[0], torch.zeros(0, device=self.sam.device))
        with self._in_full_precision():
            self._predictor.set_image(picture)
            for start in range(0, number, self.prompts_at_a_time):
                masks, iou, _ = ask(slice(start, start + self.prompts_at_a_time))  # (n, 3 or 1, H, W), (n, 3 or 1)
                if best_only:
                    best = iou.argmax(1, keepdim=True)
                    masks, iou = masks.take_along_dim(best[..., None, None], 1), iou.gather(1, best)
                found.append(RunLengthMasks.from_masks(masks.flatten(0, 1)))
                quality.append(iou.flatten())
        self._predictor.reset_image()
        return FoundMasks(found[0].joined(*found[1:]), torch.cat(quality))

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.sam.device)

    def _in_full_precision(self) -> Any:
        return without_autocast(next(self.sam.parameters()))
