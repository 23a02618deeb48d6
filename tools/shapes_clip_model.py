"""The embedded CLIP as its training script sees it: open_clip's model on the tokens that captions can hold."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, OPENAI_IMAGENET_TEMPLATES
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor, nn

from mmseg_plugins.datasets.shapesworld import world
from mmseg_plugins.datasets.shapesworld.captions import NOUNS

# B images or captions, N patches, D joint width, L tokens, H W image

CONFIG = {
    "embed_dim": 96,
    "vision_cfg": {
        "image_size": 64,
        "layers": 4,
        "width": 96,
        "head_width": 32,
        "patch_size": 8,
        "pool_type": "avg",
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 96, "heads": 3, "layers": 2},
}
SOFT_POOLING = 10.0


class Words:
    """CLIP's tokeniser cut down to the tokens that captions can hold, numbered anew in rising order of their ids."""

    def __init__(self) -> None:
        self.tokenizer = SimpleTokenizer()
        self.start, self.end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        names = (*world.COLOURS, *world.TEXTURES, *world.GROUNDS, *NOUNS, "something", "and", ",", "a", "an", "the")
        texts = [template("thing") for template in OPENAI_IMAGENET_TEMPLATES] + list(names)
        # 0 pads; it needs a row although no caption's features depend on it.
        ids = {0, self.start, self.end, *(token for text in texts for token in self.tokenizer.encode(text))}
        self.ids = sorted(ids)
        self.row = {token: row for row, token in enumerate(self.ids)}

    def encode(self, captions: list[str]) -> Tensor:
        """Return (B, L) row numbers, cut to the longest caption."""
        rows = [[self.start, *self.tokenizer.encode(caption), self.end] for caption in captions]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor([self.row[token] for token in row])
        return tokens


class ShapesClip(nn.Module):
    """open_clip's CLIP with only the known token rows, and the patch features that its objective needs."""

    def __init__(self, config: dict, words: Words) -> None:
        super().__init__()
        text = {**config["text_cfg"], "vocab_size": len(words.ids)}
        self.clip = CLIP(config["embed_dim"], vision_cfg=config["vision_cfg"], text_cfg=text)
        with torch.no_grad():
            self.clip.logit_scale.fill_(float(np.log(10.0)))
        self.words = words
        self.register_buffer("mean", torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1) * 255, persistent=False)

    def _tokens(self, images: Tensor, corners: Tensor | None) -> Tensor:
        visual = self.clip.visual
        tokens = visual.conv1((images.float() - self.mean) / self.std)
        grid = tokens.shape[-1]
        table = visual.positional_embedding
        if corners is None:
            places = table[1:][None]
        else:
            # A window of the position grid for each close-up.
            side = round((len(table) - 1) ** 0.5)
            steps = torch.arange(grid, device=images.device)
            rows, columns = corners[:, 0, None] + steps, corners[:, 1, None] + steps
            places = table[1:][(rows[:, :, None] * side + columns[:, None]).flatten(1)]
        tokens = tokens.flatten(2).transpose(1, 2) + places
        first = (visual.class_embedding + table[0]).expand(len(images), 1, -1)
        return visual.ln_pre(torch.cat([first, tokens], dim=1))

    def patches(self, images: Tensor, corners: Tensor | None = None) -> Tensor:
        """Return patch embeddings (B, N, D) of uint8 images (B, 3, H, W); ``corners`` (B, 2) for close-ups."""
        visual = self.clip.visual
        tokens = visual.transformer(self._tokens(images, corners))
        return visual.ln_post(tokens[:, 1:]) @ visual.proj

    def value_patches(self, images: Tensor) -> Tensor:
        """Return patch embeddings (B, N, D) with the last block's attention replaced by its values (MaskCLIP)."""
        visual = self.clip.visual
        tokens = self._tokens(images, None)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        width = tokens.shape[-1]
        attention = last.attn
        value = F.linear(last.ln_1(tokens), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        tokens = tokens + attention.out_proj(value)
        tokens = tokens + last.mlp(last.ln_2(tokens))
        return visual.ln_post(tokens[:, 1:]) @ visual.proj

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return unit text embeddings (B, D) of row numbers (B, L)."""
        clip, length = self.clip, tokens.shape[1]
        hidden = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        hidden = clip.transformer(hidden, attn_mask=clip.attn_mask[:length, :length])
        # The end token has the highest row number.
        ends = clip.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
        return F.normalize(ends @ clip.text_projection, dim=-1)

    def loss(self, images: Tensor, full: Tensor, single: Tensor, corners: Tensor | None = None) -> Tensor:
        """Return the mean symmetric InfoNCE of a full caption and of each of the single captions per image.

        Args:
            images: (B, 3, H, W) uint8.
            full: (B, L) row numbers.
            single: (S * B, L) row numbers, all images' first captions, then all second ones.
            corners: see ``patches``.
        """
        patches = self.patches(images, corners)
        scale = self.clip.logit_scale.exp()
        logits = [F.normalize(patches.mean(dim=1), dim=-1) @ self.encode_text(full).T]
        unit = F.normalize(patches, dim=-1)
        for text in self.encode_text(single).split(len(images)):
            cosine = torch.einsum("bnd,td->btn", unit, text)
            logits.append((F.softmax(SOFT_POOLING * cosine, dim=-1) * cosine).sum(dim=-1))
        own = torch.arange(len(images), device=images.device)
        losses = [F.cross_entropy(scale * part, own) + F.cross_entropy(scale * part.T, own) for part in logits]
        return torch.stack(losses).mean() / 2


def asset_tensors(model: ShapesClip) -> dict[str, Tensor]:
    """Return the weights in open_clip's layout and half precision, the token table cut to its known rows."""
    tensors = {
        name: value.detach().to("cpu", torch.float16).contiguous() for name, value in model.clip.state_dict().items()
    }
    tensors["token_embedding.rows"] = tensors.pop("token_embedding.weight")
    tensors["token_embedding.ids"] = torch.tensor(model.words.ids, dtype=torch.int64)
    return tensors


def load_asset(path: Path) -> ShapesClip:
    """Build the model of an asset file."""
    record = json.loads(path.with_suffix(".json").read_text())
    model = ShapesClip(record["config"], Words())
    tensors = load_file(path)
    if tensors.pop("token_embedding.ids").tolist() != model.words.ids:
        raise ValueError(f"{path} knows other tokens than this script's captions; train it again.")
    tensors["token_embedding.weight"] = tensors.pop("token_embedding.rows")
    model.clip.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval()
