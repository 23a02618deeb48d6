"""Turn saved predictions into the archive that a benchmark server takes, or check any archive field by field.

An archive is checked before it gets its name, and its check report is written beside it (ARCHIVE.check.json). Which
servers still exist stands in docs/submission.md; an archive can be scored offline with `mmseg-plugins score`.
"""

import argparse
import json
from pathlib import Path

KINDS = {
    "ade20k": "SceneParse150: grey PNGs, class + 1",
    "cityscapes": "pixel-level: grey PNGs with label ids",
    "coco-panoptic": "JSON and a folder of RGB PNGs",
    "coco-stuff": "JSON of RLE masks, things merged into 183",
    "coco-instance": "JSON of scored RLE masks",
}
COCO_TYPES = {"coco-panoptic": "panoptic", "coco-stuff": "stuff", "coco-instance": "detections"}
EXAMPLES = """  mmseg-plugins submit ade20k --pred out --out ade20k.zip --images ADEChallengeData2016/images/testing
  mmseg-plugins submit coco-panoptic --pred out --out . --testset val2017 --alg mine --image-info panoptic_val2017.json
  mmseg-plugins submit cityscapes --check cityscapes.zip --images cityscapes/leftImg8bit/test
  mmseg-plugins submit coco-stuff --check stuff_val2017_mine_results.zip --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    kinds = "; ".join(f"{name}: {text}" for name, text in KINDS.items())
    parser.add_argument("kind", choices=list(KINDS), help=kinds)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pred", metavar="DIR", help="saved predictions: what tools/test.py --out wrote, or a folder or "
                      "JSON of the benchmark's format")  # fmt: skip
    what.add_argument("--check", metavar="ARCHIVE", help="check this archive and write nothing")
    parser.add_argument("--out", metavar="ZIP", help="archive to write; for COCO also the folder for it")
    parser.add_argument(
        "--images", metavar="DIR", help="the benchmark's images: names and sizes are checked against them"
    )
    parser.add_argument(
        "--image-info", metavar="JSON", help="COCO's image list (image_info_*.json or an annotation file)"
    )
    parser.add_argument("--encoding", help="what predicted values are, if not class indices (see score --help)")
    parser.add_argument("--testset", default="test-dev2017", help="COCO test set in the name (default: %(default)s)")
    parser.add_argument("--alg", default="mmseg-plugins", help="algorithm in COCO's name (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=["test", "val"],
                        help="Cityscapes split, for the number of files (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the check report as JSON")


def run(options: argparse.Namespace) -> int:
    """Export or check; 1 when a check finds problems."""
    images = _read_images(options)
    report = _check(options, images) if options.check else _export(options, images)
    print(json.dumps(report.to_dict(), indent=1) if options.json else report.to_text())
    return 0 if report.is_valid else 1


def _read_images(options: argparse.Namespace) -> dict | None:
    from mmseg_plugins.evaluation.submit_images import images_from_folder, images_from_json

    if options.image_info:
        return images_from_json(options.image_info)
    if not options.images:
        return None
    suffix = "_leftImg8bit.png" if options.kind == "cityscapes" else ""
    images = images_from_folder(options.images, suffix)
    if options.kind in COCO_TYPES:
        raise ValueError("COCO image ids are not in the images; give the image list with --image-info JSON instead.")
    return images


def _check(options: argparse.Namespace, images: dict | None) -> object:
    from mmseg_plugins.evaluation.submit_coco import check_coco
    from mmseg_plugins.evaluation.submit_label_maps import check_ade20k, check_cityscapes

    if options.kind == "ade20k":
        return check_ade20k(options.check, images)
    if options.kind == "cityscapes":
        return check_cityscapes(options.check, images, options.split)
    return check_coco(options.check, COCO_TYPES[options.kind], images)


def _export(options: argparse.Namespace, images: dict | None) -> object:
    from mmseg_plugins.api.result import check_writable
    from mmseg_plugins.cli.progress import ProgressLine
    from mmseg_plugins.evaluation import export_coco, export_label_maps

    if options.out is None:
        raise ValueError("--out is needed: the archive to write.")
    place = Path(_archive_path(options))
    if options.encoding and options.kind in ("coco-panoptic", "coco-instance"):
        raise ValueError("--encoding is for label maps; panoptic and instance results hold category ids.")
    exports = {
        "ade20k": (export_label_maps.export_ade20k, {"encoding": options.encoding}),
        "cityscapes": (export_label_maps.export_cityscapes, {"encoding": options.encoding, "split": options.split}),
        "coco-panoptic": (export_coco.export_panoptic, {}),
        "coco-stuff": (export_coco.export_stuff, {"encoding": options.encoding}),
        "coco-instance": (export_coco.export_detections, {}),
    }
    export, extra = exports[options.kind]
    check_writable(place.parent)
    return export(options.pred, place, images=images, progress=ProgressLine(), **extra)


def _archive_path(options: argparse.Namespace) -> str:
    """The archive's path; for COCO with the name that the server asks for.

    Raises:
        ValueError: if a COCO archive has another name.
    """
    from mmseg_plugins.evaluation.submit_coco import NAME, submission_name

    if options.kind not in COCO_TYPES:
        if not options.out.endswith(".zip"):
            raise ValueError(f"--out must be a .zip file, got {options.out!r}.")
        return options.out
    kind = COCO_TYPES[options.kind]
    if not options.out.endswith(".zip"):
        return f"{options.out}/{submission_name(kind, options.testset, options.alg)}.zip"
    match = NAME.fullmatch(Path(options.out).stem)
    if match is None or match.group(1) != kind:
        wanted = submission_name(kind, options.testset, options.alg)
        raise ValueError(f"the server wants {kind}_[testset]_[alg]_results.zip, got {options.out!r}. Use {wanted}.zip.")
    return options.out
