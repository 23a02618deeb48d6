"""Measure what DenseCLIP's text side costs in evaluation: its forward time against the same Semantic FPN without text.

Both networks are built from their configs with random weights, for 150 classes; the class embeddings are computed
before the clock starts, as they are once in a test run. One thread, processor time of this thread, the two networks
in turn, medians: the ratio holds on a busy machine. Three to four minutes in all.

    python tools/benchmarks/denseclip.py
    python tools/benchmarks/denseclip.py --only rn50 --repeats 9 --json results.json
    python tools/benchmarks/denseclip.py --only vit-b --parts
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

import mmseg_plugins.register

_ = mmseg_plugins.register  # imported for its effect
CONFIGS = Path(__file__).resolve().parents[2] / "configs/denseclip"


@dataclass(frozen=True)
class Pair:
    """A network with text and the same one without.

    Attributes:
        config: what stands between ``denseclip_fpn_`` or ``clip_fpn_`` and the end of the config's name.
        side: of the square image, in pixels: that of the config's windows.
        limit: largest share of the plain network's time that the text side may add.
    """

    config: str
    side: int
    limit: float


PAIRS = {
    "rn50": Pair("r50_8xb4-80k_ade20k-512x512.py", 512, 0.12),
    "rn101": Pair("r101_8xb4-80k_ade20k-512x512.py", 512, 0.12),
    "vit-b": Pair("vit-b_8xb4-80k_ade20k-640x640.py", 640, 0.05),
}


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        model: key of :data:`PAIRS`.
        size: image side in pixels.
        plain_s: median seconds of the network without text.
        text_s: median seconds of DenseCLIP.
        added: what the text side adds, as a share of ``plain_s``: the median over the rounds.
        limit: what it may add.
        parts_s: seconds of DenseCLIP's parts, where asked for.
    """

    model: str
    size: int
    plain_s: float
    text_s: float
    added: float
    limit: float
    parts_s: dict[str, float]

    @property
    def is_met(self) -> bool:
        """Whether the text side adds no more than it may."""
        return self.added <= self.limit


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--repeats", type=int, default=5, help="rounds; in each both networks run once (default: 5)")
    parser.add_argument("--side", type=int, help="image side in pixels instead of that of the windows")
    parser.add_argument("--parts", action="store_true", help="also measure DenseCLIP's parts, in runs of their own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    return parser.parse_args()


def build(name: str) -> nn.Module:
    """Build a config's network in eval mode, without any weights file."""
    init_default_scope("mmseg")
    torch.manual_seed(0)
    return MODELS.build(Config.fromfile(CONFIGS / name).model).eval()


def seconds(function: Callable[[], object]) -> float:
    """Return the processor time of a call on this thread."""
    start = time.thread_time()
    function()
    return time.thread_time() - start


@torch.no_grad()
def compare(name: str, *, repeats: int, side: int | None, has_parts: bool) -> Row:
    """Measure a pair of networks in turn.

    Args:
        name: key of :data:`PAIRS`.
        repeats: rounds.
        side: image side in pixels; None: that of the windows.
        has_parts: whether to measure DenseCLIP's parts too.
    """
    pair = PAIRS[name]
    side = side or pair.side
    plain, text = build(f"clip_fpn_{pair.config}"), build(f"denseclip_fpn_{pair.config}")
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    for network in (plain, text):
        network(image, mode="tensor")  # fills the caches: class embeddings, positions
    plain_s, text_s = [], []
    for _ in range(repeats):
        plain_s.append(seconds(lambda: plain(image, mode="tensor")))
        text_s.append(seconds(lambda: text(image, mode="tensor")))
    added = statistics.median(ours / usual - 1 for ours, usual in zip(text_s, plain_s, strict=True))
    parts = time_parts(text, image, repeats) if has_parts else {}
    return Row(name, side, statistics.median(plain_s), statistics.median(text_s), added, pair.limit, parts)


def time_parts(model: nn.Module, image: Tensor, repeats: int) -> dict[str, float]:
    """Return the median seconds of what runs inside of a DenseCLIP model: part -> seconds."""
    parts = {
        "backbone": model.backbone,
        "- its attention pool": getattr(model.backbone, "attnpool", None),
        "context decoder": model.context_decoder,
        "neck": model.neck,
        "head": model.decode_head,
    }
    rounds = [_time_once(model, parts, image) for _ in range(repeats)]
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def _time_once(model: nn.Module, parts: dict[str, nn.Module | None], image: Tensor) -> dict[str, float]:
    found: dict[str, float] = {}
    with ExitStack() as stack:
        for name, part in parts.items():
            method = {"- its attention pool": "embed"}.get(name, "forward")
            if part is not None:
                stack.enter_context(_clocked(part, method, name, found))
        found["total"] = seconds(lambda: model(image, mode="tensor"))
    return found


@contextmanager
def _clocked(part: nn.Module, method: str, name: str, found: dict[str, float]) -> Iterator[None]:
    """Let a method's calls add their seconds to ``found[name]``."""
    inner = getattr(part, method)

    def outer(*args: object, **options: object) -> object:
        start = time.thread_time()
        result = inner(*args, **options)
        found[name] = found.get(name, 0.0) + time.thread_time() - start
        return result

    setattr(part, method, outer)
    yield
    delattr(part, method)  # the class's own is visible again


def as_text(row: Row) -> str:
    """Return a row as lines of text."""
    line = (
        f"{row.model:<6} {row.size:>5} px   plain {row.plain_s:7.3f} s   with text {row.text_s:7.3f} s   "
        f"added {100 * row.added:5.1f} %   limit {100 * row.limit:.0f} %   {'met' if row.is_met else 'NOT met'}"
    )
    return "\n".join([line, *(f"    {name:<22} {value:7.3f} s" for name, value in row.parts_s.items())])


def main() -> int:
    """Print a row for each pair; exit with 1 if one is above its limit."""
    args = parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.only:
        rows.append(compare(name, repeats=args.repeats, side=args.side, has_parts=args.parts))
        gc.collect()
        print(as_text(rows[-1]), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) | {"is_met": row.is_met} for row in rows], indent=1), "utf-8")
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
