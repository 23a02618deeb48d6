"""CLIP's ModifiedResNet (RN50, RN101, RN50x4, RN50x16, RN50x64) with dense features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_plugins.towers.attention import merge_heads, split_heads
from mmseg_plugins.towers.config import CLIP_MEAN, CLIP_STD, VisionConfig
from mmseg_plugins.towers.dense import DenseFeatures, DenseOptions, Steering
from mmseg_plugins.towers.position import Grid, pad_image, resize_positions, to_map

# B batch, N = h*w places, W = 32 * stem width (channels of layer4), D joint width

_STRIDE = 32
_EXPANSION = 4


class Bottleneck(nn.Module):
    """Residual block whose stride is an average pool behind the 3x3 convolution."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        channels_out = channels * _EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride > 1 or channels_in != channels_out:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride))
            self.downsample.add_module("0", nn.Conv2d(channels_in, channels_out, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride), sizes rounded down."""
        identity = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(F.relu(self.bn2(self.conv2(x))))
        return F.relu(self.bn3(self.conv3(x)) + identity)


class AttentionPool(nn.Module):
    """CLIP's attention pool, which turns the last feature map into the image embedding.

    Args:
        grid: (h, w) that its position table belongs to.
        width: channels of the map.
        heads: attention heads.
        embed_dim: joint width.
    """

    def __init__(self, grid: Grid, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.grid, self.heads = grid, heads
        self.positional_embedding = nn.Parameter(torch.randn(1 + grid[0] * grid[1], width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, map_BWhw: Tensor) -> Tensor:
        """Pool a map into one vector, (B, D); positions are resized for another grid."""
        positions = resize_positions(self.positional_embedding, self.grid, tuple(map_BWhw.shape[-2:]))
        tokens = with_mean(map_BWhw) + positions.to(map_BWhw.dtype)
        return self.attend(tokens[:, :1], tokens)[:, 0]

    def attend(self, queries_BQW: Tensor, tokens_BPW: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from queries to tokens.

        Args:
            queries_BQW: (B, Q, W).
            tokens_BPW: (B, P, W).
            mask: boolean, True where attention is allowed, or added to the scores; broadcast to (B, heads, Q, P).

        Returns:
            (B, Q, D).
        """
        q = split_heads(self.q_proj(queries_BQW), self.heads)
        k, v = (split_heads(project(tokens_BPW), self.heads) for project in (self.k_proj, self.v_proj))
        return self.c_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))

    def attend_everywhere(self, map_BWhw: Tensor) -> Tensor:
        """Full attention at every place, without positions (MaskCLIP's baseline): (B, N, D)."""
        tokens = with_mean(map_BWhw)
        return self.attend(tokens[:, 1:], tokens)


def with_mean(map_BWhw: Tensor) -> Tensor:
    """Flatten a map to tokens with their mean in front: (B, 1 + N, W)."""
    tokens = map_BWhw.flatten(2).transpose(1, 2)
    return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)


