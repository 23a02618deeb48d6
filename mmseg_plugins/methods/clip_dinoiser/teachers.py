"""Teachers: what says which positions belong together and which show an object.

B batch, W channels, H W image, h w grid of the student, P = h*w.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_plugins.methods.clip_dinoiser.pooling import at_least_float32, correlate, cut_below
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.towers.digest import tensor_digest
from mmseg_plugins.towers.dino import DinoViT
from mmseg_plugins.towers.found import Found
from mmseg_plugins.towers.position import Grid
from mmseg_plugins.towers.weights import find_file
from mmseg_plugins.vocabulary.config import VocabularyConfig

Feature = Literal["q", "k", "v"]


@dataclass(frozen=True)
class Targets:
    """What a teacher says about a batch.

    Attributes:
        belongs_together: (B, P, h, w) bool: entry [n, i, j] says it of position n and position (i, j).
        is_foreground: (B, 1, h, w) bool.
    """

    belongs_together: Tensor
    is_foreground: Tensor


class Teacher(nn.Module):
    """Base of the teachers. All are frozen and stay in eval mode.

    Attributes:
        reads_labels: whether the answer depends on the samples' labels and not on the image alone.
    """

    reads_labels = False

    def targets(self, images: Tensor, grid: Grid, samples: Sequence[SegDataSample]) -> Targets:
        """Answer for a batch.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], padded to whole patches of the student.
            grid: (h, w) of the student.
            samples: B samples.
        """
        raise NotImplementedError

    def get_ready(self, like: Tensor) -> None:
        """Load the weights that were named, once, and move to where the images are."""

    def fingerprint(self) -> str:
        """Return a hash of everything that decides an answer."""
        raise NotImplementedError


@MODELS.register_module()
class DinoFoundTeacher(Teacher):
    """The published teachers: DINO's values for what belongs together, FOUND for objects.

    Where DINO's grid is not the student's, its values are resized bilinearly (not in the release, whose grids agree).

    Args:
        dino: sizes of DINO, or the name of a published model.
        dino_pretrained: file of its weights, or its record's name; None: random weights.
        found_dino: the same for the DINO that FOUND reads.
        found_pretrained: its weights.
        found_decoder: file or record of FOUND's decoder; None: random weights.
        feature: which part of DINO's last attention is compared.
        gamma: correlations below it do not belong together.
    """

    def __init__(
        self,
        *,
        dino: str | Mapping[str, int] = "dino_vitb16",
        dino_pretrained: str | None = "dino_vitb16",
        found_dino: str | Mapping[str, int] = "dino_vits8",
        found_pretrained: str | None = "dino_vits8",
        found_decoder: str | None = "found_decoder",
        feature: Feature = "v",
        gamma: float = 0.2,
    ) -> None:
        super().__init__()
        if feature not in get_args(Feature):
            raise ValueError(f"expected feature to be one of {', '.join(get_args(Feature))}, but got {feature!r}.")
        self.dino, self.found = DinoViT(dino), Found(found_dino)
        self.feature, self.gamma = feature, gamma
        self._files = (
            (self.dino, dino_pretrained),
            (self.found.dino, found_pretrained),
            (self.found.head, found_decoder),
        )
        self._is_loaded = False
        self._fingerprint: str | None = None
        self.requires_grad_(False).eval()

    def get_ready(self, like: Tensor) -> None:
        """Load the weights that were named, once, and move to where the images are.

        Raises:
            KeyError: if there is no such record.
            FileNotFoundError: if a file does not exist and cannot be fetched.
            ValueError: if weights do not fit.
        """
        if not self._is_loaded:
            for module, file in self._files:
                if file is not None:
                    module.load_published(find_file(file))
            self._is_loaded = True
        held = self.dino.class_embedding
        if (held.device, held.dtype) != (like.device, like.dtype):
            self.to(like)

    def descriptors(self, images: Tensor) -> Tensor:
        """Return DINO's values of unit length, (B, W, h', w') on its own grid; images as for :meth:`targets`."""
        features = self.dino.features(_normalise(images, self.dino))
        part = {"q": features.query, "k": features.key, "v": features.value}[self.feature]
        return F.normalize(at_least_float32(part), dim=1)

    def correlations(self, images: Tensor, grid: Grid) -> Tensor:
        """Return cosines of the values, those below ``gamma`` set to 0: (B, P, h, w)."""
        unit = self.descriptors(images)
        if tuple(unit.shape[2:]) != tuple(grid):
            unit = F.normalize(F.interpolate(unit, grid, mode="bilinear", align_corners=False), dim=1)
        with without_autocast(unit):
            return cut_below(correlate(unit), self.gamma)

    def foreground_probability(self, images: Tensor, grid: Grid | None = None) -> Tensor:
        """Return FOUND's probability of an object, (B, 1, h, w), on its own grid or resized to another one."""
        probability = at_least_float32(self.found(_normalise(images, self.found.dino)))
        if grid is None or tuple(probability.shape[2:]) == tuple(grid):
            return probability
        return F.interpolate(probability, grid, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def targets(self, images: Tensor, grid: Grid, samples: Sequence[SegDataSample] = ()) -> Targets:
        """Answer for a batch, see :meth:`Teacher.targets`."""
        return Targets(self.correlations(images, grid) > 0, self.foreground_probability(images, grid) > 0.5)

    def fingerprint(self) -> str:
        """Return a hash of weights and settings."""
        if self._fingerprint is None:
            digest = hashlib.sha256(f"{self.feature} {self.gamma}".encode())
            for name, value in self.state_dict().items():
                digest.update(f"{name} {tensor_digest(value.float())}".encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


@MODELS.register_module()
class SegmentTeacher(Teacher):
    """A teacher made from label maps: positions of one label belong together, and things are objects.

    An upper bound for what the unsupervised teachers can teach, and the teacher of the world without photographs.
    A position has the label of most of its pixels. Where most have none, it belongs to itself alone.

    Args:
        vocabulary: the classes of the labels, with thing flags; as in the model's ``vocabulary``.
        ignore_index: label of pixels without a class.

    Raises:
        ValueError: if the vocabulary does not say which classes are things.
    """

    reads_labels = True

    def __init__(self, *, vocabulary: Any, ignore_index: int = 255) -> None:
        super().__init__()
        words = VocabularyConfig.from_config(vocabulary).vocabulary
        if words.is_thing is None:
            raise ValueError("a teacher made from segments needs a vocabulary that says which classes are things.")
        self.num_classes, self.ignore_index = words.num_classes, ignore_index
        self.is_thing = torch.tensor([*words.is_thing, False])

    @torch.no_grad()
    def targets(self, images: Tensor, grid: Grid, samples: Sequence[SegDataSample]) -> Targets:
        """Answer for a batch from ``gt_sem_seg``, see :meth:`Teacher.targets`.

        Raises:
            ValueError: if a sample has no labels.
        """
        if any("gt_sem_seg" not in sample for sample in samples):
            raise ValueError("SegmentTeacher needs labels: use a data set and a pipeline that load gt_sem_seg.")
        labels_BHW = torch.stack([sample.gt_sem_seg.data[0] for sample in samples]).to(images.device)
        shares_BKhw = self._shares(labels_BHW, tuple(images.shape[2:]), grid)
        best_BP = shares_BKhw.argmax(1).flatten(1)
        together = best_BP[:, :, None] == best_BP[:, None, :]
        together &= (best_BP != self.num_classes)[:, :, None]
        together |= torch.eye(best_BP.shape[1], dtype=torch.bool, device=together.device)
        things = shares_BKhw[:, self.is_thing.to(images.device)].sum(1, keepdim=True)
        return Targets(together.unflatten(2, grid), things > 0.5)

    def _shares(self, labels_BHW: Tensor, size: tuple[int, int], grid: Grid) -> Tensor:
        """Share of every class, and behind them of no class, in every position: (B, K + 1, h, w)."""
        nothing = self.num_classes
        labels = labels_BHW.masked_fill(labels_BHW == self.ignore_index, nothing)
        labels = F.pad(labels, (0, size[1] - labels.shape[2], 0, size[0] - labels.shape[1]), value=nothing)
        one_hot = F.one_hot(labels, nothing + 1).permute(0, 3, 1, 2).float()
        return F.adaptive_avg_pool2d(one_hot, grid)

    def fingerprint(self) -> str:
        """Refuse: answers depend on labels.

        Raises:
            ValueError: always.
        """
        raise ValueError("what SegmentTeacher says depends on labels and costs nothing: leave teacher_cache out.")


def _normalise(images: Tensor, dino: DinoViT) -> Tensor:
    """Apply the teacher's statistics to RGB in [0, 1]."""
    mean, std = (torch.tensor(value).to(images)[:, None, None] / 255 for value in (dino.mean, dino.std))
    return (images - mean) / std
