"""Measure a published result again: say what it needs, check it, run it, and print both figures side by side.

Nothing runs while something is missing. A figure compares only with figures of the same settings, so the harness of the
published one is printed beside it.
"""

import argparse
import contextlib
import json
import sys

EXAMPLES = """  mmseg-plugins reproduce --list
  mmseg-plugins reproduce maskclip_vit-b16_context59 --data data --dry-run
  mmseg-plugins reproduce maskclip_vit-b16_voc20 --data data --out predictions"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("name", nargs="?", help="published result, see --list")
    parser.add_argument("--list", action="store_true", help="list the published results with their figures")
    parser.add_argument("--records", metavar="JSON", help="file of further records (default: those shipped)")
    parser.add_argument("--data", metavar="DIR", help="data root (default: searched, see docs/datasets.md)")
    parser.add_argument("--checkpoint", metavar="FILE", help="released checkpoint, for results that need one")
    parser.add_argument("--out", metavar="DIR", help="also save the predictions")
    parser.add_argument("--work-dir", metavar="DIR", help="for logs (default: work_dirs/<config name>)")
    parser.add_argument("--dry-run", action="store_true", help="only say what is needed and whether it is there")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(options: argparse.Namespace) -> int:
    """List, check or measure; 1 when something is missing or the figure is not reproduced."""
    from mmseg_plugins.evaluation.published import SHIPPED, find_result, list_needs, read_results

    results = read_results(options.records or SHIPPED)
    if options.list:
        for result in results:
            print(f"{result.name:<36} {result.metric} {result.value:5.1f}  {result.source}")
        return 0
    if options.name is None:
        raise ValueError("name a published result, or use --list to see them.")
    result = find_result(options.name, results)
    config_path = _find_config(result.config)
    needs = list_needs(result, config_path=config_path, data_root=options.data, checkpoint=options.checkpoint)
    _print_needs(result, needs)
    if not all(need.is_there for need in needs):
        print(f"{result.name} cannot be measured yet: see above for what is missing.", file=sys.stderr)
        return 1
    return 0 if options.dry_run else _measure(options, result, config_path)


def _find_config(name: str) -> object:
    from mmseg_plugins.api.configs import find_config

    try:
        return find_config(name)
    except FileNotFoundError:
        return None


def _print_needs(result: object, needs: list) -> None:
    print(f"{result.name}: published {result.metric} {result.value:.1f} ({result.source})", file=sys.stderr)
    print(f"harness: {result.harness}", file=sys.stderr)
    for need in needs:
        print(f"  {need.kind:<10} {'ok' if need.is_there else 'MISSING':<8} {need.text}", file=sys.stderr)


def _measure(options: argparse.Namespace, result: object, config_path: object) -> int:
    from mmseg_plugins.evaluation.published import compare

    with contextlib.redirect_stdout(sys.stderr):  # the runner logs to stdout
        from mmseg_plugins.evaluation.published_run import measure

        figures = measure(
            config_path,
            options=result.options,
            data_root=options.data,
            checkpoint=options.checkpoint,
            work_dir=options.work_dir,
            out=options.out,
        )
    comparison = compare(result, figures)
    if options.json:
        print(json.dumps(comparison.to_dict(), indent=1))
    else:
        print(
            f"{result.name}  {result.metric}  measured {comparison.measured:.2f}  published {result.value:.1f}  "
            f"difference {comparison.difference:+.2f} (tolerance {result.tolerance})"
        )
        print(f"harness: {result.harness}")
    return 0 if comparison.is_reproduced else 1
