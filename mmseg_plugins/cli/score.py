"""Score saved predictions offline: label maps, panoptic results or instance masks against a benchmark's ground truth.

Semantic predictions are label maps (PNG or TIFF, 8 or 16 bits) named like the images, in a folder or a zip archive;
panoptic ones a COCO results JSON with its folder of PNGs; instance ones a COCO results JSON. Figures are printed in
percent, in JSON they are fractions.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_plugins.evaluation.rules import ABSENT_RULES, ENCODINGS

if TYPE_CHECKING:
    from mmseg_plugins.evaluation.score_report import ScoreReport

EXAMPLES = """  mmseg-plugins score semantic --gt annotations/validation --pred predictions --classes ade20k_150
  mmseg-plugins score semantic --gt labels --pred predictions --classes ade20k_847 --absent skip --unseen unseen.txt
  mmseg-plugins score panoptic --gt panoptic_val2017.json --pred panoptic_results.zip --classes coco_panoptic --boundary
  mmseg-plugins score instance --gt instances_val2017.json --pred results.json --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("task", choices=["semantic", "panoptic", "instance"], help="what the predictions are")
    parser.add_argument("--gt", required=True, type=Path, help="folder of label maps, or the ground truth's COCO JSON")
    parser.add_argument("--pred", required=True, type=Path, help="folder, zip archive or COCO results JSON")
    parser.add_argument(
        "--classes",
        metavar="BENCHMARK|FILE",
        help="class list: a benchmark's name, coco_stuff_server, a text file with one class a line, or a JSON; "
        "panoptic and instance default to the categories of the ground truth",
    )
    parser.add_argument("--boundary", action="store_true", help="also boundary IoU, Boundary PQ or boundary AP")
    parser.add_argument(
        "--missing",
        choices=["ignore", "wrong"],
        help="images without a prediction: leave them out, or count them as wrong "
        "(default: refuse; for instance, where an image may have no detection, wrong)",
    )
    parser.add_argument("--device", default="cpu", help="where to count (default: %(default)s)")
    parser.add_argument("--per-class", action="store_true", help="also print the figures of every class")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, figures as fractions")
    _add_semantic_arguments(parser)
    group = parser.add_argument_group("panoptic")
    group.add_argument("--gt-folder", type=Path, help="PNGs of the ground truth (default: beside the JSON, its stem)")
    group.add_argument("--pred-folder", type=Path, help="PNGs of the predictions (default: beside the JSON, its stem)")


def _add_semantic_arguments(parser: argparse.ArgumentParser) -> None:
    rules = "\n".join(f"  {name:<16} {text}" for name, text in ABSENT_RULES.items())
    encodings = "\n".join(f"  {name:<16} {text}" for name, text in ENCODINGS.items())
    group = parser.add_argument_group(
        "semantic", f"means over the classes (--absent):\n{rules}\nencodings of label maps:\n{encodings}"
    )
    group.add_argument(
        "--absent", choices=list(ABSENT_RULES), default="error", help="which classes count (default: %(default)s)"
    )
    group.add_argument(
        "--unseen",
        metavar="NAMES|FILE",
        help="unseen classes, for hIoU: names or indices separated by ';' or ',', or a file with one a line",
    )
    group.add_argument(
        "--gt-encoding", choices=list(ENCODINGS), help="what label values mean (default: the benchmark's)"
    )
    group.add_argument(
        "--pred-encoding",
        choices=list(ENCODINGS),
        help="what predicted values mean (default: as_stored beside a manifest.json of ours, else as the labels)",
    )
    group.add_argument("--ignore-index", type=int, help="label value that does not count (default: the benchmark's)")
    group.add_argument(
        "--gt-suffix", help="what follows the image's name in label map names (default: the benchmark's)"
    )
    group.add_argument("--list", type=Path, dest="image_list", help="file with one image name a line: score only these")
    group.add_argument(
        "--unanswered",
        default="wrong",
        metavar="wrong|CLASS",
        help="pixels without an answer: wrong, or taken for the class of this name or index (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Score and print."""
    _check(options)
    report = {"semantic": _semantic, "panoptic": _panoptic, "instance": _instance}[options.task](options)
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print(report.to_text(per_class=options.per_class))
    return 0


def _check(options: argparse.Namespace) -> None:
    for option, place in (("--gt", options.gt), ("--pred", options.pred)):
        if not place.exists():
            raise FileNotFoundError(f"{option} {place} does not exist (looked in {Path.cwd()}).")
    if options.device != "cpu":
        from mmseg_plugins.api.segmenter import choose_device

        options.device = str(choose_device(options.device))


def _semantic(options: argparse.Namespace) -> "ScoreReport":
    from mmseg_plugins.cli.progress import ProgressLine
    from mmseg_plugins.evaluation.class_lists import class_indices, load_class_list
    from mmseg_plugins.evaluation.mask_results import STUFF_SERVER, stuff_server_classes
    from mmseg_plugins.evaluation.score_semantic import SemanticOptions, score_semantic

    if options.classes is None:
        raise ValueError(
            "--classes is needed: label maps do not say what their values are. Name a benchmark or a file."
        )
    classes = stuff_server_classes() if options.classes == STUFF_SERVER else load_class_list(options.classes)
    unanswered = None if options.unanswered == "wrong" else class_indices([options.unanswered], classes.names)[0]
    return score_semantic(
        options.gt,
        options.pred,
        classes,
        SemanticOptions(
            absent=options.absent,
            unseen=None if options.unseen is None else _names(options.unseen),
            boundary=options.boundary,
            missing=options.missing or "error",
            unanswered=unanswered,
            label_encoding=options.gt_encoding,
            prediction_encoding=options.pred_encoding,
            ignore_index=options.ignore_index,
            label_suffix=options.gt_suffix,
            image_list=options.image_list,
            device=options.device,
        ),
        progress=ProgressLine(),
    )


def _names(text: str) -> tuple[str, ...]:
    """Split names; a file has one a line, and a semicolon leaves commas inside names alone."""
    from mmseg_plugins.vocabulary.files import read_text

    if Path(text).is_file():
        parts = read_text(Path(text), "list of unseen classes").splitlines()
    else:
        parts = text.split(";" if ";" in text else ",")
    return tuple(part.strip() for part in parts if part.strip())


def _panoptic(options: argparse.Namespace) -> "ScoreReport":
    from mmseg_plugins.cli.progress import ProgressLine
    from mmseg_plugins.evaluation.class_lists import load_class_list
    from mmseg_plugins.evaluation.score_panoptic import score_panoptic

    return score_panoptic(
        options.gt,
        options.pred,
        None if options.classes is None else load_class_list(options.classes),
        ground_truth_folder=options.gt_folder,
        prediction_folder=options.pred_folder,
        boundary=options.boundary,
        missing=options.missing or "error",
        device=options.device,
        progress=ProgressLine(),
    )


def _instance(options: argparse.Namespace) -> "ScoreReport":
    from mmseg_plugins.evaluation.class_lists import load_class_list
    from mmseg_plugins.evaluation.score_instance import score_instance

    print("running COCO's evaluator", file=sys.stderr)
    return score_instance(
        options.gt,
        options.pred,
        None if options.classes is None else load_class_list(options.classes),
        boundary=options.boundary,
        missing=options.missing or "wrong",
    )
