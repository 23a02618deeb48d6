"""AnoVL's test-time adaptation: a small adapter of the tokens, trained anew for each image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# N patches, M sentences of a state, D joint width

NOISE_STD = 0.055
STEPS = 5
LEARNING_RATE = 1e-3
_KEPT = 0.5  # share of the token that the adapter leaves as it is
_NOISY_WEIGHT = 0.5


class TokenAdapter(nn.Module):
    """``0.5 x + 0.5 tanh(W x/|x| + b) @ T`` with T the fixed unit sentence embeddings of both states.

    Args:
        sentences_KD: (2M, D) unit embeddings, those of the normal state first.

    Attributes:
        ad: the layer that is trained.
    """

    def __init__(self, sentences_KD: Tensor) -> None:
        super().__init__()
        self.ad = nn.Linear(sentences_KD.shape[1], sentences_KD.shape[0])
        self.register_buffer("sentences", sentences_KD, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) tokens, not normalised, to adapted ones."""
        attended = torch.tanh(self.ad(F.normalize(tokens, dim=-1))) @ self.sentences
        return _KEPT * tokens + (1 - _KEPT) * attended


def adaptation_loss(adapted_ND: Tensor, noisy_ND: Tensor, states_2D: Tensor) -> Tensor:
    """Entropy of the true tokens, and true ones pulled to normal while noisy ones are pulled to abnormal.

    Args:
        adapted_ND: (..., D) adapted tokens.
        noisy_ND: the same of tokens with noise.
        states_2D: (2, D) unit states, normal first.
    """
    log_true, log_noisy = ((F.normalize(x, dim=-1) @ states_2D.T).log_softmax(-1) for x in (adapted_ND, noisy_ND))
    entropy = -(log_true.exp() * log_true).sum(-1)
    contrast = -log_noisy[..., 1] - log_true[..., 0]
    return entropy.mean() + _NOISY_WEIGHT * contrast.mean()


def adapt(
    adapter: TokenAdapter,
    tokens_ND: Tensor,
    states_2D: Tensor,
    noise: Sequence[Tensor],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = LEARNING_RATE,
) -> list[float]:
    """Train the adapter on one image.

    Args:
        adapter: changed in place.
        tokens_ND: (..., D) tokens of the image.
        states_2D: (2, D).
        noise: what is added to the tokens in each step; as many as there are steps.
        optimizer: over the adapter's parameters; None: AdamW with torch's defaults. The release keeps one for each
            class, so that its moments carry over from image to image.
        lr: learning rate of a new optimiser.

    Returns:
        The loss before each step.
    """
    optimizer = optimizer or torch.optim.AdamW(adapter.parameters(), lr=lr)
    losses = []
    with torch.enable_grad():
        for step_noise in noise:
            loss = adaptation_loss(adapter(tokens_ND), adapter(tokens_ND + step_noise), states_2D)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses
