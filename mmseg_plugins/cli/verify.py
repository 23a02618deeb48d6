"""Check a method against reference cases: every output stage, with its largest difference and tolerance."""

import argparse
import json
import sys

EXAMPLES = """  mmseg-plugins verify tests/fixtures/maskclip/vit_small.json
  mmseg-plugins verify tests/fixtures/*/*.json --quiet
  mmseg-plugins verify tests/fixtures/maskclip/*.json --device cuda --dtype bfloat16"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("cases", nargs="+", metavar="CASE.json", help="reference cases")
    parser.add_argument("--device", default="cpu", help="where to run (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="precision (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="one line per case; stages only where they differ")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(options: argparse.Namespace) -> int:
    """Verify the cases; non-zero when a stage differs, is missing, nothing was compared, or a case cannot run."""
    if options.device != "cpu":
        from mmseg_plugins.api.segmenter import choose_device

        options.device = str(choose_device(options.device))
    report, failed = [], 0
    for path in options.cases:
        try:
            passed, stages = _verify_case(path, options)
            report.append({"case": path, "passed": passed, "stages": stages})
        except Exception as error:  # one case that cannot run must not hide the others
            if options.debug or len(options.cases) == 1:
                raise
            passed, message = False, " ".join(str(error).split()) or type(error).__name__
            report.append({"case": path, "passed": False, "stages": [], "error": message})
            print(f"{path}: error: {message}", file=sys.stderr)
        failed += not passed
    if options.json:
        print(json.dumps(report, indent=1))
    print(f"{len(options.cases) - failed} of {len(options.cases)} cases agree", file=sys.stderr)
    return 1 if failed else 0


def _verify_case(path: str, options: argparse.Namespace) -> tuple[bool, list[dict]]:
    import torch

    from mmseg_plugins.cases import Case, verify

    case = Case.load(path)
    results = verify(case, device=options.device, dtype=getattr(torch, options.dtype))
    passed = bool(results) and all(result.passed for result in results)
    if not options.json:
        _print_case(case, results, passed, options.quiet)
    return passed, [vars(result) for result in results]


def _print_case(case: object, results: list, passed: bool, quiet: bool) -> None:
    verdict = "ok" if passed else "FAILED" if results else "FAILED: no stage was compared"
    print(f"{case.path}  ({case.method}, {case.kind})  {len(results)} stages  {verdict}")
    for result in results:
        if not quiet or not result.passed:
            mark = "ok" if result.passed else f"DIFFERS {result.detail}"
            print(f"  {result.name:<28} max difference {result.difference:.3g}  ({result.tolerance})  {mark}")
