"""CLIP's image transformer written out head by head and token by token's equation, to compare the fast one with."""

import torch
import torch.nn.functional as F

from mmseg_plugins.methods.training_free.model import TrainingFree
from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.vocabulary.embed import TextEmbeddings

NUMBERS = {
    "embed_dim": 16, "image_resolution": 32, "vision_layers": 12, "vision_width": 32, "vision_patch_size": 8,
    "vision_heads": 4,
}  # fmt: skip
PREPROCESSOR = {
    "type": "mmseg.SegDataPreProcessor",
    "mean": [122.771, 116.746, 104.094],
    "std": [68.501, 66.632, 70.323],
    "bgr_to_rgb": True,
}


def build(kind=TrainingFree, *, classes=("a", "b", "c", "d", "e"), numbers=NUMBERS, background=None, **options):
    """A segmentor with random weights that matter, and random text embeddings, one row for each class."""
    vocabulary = {"source": list(classes), **({} if background is None else {"background": background})}
    model = kind(
        clip={"model": ClipConfig.from_openai_numbers(numbers), "text": False},
        vocabulary=vocabulary,
        text_cache=False,
        **options,
    )
    torch.manual_seed(0)
    for name, parameter in model.clip.named_parameters():
        scale = 0.3 if parameter.ndim > 1 else 0.1
        parameter.data = scale * torch.randn_like(parameter) + (
            1 if name.endswith(("ln_1.weight", "ln_2.weight")) else 0
        )
    rows = F.normalize(torch.randn(model.num_classes, numbers["embed_dim"]), dim=-1)
    model.set_text_embeddings(TextEmbeddings(rows, torch.arange(model.num_classes), model.num_classes))
    return model.eval()


class SlowTower:
    """The tower's equations on one image, (3, H, W) with sides that are multiples of the patch."""

    def __init__(self, tower):
        self.tower, self.blocks = tower, list(tower.blocks)
        self.heads, self.d = tower.config.heads, tower.width // tower.config.heads

    def embed(self, image, positions):
        weight, patch = self.tower.conv1.weight, self.tower.stride
        h, w = image.shape[1] // patch, image.shape[2] // patch
        tokens = [self.tower.class_embedding]
        for row in range(h):
            for column in range(w):
                cell = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                tokens.append((weight * cell).sum((1, 2, 3)))
        return self.tower.ln_pre(torch.stack(tokens) + positions), (h, w)

    def qkv(self, block, x):
        """(heads, P, d) each, of the block's normed input."""
        stacked = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        return [
            torch.stack([part[:, h * self.d : (h + 1) * self.d] for h in range(self.heads)])
            for part in stacked.chunk(3, dim=1)
        ]

    def weights(self, left, right):
        """softmax(left rightᵀ / sqrt(d)) row by row."""
        scores = torch.stack([torch.stack([r @ k.T for r in q]) for q, k in zip(left, right, strict=True)])
        scores = scores / self.d**0.5
        return scores.exp() / scores.exp().sum(-1, keepdim=True)

    def out(self, block, weights, v):
        merged = torch.cat([w @ values for w, values in zip(weights, v, strict=True)], dim=1)
        return merged @ block.attn.out_proj.weight.T + block.attn.out_proj.bias

    def mlp(self, block, x):
        y = block.ln_2(x) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
        return (y * torch.sigmoid(1.702 * y)) @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias

    def ordinary(self, block, x):
        q, k, v = self.qkv(block, x)
        x = x + self.out(block, self.weights(q, k), v)
        return x + self.mlp(block, x)

    def before_last(self, image, positions):
        """Inputs of all blocks, and the grid."""
        x, grid = self.embed(image, positions)
        inputs = [x]
        for block in self.blocks[:-1]:
            inputs.append(self.ordinary(block, inputs[-1]))
        return inputs, grid

    def finish(self, x):
        return self.tower.ln_post(x) @ self.tower.proj
