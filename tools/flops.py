"""Count the parameters and multiply-adds of a model, part by part, without weights and without computing anything.

PyTorch's own counter on shapes alone. A multiply-add (MAC) is two floating-point operations; the "GFLOPs" of many
papers are MACs. Convolutions, matrix products and attention count, and, as in the counters that papers use, norms and
resizing; activations and pooling do not. --like-fvcore counts as fvcore did until 2021, with which many published
figures were made: a transposed convolution at every place of its output, and the resize of the logits to the image.

Examples:
  python tools/flops.py configs/denseclip/denseclip_fpn_r50_8xb4-80k_ade20k-512x512.py
  python tools/flops.py configs/denseclip/denseclip_fpn_vit-b_8xb4-80k_ade20k-640x640.py --like-fvcore
  python tools/flops.py CONFIG --shape 512 512 --json
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmseg_plugins.register

_ = mmseg_plugins.register  # imported for its effect
_OPERATIONS_PER_MAC = 2
_ATEN = torch.ops.aten
# Multiply-adds per value that comes out, after the counter of detectron2 and mmengine.
_PER_VALUE = {
    _ATEN.native_batch_norm: 2,
    _ATEN._native_batch_norm_legit_no_training: 2,
    _ATEN.native_layer_norm: 5,
    _ATEN.native_group_norm: 5,
    _ATEN.upsample_bilinear2d: 4,
    _ATEN.upsample_nearest2d: 1,
}


def _per_value(macs: int) -> Callable[..., int]:
    def operations(*_inputs: Any, out_shape: Any = None, **_options: Any) -> int:
        first = out_shape[0] if isinstance(out_shape[0], (tuple, torch.Size)) else out_shape
        return math.prod(first) * macs * _OPERATIONS_PER_MAC

    return operations


def _convolution_at_every_output(_x: Any, weight: Any, *_inputs: Any, out_shape: Any = None, **_options: Any) -> int:
    """Multiply the weight's size with the places that come out, which a transposed convolution does not compute."""
    return math.prod(weight) * out_shape[0] * math.prod(out_shape[2:]) * _OPERATIONS_PER_MAC


_MAPPING = {operation: _per_value(macs) for operation, macs in _PER_VALUE.items()}
_FVCORE_MAPPING = {**_MAPPING, _ATEN.convolution: _convolution_at_every_output}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--shape", nargs=2, type=int, default=[1024, 1024], metavar=("H", "W"), help="image size (default: 1024 1024)"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="override config entries"
    )
    parser.add_argument("--like-fvcore", action="store_true", help="count as fvcore did until 2021, see above")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def build_model(config: Config) -> nn.Module:
    """Build the model of a config on the meta device, in eval mode, with nothing downloaded."""
    init_default_scope(config.get("default_scope", "mmseg"))
    settings = config.model
    _switch_off_downloads(settings)
    return MODELS.build(settings).to("meta").eval()


def _switch_off_downloads(settings: Any) -> None:
    """Timm's backbones fetch their weights when they are built."""
    if isinstance(settings, Mapping):
        if settings.get("type") == "TIMMBackbone":
            settings["pretrained"] = False
        for value in settings.values():
            _switch_off_downloads(value)


def count(model: nn.Module, shape: tuple[int, int], *, is_like_fvcore: bool = False) -> dict[str, dict[str, int]]:
    """Count parameters and MACs.

    Args:
        model: an mmseg segmentor on the meta device.
        shape: (H, W) of the image.
        is_like_fvcore: whether transposed convolutions count at every place of their output, and the resize of the
            logits to the image counts too (in ``rest``).

    Returns:
        Part -> ``{"parameters", "macs", "batched_macs"}``; the parts are the model's own children, ``rest`` is what
        belongs to none of them, ``total`` is everything. ``batched_macs`` are those of batched matrix products
        (attention, score maps), which some counters leave out; ``macs`` contains them. What ``text_encoder`` computes
        is computed once, not for each image.
    """
    mapping = _FVCORE_MAPPING if is_like_fvcore else _MAPPING
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        logits = model(torch.zeros(1, 3, *shape, device="meta"), mode="tensor")
    by_module = counter.get_flop_counts()
    total = _row(sum(value.numel() for value in model.parameters()), by_module["Global"])
    if is_like_fvcore:
        total["macs"] += _PER_VALUE[_ATEN.upsample_bilinear2d] * logits.shape[1] * math.prod(shape)
    root = type(model).__name__
    parts = {}
    for name, child in model.named_children():
        row = _row(sum(value.numel() for value in child.parameters()), _below(by_module, f"{root}.{name}"))
        if any(row.values()):
            parts[name] = row
    rest = {key: total[key] - sum(part[key] for part in parts.values()) for key in total}
    return {**parts, "rest": rest, "total": total}


def _row(parameters: int, operations: Mapping[Any, int]) -> dict[str, int]:
    return {
        "parameters": parameters,
        "macs": sum(operations.values()) // _OPERATIONS_PER_MAC,
        "batched_macs": sum(operations.get(name, 0) for name in (_ATEN.bmm, _ATEN.baddbmm)) // _OPERATIONS_PER_MAC,
    }


def _below(by_module: Mapping[str, Mapping[Any, int]], name: str) -> Mapping[Any, int]:
    """Operations of a module, or of its topmost children where its ``forward`` was called directly."""
    if name in by_module:
        return by_module[name]
    below = sorted((key for key in by_module if key.startswith(f"{name}.")), key=lambda key: key.count("."))
    topmost: list[str] = []
    for key in below:
        if not any(key.startswith(f"{other}.") for other in topmost):
            topmost.append(key)
    return sum((Counter(by_module[key]) for key in topmost), Counter())


def as_table(parts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the counts as lines of text, with what runs for each image below where there is a text encoder."""
    rows = dict(parts)
    if "text_encoder" in parts:
        text = parts["text_encoder"]
        rows["per image"] = {key: parts["total"][key] - text[key] for key in text}
    lines = [f"{'part':<18}{'parameters, M':>15}{'MACs, G':>12}{'of it batched':>16}"]
    for name, row in rows.items():
        macs, batched = row["macs"] / 1e9, row["batched_macs"] / 1e9
        lines.append(f"{name:<18}{row['parameters'] / 1e6:>15.3f}{macs:>12.2f}{batched:>16.2f}")
    return "\n".join(lines)


def main() -> None:
    """Print the counts of a config's model."""
    args = parse_args()
    config = Config.fromfile(args.config)
    if args.cfg_options is not None:
        config.merge_from_dict(args.cfg_options)
    parts = count(build_model(config), tuple(args.shape), is_like_fvcore=args.like_fvcore)
    print(json.dumps(parts, indent=2) if args.json else as_table(parts))


if __name__ == "__main__":
    main()
