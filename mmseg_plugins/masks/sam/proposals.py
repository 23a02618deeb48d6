"""SAM as a source of masks for a segmentor: masks from SAM, names from any CLIP, nothing trained.

B images, Q masks, H W image without padding, Hp Wp padded network input.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from mmseg.registry import MODELS
from numpy.typing import NDArray
from torch import Tensor

from mmseg_plugins.masks.binary import proposals_of
from mmseg_plugins.masks.overlaps import Overlaps, Unclaimed, check_rules, settle_pixels
from mmseg_plugins.masks.proposals import MaskProposals, ProposalRequest, ProposalSource
from mmseg_plugins.masks.sam.generate import FoundMasks, SamGenerator
from mmseg_plugins.masks.sam.model import PACKAGE, build_sam, check_model, load_sam_weights, released_weights

logger = logging.getLogger(__name__)

Prompts = Literal["automatic", "points", "boxes"]
PROMPTS: tuple[str, ...] = get_args(Prompts)


@MODELS.register_module()
class SamProposals(ProposalSource):
    """Masks of a frozen SAM. It is built and filled at first use, and is no part of the segmentor's checkpoints.

    The picture is brought back from the segmentor's normalisation to RGB from 0 to 255 and goes to SAM at the size of
    the network input, without padding; SAM resizes and normalises it as it was trained.

    Args:
        model: name in the package's registry (``vit_b``, ``vit_l``, ``vit_h``; with ``package='mobile_sam'`` also
            ``vit_t``), or numbers of a SAM of another size, fields of
            :class:`~mmseg_plugins.masks.sam.model.SamSize`.
        checkpoint: file, or name of a record of weights; None: the released weights of a registry's model; a model
            given by numbers then stays random, which is said in the log.
        package: package with SAM's interface.
        prompts: ``automatic``; or ``points`` or ``boxes``, which a data sample's metainfo holds under these names, in
            pixels of the original image: (n, 2) or (n, P, 2) points (x, y) with ``point_labels`` if some lie outside,
            (n, 4) boxes (left, top, right, bottom).
        best_only: one mask for each prompt; False: all three of SAM's answers.
        automatic: arguments of the package's automatic generator; its defaults are the published ones.
        overlaps, unclaimed, min_area: see :func:`mmseg_plugins.masks.overlaps.settle_pixels`.
        seed: of the random weights of a model given by numbers.

    Raises:
        ValueError: if an option does not exist or is out of range.
    """

    def __init__(
        self,
        *,
        model: str | Mapping[str, Any] = "vit_h",
        checkpoint: str | None = None,
        package: str = PACKAGE,
        prompts: Prompts = "automatic",
        best_only: bool = True,
        automatic: Mapping[str, Any] | None = None,
        overlaps: Overlaps = "keep",
        unclaimed: Unclaimed = "components",
        min_area: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_model(model)
        check_rules(overlaps, unclaimed, min_area)
        if prompts not in PROMPTS:
            raise ValueError(f"Expected proposals.prompts to be one of {PROMPTS}, but got {prompts!r}.")
        self.model, self.checkpoint, self.package, self.seed = model, checkpoint, package, seed
        self.prompts, self.best_only, self.automatic = prompts, best_only, dict(automatic or {})
        self.overlaps, self.unclaimed, self.min_area = overlaps, unclaimed, min_area
        self._generator: SamGenerator | None = None

    def extra_repr(self) -> str:
        """Return what the masks depend on."""
        automatic = "".join(f", {name} {value}" for name, value in self.automatic.items())
        rules = f"overlaps {self.overlaps}, unclaimed {self.unclaimed}, min_area {self.min_area}"
        return f"{self.package} {self.model}, {self.prompts}{automatic}, best_only {self.best_only}, {rules}"

    def generator(self, device: torch.device | str) -> SamGenerator:
        """Return the generator, built and filled at first use.

        Args:
            device: where SAM runs.

        Raises:
            ImportError: if the package is missing.
            FileNotFoundError: if the weights are not on this machine and cannot be fetched.
            ValueError: if they do not fit.
        """
        if self._generator is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                sam = build_sam(self.model, self.package)
            checkpoint = self.checkpoint or released_weights(self.model)
            if checkpoint is None:
                logger.warning("SAM has random weights: set proposals.checkpoint")
            else:
                load_sam_weights(sam, checkpoint)
            self._generator = SamGenerator(sam, package=self.package, automatic=self.automatic)
        self._generator.sam.to(device)
        return self._generator

    @torch.no_grad()
    def propose(self, request: ProposalRequest) -> list[MaskProposals]:
        """Return the masks of each image, (Q, H, W) int8 logits that cover the image, and the same compressed.

        ``extras`` hold ``source``, the index among SAM's masks (-1 for pixels that none of them claimed), ``iou`` and,
        of automatic masks, ``stability`` (1 for those of ``source`` -1), (Q,) each.

        Raises:
            ValueError: if a data sample lacks the prompts.
        """
        generator = self.generator(request.images.device)
        samples = request.data_samples or [None] * len(request.images)
        results = []
        for image, size, sample in zip(request.images, request.image_sizes, samples, strict=True):
            picture = as_picture(image[:, : size[0], : size[1]], request.mean, request.std)
            found = self._find(generator, picture, sample)
            masks, source = settle_pixels(
                found.masks, overlaps=self.overlaps, unclaimed=self.unclaimed, min_area=self.min_area
            )
            extras = {"source": source, "iou": _chosen(found.iou, source)}
            if found.stability is not None:
                extras["stability"] = _chosen(found.stability, source)
            results.append(proposals_of(masks, size, request.padded_size, extras))
        return results

    def _find(self, generator: SamGenerator, picture: NDArray[np.uint8], sample: Any) -> FoundMasks:
        if self.prompts == "automatic":
            return generator.automatic(picture)
        meta = {} if sample is None else sample.metainfo
        if self.prompts not in meta:
            where = meta.get("img_path") or "an image"
            raise ValueError(
                f"SAM is to start from {self.prompts}, but the sample of {where} has none. "
                f"Put {self.prompts!r} into its metainfo (meta_keys of the packing transform), or set "
                "proposals.prompts='automatic'."
            )
        given = np.asarray(meta[self.prompts], dtype=np.float64)
        height, width = tuple(meta.get("ori_shape", picture.shape))[:2]
        scale = np.array([picture.shape[1] / width, picture.shape[0] / height])
        if self.prompts == "boxes":
            boxes = given.reshape(-1, 4)
            return generator.from_boxes(picture, boxes * np.tile(scale, 2), best_only=self.best_only)
        given = given.reshape(0, 2) if not given.size else given
        return generator.from_points(picture, given * scale, meta.get("point_labels"), best_only=self.best_only)


def as_picture(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undo a normalisation.

    Args:
        image: (3, H, W) normalised RGB.
        mean: what was subtracted, of the scale from 0 to 255.
        std: what it was divided by.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    middle, spread = (torch.tensor(values, dtype=torch.float32, device=image.device) for values in (mean, std))
    pixels = image.float() * spread[:, None, None] + middle[:, None, None]
    return np.ascontiguousarray(pixels.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())


def _chosen(values: Tensor, source: Tensor) -> Tensor:
    """The values of masks by their source, 1 for those without one."""
    return torch.cat([values, values.new_ones(1)])[source]
