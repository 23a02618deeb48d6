"""The teachers as a segmentor: CLIP's features pooled with DINO's correlations, background from FOUND."""

from collections.abc import Mapping
from typing import Any

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.clip_dinoiser.segmentor import CorrelationPooling, Guidance
from mmseg_plugins.methods.clip_dinoiser.teachers import DinoFoundTeacher
from mmseg_plugins.towers.dense import DenseFeatures


@MODELS.register_module()
class DinoCLIP(CorrelationPooling):
    """What CLIP-DINOiser learns to do with CLIP alone: three networks at test time.

    Its state is CLIP's; the teachers load from the files that they name.

    Args:
        teacher: fields of :class:`~mmseg_plugins.methods.clip_dinoiser.teachers.DinoFoundTeacher`.
        **options: see :class:`~mmseg_plugins.methods.clip_dinoiser.segmentor.CorrelationPooling`.
    """

    def __init__(self, *, teacher: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        settings = {"gamma": self.gamma, **(teacher or {})}
        settings.pop("type", None)
        # Past nn.Module's registration: the teachers are no part of the model's state.
        object.__setattr__(self, "teacher", DinoFoundTeacher(**settings))

    def guide(self, images: Tensor, features: DenseFeatures, *, with_foreground: bool) -> Guidance:
        """Ask DINO what belongs together, and FOUND what is an object."""
        self.teacher.get_ready(images)
        picture = self.unit_range(images)
        unit = self.teacher.descriptors(picture)
        if not with_foreground:
            return Guidance(unit)
        grid = (unit.shape[2], unit.shape[3])
        return Guidance(unit, self.teacher.foreground_probability(picture, grid) > 0.5)
