"""AnoVL: where an image is damaged, told by CLIP's value path and two states in words.

Deng et al.: "AnoVL: Adapting Vision-Language Models for Unified Zero-shot Anomaly Localization" (arXiv 2308.15939).

B batch, N = h*w patches, D joint width, H W image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.methods.anovl.adaptation import NOISE_STD, STEPS, TokenAdapter, adapt
from mmseg_plugins.methods.anovl.maps import abnormal_probability, augmented_views, enlarge_map, smooth_map
from mmseg_plugins.methods.anovl.prompts import encode_states, state_embeddings
from mmseg_plugins.towers.clip import Clip
from mmseg_plugins.towers.dense import DenseOptions
from mmseg_plugins.towers.position import Grid
from mmseg_plugins.towers.vit import DenseViT

VALUE_PATH = DenseOptions(rule="vv", stream="parallel", first_block=0, padding="floor", taps=("tokens",))


@dataclass(frozen=True)
class AnomalyResult:
    """What AnoVL says about images.

    Attributes:
        maps: (B, H, W) probability of damage; close to one half, only the order means something.
        scores: (B,) of the whole images.
    """

    maps: Tensor
    scores: Tensor


class AnoVL(nn.Module):
    """Zero-shot anomaly maps.

    Args:
        clip: model with CLIP's own image transformer; published is open_clip's ``ViT-B-16-plus-240`` with
            ``laion400m_e32``. Other sizes than the trained one have their position table resized; the release does not.
        adapted: train an adapter for each image (test-time adaptation).

    Raises:
        ValueError: if the image tower is another one.
    """

    def __init__(self, clip: Clip, *, adapted: bool = False) -> None:
        super().__init__()
        if not isinstance(clip.visual, DenseViT):
            raise ValueError(f"AnoVL works on CLIP's own transformer, but {clip.config.name!r} has another tower.")
        self.clip, self.adapted = clip, adapted
        self.sentences: Tensor | None = None

    def set_class(self, name: str) -> None:
        """Choose what the images show: encode the sentences of its two states."""
        self.set_sentences(encode_states(self.clip.text, name))

    def set_sentences(self, sentences_2MD: Tensor) -> None:
        """Use ready-made sentence embeddings, (2, M, D), not normalised, normal state first."""
        self.sentences = sentences_2MD

    @property
    def states(self) -> Tensor:
        """(2, D) unit embeddings of the normal and the abnormal state."""
        if self.sentences is None:
            raise ValueError("AnoVL does not know what the images show. Call set_class('bottle') first.")
        return state_embeddings(self.sentences.float())

    @torch.no_grad()
    def tokens(self, images_B3HW: Tensor) -> tuple[Tensor, Grid]:
        """Return all tokens (B, 1 + N, D) of the value path, class token of the ordinary one in front, and the grid."""
        features = self.clip.visual.forward_dense(images_B3HW, VALUE_PATH)
        return features.extras["tokens"], features.grid

    def map_of(self, patches_BND: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
        """Return the (B, H, W) map of patch tokens."""
        return enlarge_map(smooth_map(abnormal_probability(patches_BND, self.states).unflatten(1, grid)), size)

    def new_adapter(self) -> TokenAdapter:
        """Return an untrained adapter for the states in use."""
        unit = F.normalize(self.sentences.float(), dim=-1).flatten(0, 1)
        return TokenAdapter(unit).to(unit.device)

    def adapt_tokens(self, patches_ND: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Train a new adapter on one image's patch tokens (N, D), and return them adapted."""
        adapter, tokens = self.new_adapter(), patches_ND.detach().float()
        noise = [NOISE_STD * torch.randn(tokens.shape, generator=generator).to(tokens.device) for _ in range(STEPS)]
        adapt(adapter, tokens, self.states, noise)
        with torch.no_grad():
            return adapter(tokens)

    def score_image(self, image_3HW: Tensor) -> Tensor:
        """Return the mean probability of damage of the class tokens of 22 views, a scalar."""
        views = list(augmented_views(image_3HW))
        shapes = {view.shape for view in views}
        tokens = [self.tokens(torch.stack([v for v in views if v.shape == shape]))[0][:, 0] for shape in shapes]
        return abnormal_probability(torch.cat(tokens), self.states).mean()

    def forward(self, images_B3HW: Tensor) -> AnomalyResult:
        """Look at images.

        Args:
            images_B3HW: (B, 3, H, W) normalised with CLIP's statistics.
        """
        tokens, grid = self.tokens(images_B3HW)
        patches = tokens[:, 1:]
        if self.adapted:
            patches = torch.stack([self.adapt_tokens(one) for one in patches])
        with torch.no_grad():
            scores = torch.stack([self.score_image(image) for image in images_B3HW])
            return AnomalyResult(self.map_of(patches, grid, tuple(images_B3HW.shape[2:])), scores)
