"""List models and weights: what they are, how large, under which licence, and whether they are on this machine."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """  mmseg-plugins models
  mmseg-plugins models convnext --all
  mmseg-plugins models ViT-B-16 --all --json
  mmseg-plugins models --cached"""

_FLOAT32_BYTES = 4
# What is listed without --all: the towers that the methods were published with, and the usual larger ones.
_USUAL = (
    "RN50/openai",
    "RN101/openai",
    "RN50x4/openai",
    "RN50x16/openai",
    "RN50x64/openai",
    "ViT-B-32/openai",
    "ViT-B-16/openai",
    "ViT-L-14/openai",
    "ViT-L-14-336/openai",
    "ViT-B-16/laion2b_s34b_b88k",
    "ViT-H-14/laion2b_s32b_b79k",
    "ViT-B-16-quickgelu/metaclip_400m",
    "EVA02-B-16/merged2b_s8b_b131k",
    "EVA02-L-14/merged2b_s4b_b131k",
    "convnext_base_w_320/laion_aesthetic_s13b_b82k_augreg",
    "convnext_large_d_320/laion2b_s29b_b131k_ft_soup",
    "convnext_xxlarge/laion2b_s34b_b82k_augreg_soup",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("pattern", nargs="?", default="", help="only names that contain this text")
    parser.add_argument("--all", action="store_true", help="all of open_clip's weights, not only the usual ones")
    parser.add_argument("--cached", action="store_true", help="only what is on this machine")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the list; non-zero when nothing matches."""
    rows, hidden = _rows(options.pattern.lower(), options.all or options.cached)
    rows = [row for row in rows if row["cached"] or not options.cached]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(rows)
    if hidden and not options.json:
        print(f"{hidden} more: mmseg-plugins models --all", file=sys.stderr)
    if not rows:
        print(f"nothing matches {options.pattern!r}", file=sys.stderr)
    return 0 if rows else 1


def _rows(pattern: str, everything: bool) -> tuple[list[dict[str, Any]], int]:
    """Return the rows to show, and how many more match."""
    from mmseg_plugins.towers.weights import list_records

    parameters = _parameters()
    rows, hidden = _embedded_rows(pattern), 0
    for record in list_records():
        if pattern not in record.name.lower() or (record.tag and record.model not in parameters):
            continue
        if record.tag and not everything and record.name not in _USUAL:
            hidden += 1
            continue
        rows.append(_row(record, parameters))
    return rows, hidden


def _row(record: Any, parameters: dict[str, dict[str, int | None]]) -> dict[str, Any]:
    from mmseg_plugins.towers.weights import cached_path

    path = cached_path(record)
    # With experts in the place of MLPs there are more than the model's usual ones.
    counts = {} if "experts" in record.vision_options else parameters.get(record.model or "", {})
    return {
        "name": record.name,
        "what": record.what,
        "parameters": sum(count or 0 for count in counts.values()) or None,
        "bytes": path.stat().st_size if path else record.size,
        "licence": record.licence,
        "page": record.source_page,
        "cached": None if path is None else str(path),
    }


def _embedded_rows(pattern: str) -> list[dict[str, Any]]:
    from mmseg_plugins.towers.embedded import EMBEDDED_MODELS
    from mmseg_plugins.towers.files import asset_path

    rows = []
    for name, asset in EMBEDDED_MODELS.items():
        if pattern not in name:
            continue
        try:
            path = asset_path(asset)
        except FileNotFoundError:
            continue
        rows.append(
            {
                "name": name,
                "what": "small CLIP that comes with the package, trained on ShapesWorld",
                "parameters": None,
                "bytes": path.stat().st_size,
                "licence": "as this package",
                "page": None,
                "cached": str(path),
            }
        )
    return rows


def _parameters() -> dict[str, dict[str, int | None]]:
    import mmseg_plugins.assets

    path = Path(mmseg_plugins.assets.__file__).parent / "clip_parameters.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    width = max(len(row["name"]) for row in rows)
    print(f"{'name':<{width}}  {'params':>8}  {'size':>8}  {'licence':<15}  cached  what")
    for row in rows:
        licence = row["licence"] or "see its page"
        cached = "yes" if row["cached"] else "no"
        print(
            f"{row['name']:<{width}}  {_millions(row['parameters'], 'M'):>8}  {_size(row):>8}  "
            f"{licence:<15}  {cached:<6}  {row['what']}"
        )


def _size(row: dict[str, Any]) -> str:
    """Size of the file, or what its parameters take in float32."""
    if row["bytes"] is None and row["parameters"]:
        return "~" + _millions(_FLOAT32_BYTES * row["parameters"], "MB")
    return _millions(row["bytes"], "MB")


def _millions(count: int | None, unit: str) -> str:
    return "" if count is None else f"{count / 1e6:.0f} {unit}" if count >= 1e7 else f"{count / 1e6:.1f} {unit}"
