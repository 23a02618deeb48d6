"""Count what training-free presets compute for one image: windows, multiply-adds of CLIP and of other networks.

PyTorch's own counter, without weights and, where a method's path does not depend on the data, without computing
anything. Convolutions, matrix products and attention count; norms, resizing, PAMR and the label map do not. The image
goes through the resize and the windows of the config; text is encoded once for a vocabulary and is not counted.

Examples:
  python tools/preset_costs.py
  python tools/preset_costs.py configs/training_free/sclip_vit-b16_voc21.py --image 500 375 --json costs.json
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmcv.image import rescale_size
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import mmseg_plugins.register
from mmseg_plugins.prediction.windows import window_grid, window_padding
from mmseg_plugins.vocabulary.embed import TextEmbeddings

_ = mmseg_plugins.register  # imported for its effect
ROOT = Path(__file__).resolve().parents[1]
DEFAULT = sorted((ROOT / "configs/training_free").glob("*_vit-b16_voc21.py"))
# These look at values on the way (labels, regions, places without a window): they are run, on noise, with the image cut
# into so many regions.
_RUN = ("ResCLIP", "CorrCLIP", "Trident")
_REGIONS = 16


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, help="config files (default: the presets for VOC21)")
    parser.add_argument("--image", nargs=2, type=int, default=(500, 375), metavar=("W", "H"), help="size in pixels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a file")
    return parser.parse_args(arguments)


def cost(path: Path, image: tuple[int, int]) -> dict[str, Any]:
    """Count one preset.

    Args:
        path: config of a training-free method.
        image: (width, height) in pixels.

    Returns:
        ``input`` (H, W) of the network, ``windows``, ``clip_gmacs`` and ``other_gmacs`` for the image, and
        ``other_networks``, their parameters in millions.
    """
    config = Config.fromfile(path)
    init_default_scope("mmseg")
    model = MODELS.build(config.model).eval()
    rows, size = len(model.vocabulary.rows), network_input(config, image)
    text = TextEmbeddings(torch.randn(rows, model.clip.visual.embed_dim), torch.arange(rows), rows)
    windows, crop = windows_of(model, size)
    if hasattr(model, "statistics"):
        statistics = model.statistics()
        model.statistics = lambda: statistics  # cannot be read where nothing is computed
    mode = nullcontext() if config.model.type in _RUN else FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        total, other_macs = _count(model, torch.randn(1, 3, *crop), text)
    others = [getattr(model, name, None) for name in ("vfm", "guidance")]
    return {
        "input": size,
        "windows": windows * _own_windows(model, crop),
        "clip_gmacs": windows * (total - other_macs) / 1e9,
        "other_gmacs": windows * other_macs / 1e9,
        "other_networks": [_millions(network) for network in others if network is not None],
    }


def _count(model: nn.Module, crops: Tensor, text: TextEmbeddings) -> tuple[int, int]:
    """Multiply-adds of one window, and how many of them are other networks'."""
    others = sum(_other_macs(model, crops))
    image = torch.cat([crops, _regions(crops)], dim=1) if hasattr(model, "region_features") else crops
    return _macs(lambda: model.row_logits(image, text)), others


def network_input(config: Config, image: tuple[int, int]) -> tuple[int, int]:
    """Return the (H, W) that the test pipeline's resize gives."""
    for step in config.test_dataloader.dataset.pipeline:
        if step["type"] == "Resize":
            width, height = rescale_size(image, tuple(step["scale"]))
            return height, width
    return image[1], image[0]


def windows_of(model: nn.Module, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Return how many windows an image has, and the (H, W) of one, padding included."""
    settings, crop, count = model.test_cfg, size, 1
    if settings.get("mode") == "slide":
        boxes = window_grid(size, tuple(settings.crop_size), tuple(settings.stride))
        crop, count = (boxes[0].bottom - boxes[0].top, boxes[0].right - boxes[0].left), len(boxes)
    left, right, top, bottom = window_padding(crop, settings.get("pad_multiple"))
    return count, (crop[0] + top + bottom, crop[1] + left + right)


def _own_windows(model: nn.Module, size: tuple[int, int]) -> int:
    """Windows that a method cuts for itself."""
    if not hasattr(model, "window_stride"):
        return 1
    return len(window_grid(size, model.crop_size, model.window_stride))


def _regions(crops: Tensor) -> Tensor:
    side = round(_REGIONS**0.5)
    grid = torch.arange(1.0, _REGIONS + 1, device=crops.device).view(1, 1, side, side)
    return nn.functional.interpolate(grid, crops.shape[2:], mode="nearest")


def _other_macs(model: nn.Module, crops: Tensor) -> list[int]:
    """Multiply-adds of the other networks on one window."""
    found = []
    if getattr(model, "vfm", None) is not None:
        boxes = [crops]
        if hasattr(model, "window_stride"):
            places = window_grid(tuple(crops.shape[2:]), model.crop_size, model.window_stride)
            boxes = [crops[(..., *box.slices)] for box in places]
        found += [_macs(lambda one=one: model.vfm_features(one)) for one in boxes]
    if getattr(model, "guidance", None) is not None:
        found.append(_macs(lambda: model.guidance(crops)))
    return found


def _macs(run: Callable[[], Any]) -> int:
    """Multiply-adds of a call; attention is written out, since not every fused kernel is known to the counter."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def _millions(network: nn.Module) -> float:
    return sum(value.numel() for value in network.parameters()) / 1e6


def as_table(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the numbers as Markdown."""
    lines = [
        "| config | input | windows | GMACs, CLIP | GMACs, others | their parameters, M |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in costs.items():
        others = " + ".join(f"{value:.0f}" for value in row["other_networks"]) or "none"
        lines.append(
            f"| {name} | {row['input'][0]} x {row['input'][1]} | {row['windows']} | {row['clip_gmacs']:.1f} "
            f"| {row['other_gmacs']:.1f} | {others} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Count and print."""
    args, costs = parse_args(), {}
    for path in args.configs or DEFAULT:
        costs[path.stem] = cost(path, tuple(args.image))
        print(path.stem, file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(costs, indent=1), encoding="utf-8")
    print(as_table(costs))


if __name__ == "__main__":
    main()
