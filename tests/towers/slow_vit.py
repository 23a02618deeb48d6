"""CLIP's image transformer and the published changes of its attention, written head by head for one image at a time.

Slow and plain on purpose: written from the equations, sharing nothing with the package.
"""

import math

import torch


def layer_norm(x, weights, name, eps):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def activate(x, act):
    if act == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def softmax_rows(scores):
    exponentials = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return exponentials / exponentials.sum(-1, keepdim=True)


class SlowViT:
    """One image at a time; weights under OpenAI's names without ``visual.``."""

    def __init__(self, weights, *, heads, layers, patch, act="gelu", eps=1e-5):
        self.w, self.heads, self.layers, self.patch, self.act, self.eps = weights, heads, layers, patch, act, eps

    def embed(self, image, positions):
        """image (3,H,W) -> (1+N, W)."""
        weight = self.w["conv1.weight"]
        rows, columns = image.shape[1] // self.patch, image.shape[2] // self.patch
        tokens = [self.w["class_embedding"]]
        for i in range(rows):
            for j in range(columns):
                piece = image[:, i * self.patch : (i + 1) * self.patch, j * self.patch : (j + 1) * self.patch]
                tokens.append((weight * piece).sum((1, 2, 3)))
        return layer_norm(torch.stack(tokens) + positions, self.w, "ln_pre", self.eps)

    def norm(self, x, block, which):
        return layer_norm(x, self.w, f"transformer.resblocks.{block}.ln_{which}", self.eps)

    def qkv(self, x, block):
        """Lists over heads of q, k and v, (P, d) each."""
        front = f"transformer.resblocks.{block}.attn."
        stacked = self.norm(x, block, 1) @ self.w[front + "in_proj_weight"].T + self.w[front + "in_proj_bias"]
        width = x.shape[1]
        parts = [stacked[:, part * width : (part + 1) * width] for part in range(3)]
        size = width // self.heads
        return [[part[:, h * size : (h + 1) * size] for h in range(self.heads)] for part in parts]

    def output(self, context, block):
        front = f"transformer.resblocks.{block}.attn.out_proj."
        return torch.cat(context, dim=1) @ self.w[front + "weight"].T + self.w[front + "bias"]

    def mlp(self, x, block):
        front = f"transformer.resblocks.{block}.mlp."
        hidden = activate(x @ self.w[front + "c_fc.weight"].T + self.w[front + "c_fc.bias"], self.act)
        return hidden @ self.w[front + "c_proj.weight"].T + self.w[front + "c_proj.bias"]

    def pair_weights(self, a, b, scale, bias=None):
        return [softmax_rows(x @ y.T * scale + (0 if bias is None else bias)) for x, y in zip(a, b, strict=True)]

    def ordinary_weights(self, x, block):
        q, k, _ = self.qkv(x, block)
        return self.pair_weights(q, k, q[0].shape[1] ** -0.5)

    def ordinary(self, x, block):
        _, _, v = self.qkv(x, block)
        weights = self.ordinary_weights(x, block)
        x = x + self.output([w @ value for w, value in zip(weights, v, strict=True)], block)
        return x + self.mlp(self.norm(x, block, 2), block)

    def tail(self, x):
        return layer_norm(x, self.w, "ln_post", self.eps) @ self.w["proj"]

    def changed(self, x, block, rule, *, bias=None, residual=True, mlp=True):
        """Replace the block's attention by ``rule(q, k, v) -> list of weights``."""
        q, k, v = self.qkv(x, block)
        weights = rule(q, k, v, bias)
        attended = self.output([w @ value for w, value in zip(weights, v, strict=True)], block)
        x = x + attended if residual else attended
        return x + self.mlp(self.norm(x, block, 2), block) if mlp else x

    def two_paths(self, x, first, rule, *, keep_class_token=True):
        """Second path beside the ordinary one: no MLP, attention from the ordinary path's tokens."""
        stream = x
        for block in range(first, self.layers):
            q, k, v = self.qkv(x, block)
            weights = rule(q, k, v, self.norm(x, block, 1))
            stream = stream + self.output([w @ value for w, value in zip(weights, v, strict=True)], block)
            x = self.ordinary(x, block)
        if keep_class_token:
            stream = torch.cat([x[:1], stream[1:]])
        return stream, x
