"""CLIP-DINOiser: two layers on CLIP's own features predict what DINO and FOUND would say.

Wysoczańska et al.: "CLIP-DINOiser: Teaching CLIP a few DINO tricks for open-vocabulary semantic segmentation",
ECCV 2024 (arXiv 2312.12359).

B batch, N prompt rows, W trunk width, D joint width, H W image, h w grid.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_plugins.methods.clip_dinoiser.checkpoint import PREFIX, is_layers_state, to_model_names
from mmseg_plugins.methods.clip_dinoiser.layers import LearntLayers, PaddingMode
from mmseg_plugins.methods.clip_dinoiser.losses import correlation_loss, foreground_loss
from mmseg_plugins.methods.clip_dinoiser.pooling import correlate
from mmseg_plugins.methods.clip_dinoiser.segmentor import CorrelationPooling, Guidance
from mmseg_plugins.methods.clip_dinoiser.target_cache import TargetCache, cached_targets
from mmseg_plugins.methods.clip_dinoiser.teachers import Teacher
from mmseg_plugins.ops._precision import without_autocast
from mmseg_plugins.towers.dense import DenseFeatures
from mmseg_plugins.towers.files import read_tensors, unwrap_state_dict
from mmseg_plugins.towers.position import to_map
from mmseg_plugins.towers.weights import find_file

logger = logging.getLogger(__name__)

FeatureBlock = int | Literal["final"]


@MODELS.register_module()
class CLIPDINOiser(CorrelationPooling):
    """CLIP's value features, averaged by correlations that a layer on CLIP's intermediate features predicts.

    CLIP is frozen. Training needs a ``teacher``, which is no part of the model's state.

    Args:
        feature_block: block whose second layer norm's output the layers read, negative from the end (the release: -3);
            ``final``: CLIP's dense features in the joint space.
        proj_channels: channels of the descriptors.
        kernel_size: of the layer that makes them.
        padding_mode: of that layer.
        layers_pretrained: file of the two layers, or its record's name (``clip_dinoiser``), loaded on first use unless
            a checkpoint has filled them.
        teacher: config of a teacher, ``DinoFoundTeacher`` or ``SegmentTeacher``; training only.
        teacher_cache: folder that keeps what the teacher said; None: it is asked every time. Worth it where views
            repeat, see :class:`~mmseg_plugins.datasets.views.FixedViews`.
        teacher_cache_limit: bytes that the folder may grow to.
        **options: see :class:`~mmseg_plugins.methods.clip_dinoiser.segmentor.CorrelationPooling`.
    """

    def __init__(
        self,
        *,
        feature_block: FeatureBlock = -3,
        proj_channels: int = 256,
        kernel_size: int = 3,
        padding_mode: PaddingMode = "replicate",
        layers_pretrained: str | None = None,
        teacher: Mapping[str, Any] | None = None,
        teacher_cache: str | None = None,
        teacher_cache_limit: int = 20_000_000_000,
        **options: Any,
    ) -> None:
        is_final = feature_block == "final"
        super().__init__(taps=() if is_final else (f"ln_2/{feature_block}",), **options)
        self.feature_block = feature_block
        self.layers = LearntLayers(
            self.clip.visual.embed_dim if is_final else self.clip.visual.width,
            proj_channels=proj_channels,
            kernel_size=kernel_size,
            padding_mode=padding_mode,
        )
        self.layers_pretrained = layers_pretrained
        self._has_layers = False
        # Past nn.Module's registration: a teacher belongs neither to the state nor to the optimizer.
        object.__setattr__(self, "_teacher", None if teacher is None else MODELS.build(teacher))
        self._targets = None if teacher_cache is None else TargetCache(teacher_cache, limit=teacher_cache_limit)

    # --- network --------------------------------------------------------------------------------------------------

    def intermediate(self, features: DenseFeatures) -> Tensor:
        """Return what the two layers read, (B, W, h, w), or (B, D, h, w) for ``final``."""
        if self.feature_block == "final":
            return features.pixels
        return to_map(features.extras[f"ln_2/{self.feature_block}"][:, 1:], features.grid)

    def guide(self, images: Tensor, features: DenseFeatures, *, with_foreground: bool) -> Guidance:
        """Predict what belongs together, and what is an object, from CLIP's features alone."""
        intermediate = self.intermediate(features)
        is_foreground = self.layers.foreground_logits(intermediate).sigmoid() > 0.5 if with_foreground else None
        return Guidance(self.layers.describe(intermediate), is_foreground)

    # --- training -------------------------------------------------------------------------------------------------

    @property
    def teacher(self) -> Teacher:
        """The teacher.

        Raises:
            ValueError: if the model was built without one.
        """
        if self._teacher is None:
            raise ValueError("training needs a teacher: set model.teacher=dict(type='DinoFoundTeacher').")
        return self._teacher

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Compare the two layers with the teacher.

        Args:
            inputs: (B, 3, H, W) normalised.
            data_samples: B samples; only teachers that are made from labels read them.

        Returns:
            ``loss_corr`` and ``loss_bkg``, added without weights.
        """
        self._check_trainable()
        super().ensure_weights("visual")
        self._has_layers = True
        images = self.pad(inputs)
        intermediate = self.intermediate(self.dense_features(images))
        grid = (intermediate.shape[2], intermediate.shape[3])
        targets = cached_targets(self.teacher, self._targets, self.unit_range(images), grid, data_samples)
        unit = self.layers.describe(intermediate)
        logits = self.layers.foreground_logits(intermediate)
        with without_autocast(unit):
            return {
                "loss_corr": correlation_loss(correlate(unit), targets.belongs_together),
                "loss_bkg": foreground_loss(logits, targets.is_foreground),
            }

    def _check_trainable(self) -> None:
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        wanted = {f"{PREFIX}{name}" for name, _ in self.layers.named_parameters()}
        if trained != wanted:
            first = sorted(trained ^ wanted)[0]
            raise RuntimeError(f"CLIP-DINOiser trains its two layers and nothing else, but {first!r} is set otherwise.")

    # --- weights --------------------------------------------------------------------------------------------------

    def init_weights(self) -> None:
        """Load CLIP, and the two layers where a file of theirs is named."""
        super().init_weights()
        if self.layers_pretrained is not None and not self._has_layers:
            self._load_layers()

    def ensure_weights(self, part: str) -> None:
        """Load CLIP's part, and with the image tower the two layers, unless a checkpoint has filled them."""
        super().ensure_weights(part)
        if part != "visual" or self._has_layers:
            return
        if self.layers_pretrained is not None:
            self._load_layers()
        else:
            logger.warning(
                "CLIP-DINOiser's two layers have random weights: load a checkpoint, or set layers_pretrained"
            )
            self._has_layers = True

    def _load_layers(self) -> None:
        path = find_file(self.layers_pretrained)
        state = unwrap_state_dict(read_tensors(path), path)
        if not is_layers_state(state):
            raise ValueError(f"{path} does not hold CLIP-DINOiser's two layers. Keys: {', '.join(sorted(state)[:4])}.")
        tensors = to_model_names(state)
        self.load_state_dict(tensors)
        logger.info("loaded CLIP-DINOiser's two layers from %s", path)

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Accept the published file of the two layers beside CLIP's own files and whole checkpoints."""
        if is_layers_state(state):
            return to_model_names(state), (PREFIX,)
        return super().adapt_checkpoint(state)

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Remember whether the two layers are filled."""
        super().note_loaded(parts)
        self._has_layers = self._has_layers or PREFIX.startswith(parts)