class ModifiedResNet(nn.Module):
    """CLIP's ResNet under OpenAI's parameter names (without their leading ``visual.``).

    Average pools round down, so a remainder at the bottom and right is lost on the way, as published.

    Args:
        config: sizes of the tower, ``family='resnet'``.
        embed_dim: joint width.
        mean, std: RGB statistics on the 0..255 scale that the tower was trained with; kept for whoever normalises.

    Attributes:
        embed_dim: joint width.
        width: channels of the last stage.
        stride: pixels per place of the last stage.
    """

    def __init__(
        self,
        config: VisionConfig,
        *,
        embed_dim: int,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        stem = config.width
        self.config, self.mean, self.std = config, mean, std
        self.embed_dim, self.width, self.stride = embed_dim, stem * _STRIDE, _STRIDE
        self.conv1 = nn.Conv2d(3, stem // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem // 2)
        self.conv2 = nn.Conv2d(stem // 2, stem // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem // 2)
        self.conv3 = nn.Conv2d(stem // 2, stem, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, stem, config.layers[0], 1)
        self.layer2 = _stage(stem * 4, stem * 2, config.layers[1], 2)
        self.layer3 = _stage(stem * 8, stem * 4, config.layers[2], 2)
        self.layer4 = _stage(stem * 16, stem * 8, config.layers[3], 2)
        grid = (config.image_size[0] // _STRIDE, config.image_size[1] // _STRIDE)
        self.attnpool = AttentionPool(grid, self.width, config.heads, embed_dim)

    def forward_stages(self, image_B3HW: Tensor) -> list[Tensor]:
        """Return the four stages' outputs, strides 4, 8, 16 and 32.

        Args:
            image_B3HW: (B, 3, H, W), normalised, sides at least 32.

        Raises:
            ValueError: if a side is below 32.
        """
        if min(image_B3HW.shape[-2:]) < _STRIDE:
            raise ValueError(
                f"Image of {image_B3HW.shape[-2]} x {image_B3HW.shape[-1]} pixels is smaller than this tower's stride "
                f"of {_STRIDE}. Enlarge it."
            )
        x = F.relu(self.bn1(self.conv1(image_B3HW)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            stages.append(x)
        return stages

    def encode_image(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, (B, D), not normalised.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
        """
        return self.attnpool(self.forward_stages(image_B3HW)[-1])

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Embed whole images, see :meth:`encode_image`."""
        return self.encode_image(image_B3HW)

    def forward_dense(
        self, image_B3HW: Tensor, options: DenseOptions | None = None, *, steering: Steering | None = None
    ) -> DenseFeatures:
        """Compute features for every place of the last stage.

        The value path of the attention pool (MaskCLIP), or with ``options.attention_pooling`` the pool itself at
        every place. Positions are used in neither.

        Args:
            image_B3HW: (B, 3, H, W), normalised.
            options: ``attention_pooling, qkv, ordinary, taps, padding`` count here.
            steering: must be None: there is no transformer to steer.

        Raises:
            ValueError: if the options ask for what only a transformer has.
        """
        options = options or DenseOptions()
        check_convolutional(options, steering)
        stages = self.forward_stages(pad_small(image_B3HW, self.stride, options))
        layer4 = stages[-1]
        grid = (layer4.shape[-2], layer4.shape[-1])
        value = _as_convolution(self.attnpool.v_proj, layer4)
        if options.attention_pooling:
            pixels = to_map(self.attnpool.attend_everywhere(layer4), grid)
        else:
            pixels = _as_convolution(self.attnpool.c_proj, value)
        features = DenseFeatures(pixels=pixels, trunk=layer4, grid=grid, extras=stage_taps(stages, options))
        if options.qkv:
            query, key = (_as_convolution(layer, layer4) for layer in (self.attnpool.q_proj, self.attnpool.k_proj))
            maps = (query, key, value)
            features.query, features.key, features.value = (part.flatten(2).transpose(1, 2) for part in maps)
        if options.ordinary:
            features.cls = self.attnpool(layer4)
        return features


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [Bottleneck(channels * _EXPANSION, channels) for _ in range(1, blocks)]
    return nn.Sequential(Bottleneck(channels_in, channels, stride), *rest)


def _as_convolution(layer: nn.Linear, map_BWhw: Tensor) -> Tensor:
    return F.conv2d(map_BWhw, layer.weight[:, :, None, None], layer.bias)


def check_convolutional(options: DenseOptions, steering: Steering | None) -> None:
    """Refuse what a convolutional tower cannot do.

    Raises:
        ValueError: if another rule than the value path, or a steering, is asked for.
    """
    plain = DenseOptions()
    changed = [
        name
        for name in ("rule", "first_block", "stream", "heads", "gaussian_std", "mean_blocks")
        if getattr(options, name) != getattr(plain, name)
    ]
    if steering is not None:
        changed.append("steering")
    if changed:
        raise ValueError(f"A convolutional tower has no transformer blocks to change: leave out {', '.join(changed)}.")


def pad_small(image_B3HW: Tensor, stride: int, options: DenseOptions) -> Tensor:
    """Pad an image for a convolutional tower: as the options say, and always up to one place."""
    if options.padding is not None:
        return pad_image(image_B3HW, stride, options.padding)
    height, width = image_B3HW.shape[-2:]
    if min(height, width) >= stride:
        return image_B3HW
    return F.pad(image_B3HW, (0, max(stride - width, 0), 0, max(stride - height, 0)))


def stage_taps(stages: list[Tensor], options: DenseOptions) -> dict[str, Tensor]:
    """Pick the stages that the options ask for.

    Raises:
        ValueError: if a tap is not a stage.
    """
    known = {f"stage/{index}": stage for index, stage in enumerate(stages, start=1)}
    unknown = [tap for tap in options.taps if tap not in known]
    if unknown:
        raise ValueError(f"Unknown tap {unknown[0]!r}. A convolutional tower has {', '.join(known)}.")
    return {tap: known[tap] for tap in options.taps}
