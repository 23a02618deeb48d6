"""Name every pixel of pictures or videos with your words.

Writes for each picture NAME.png (overlay with legend), NAME.labels.png (label map: value = class index, 8 bits up to
255 classes, else 16) and NAME.json (areas and settings); with --panoptic also NAME.segments.png (segment ids, RGB),
the segments in NAME.json, and an overlay of segments. Pictures that are done already are skipped; what fails is
reported at the end, and the exit code is then 1.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_plugins.cli.progress import Progress, format_seconds
from mmseg_plugins.cli.sources import Source, find_sources, is_file, place_results

if TYPE_CHECKING:
    from mmseg_plugins.api.result import SegmentationResult
    from mmseg_plugins.api.segmenter import Segmenter
    from mmseg_plugins.vocabulary.vocabulary import Vocabulary

EXAMPLES = """  mmseg-plugins segment shapes.png --classes "red striped thing; grass; sand" --out overlay.png
  mmseg-plugins segment photos/ --model maskclip-vit-b16 --classes "cat; sofa, couch; other: floor, wall" --out named/
  mmseg-plugins segment 'photos/**/*.jpg' --model maskclip-vit-b16 --vocabulary ade20k_150 --json
  mmseg-plugins segment clip.mp4 --classes "red plain thing; snow" --background 0.3
  mmseg-plugins segment shapes.png --classes "red striped thing; grass; sand" --panoptic --stuff "grass; sand" --coco
  mmseg-plugins segment a.jpg --config my_config.py --checkpoint my_weights.pth --vocabulary classes.txt"""

_SHOWN_CLASSES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, videos, folders, or quoted patterns")
    words = parser.add_argument_group("words (one of the two; without them the model's own vocabulary)")
    words.add_argument("--classes", metavar="TEXT", help="'cat; sofa, couch; other: floor, wall'")
    words.add_argument("--vocabulary", metavar="FILE|BENCHMARK", help="class file, or a benchmark such as ade20k_150")
    words.add_argument(
        "--background",
        metavar="RULE",
        help="probability below which a pixel is background (such as 0.3), or the name of the background class, "
        "or none (default: the class called background, if there is one)",
    )
    words.add_argument("--templates", metavar="SET", help="set of prompt templates (default: the model's own)")
    words.add_argument(
        "--stuff",
        metavar="NAMES",
        help="'grass; sand': classes that are one segment each, for --panoptic (default: what the vocabulary says, "
        "else none)",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default=None, help="name of a model (default: maskclip-shapes, which comes with the package)"
    )
    model.add_argument("--config", help="config file of a model, instead of --model")
    model.add_argument("--checkpoint", help="file of weights for --config (default: what the config names)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps (default: %(default)s)")
    model.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="precision of the network (default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", default="segmented", help="folder, or a file for a single input (default: %(default)s)"
    )
    output.add_argument(
        "--panoptic",
        action="store_true",
        help="also segments: masks of a model that has some (FC-CLIP, SAM, ...), else connected parts of the label map",
    )
    output.add_argument(
        "--coco",
        action="store_true",
        help="with --panoptic: also panoptic.json and the folder panoptic/ in COCO's form, for all inputs together; "
        "category ids are class indices",
    )
    output.add_argument("--opacity", type=float, default=0.55, help="of the colours, 0 to 1 (default: %(default)s)")
    output.add_argument("--overwrite", action="store_true", help="redo what is done already")
    output.add_argument("--recursive", action="store_true", help="look into the folders' folders as well")
    output.add_argument("--every", type=int, default=1, metavar="N", help="videos: every Nth frame (default: all)")
    output.add_argument("--json", action="store_true", help="print one JSON object per input to stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    """Segment the inputs; 1 when any failed."""
    _check(options)
    out = Path(options.out).expanduser()
    sources = find_sources(options.inputs, recursive=options.recursive, leave_out=None if is_file(out) else out)
    places = place_results(sources, out)
    job = _Job(options)
    todo = [source for source in sources if not job.is_done(source, places[source])]
    if todo:
        job.open(next(iter(places.values())).parent)
        with _progress(job, todo) as progress:
            for source in todo:
                job.do(source, places[source], progress)
                progress.step()
    if options.coco:
        _write_coco([place for source, place in places.items() if not source.is_video], out)
    return job.report(len(sources), out)


def _write_coco(pictures: list[Path], out: Path) -> None:
    from mmseg_plugins.cli.segment_coco import write_coco

    print(f"wrote {write_coco(pictures, out.parent if is_file(out) else out)}", file=sys.stderr)


def _check(options: argparse.Namespace) -> None:
    if options.classes is not None and options.vocabulary is not None:
        raise ValueError("give --classes or --vocabulary, not both.")
    if options.config is not None and options.model is not None:
        raise ValueError("give --model or --config, not both.")
    if options.checkpoint is not None and options.config is None:
        raise ValueError("--checkpoint needs --config, the config file of its model.")
    if not 0 <= options.opacity <= 1:
        raise ValueError(f"--opacity must be between 0 and 1, but got {options.opacity}.")
    if (options.coco or options.stuff is not None) and not options.panoptic:
        raise ValueError("--coco and --stuff need --panoptic: without it there are no segments.")
    if options.every < 1:
        raise ValueError(f"--every must be at least 1, but got {options.every}.")


@contextmanager
def _progress(job: "_Job", todo: list[Source]) -> Iterator[Progress]:
    try:
        with Progress("segmenting", len(todo), quiet=len(todo) < 2) as progress:
            yield progress
    except KeyboardInterrupt:
        print(f"{job.done} of {len(todo)} done; the same command goes on from there.", file=sys.stderr)
        raise


@contextmanager
def _encoding_progress() -> Iterator[None]:
    """Show how far the words are, where they have to be encoded."""
    from mmseg_plugins.vocabulary.embed import watch_encoding

    shown: list[Progress] = []

    def tell(count: int, total: int) -> None:
        if not shown:
            shown.append(Progress("encoding words", total, unit="prompts"))
        shown[0].step(count)

    try:
        with watch_encoding(tell):
            yield
    finally:
        for progress in shown:
            progress.clear()


class _Job:
    """The model and words of one run, and what became of each input."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.vocabulary = _read_vocabulary(options)
        self.settings = self._settings()
        self.segmenter: Segmenter | None = None
        self.failures: list[tuple[Source, str]] = []
        self.done = self.skipped = 0
        self.start = time.monotonic()

    def _settings(self) -> dict[str, Any]:
        """What decides a result, for telling whether a file that exists is that result."""
        options = self.options
        return {
            "model": options.config or options.model or "maskclip-shapes",
            "checkpoint": options.checkpoint,
            "words": options.classes or options.vocabulary,
            "words_sha256": None if self.vocabulary is None else _digest(self.vocabulary.to_dict()),
            "background": options.background,
            "templates": options.templates,
            "dtype": options.dtype,
            **({"panoptic": True, "stuff": options.stuff} if options.panoptic else {}),
        }

    def is_done(self, source: Source, place: Path) -> bool:
        """Tell whether a complete result of these settings exists; one of other settings is a failure."""
        record = place.with_suffix(".json")
        if self.options.overwrite or not (place.exists() and record.exists()):
            return False
        if _read_settings(record) == self.settings:
            self.skipped += 1
        else:
            self.failures.append((source, f"{place} exists, made with other settings: --overwrite, or another --out"))
        return True

    def open(self, folder: Path) -> None:
        """Load the model, encode the words, and say what is used."""
        from mmseg_plugins.api.result import check_writable
        from mmseg_plugins.api.segmenter import Segmenter

        check_writable(folder)
        options = self.options
        logging.getLogger("mmengine").setLevel(logging.WARNING)
        where = {"device": options.device, "dtype": options.dtype}
        if options.config is not None:
            self.segmenter = Segmenter.from_config(options.config, options.checkpoint, **where)
        else:
            self.segmenter = Segmenter.from_pretrained(self.settings["model"], **where)
        words = self.segmenter.vocabulary if self.vocabulary is None else self.vocabulary
        if options.stuff is not None:
            words = _with_stuff(words, options.stuff)
        if words is not None:
            with _encoding_progress():
                self.segmenter.set_vocabulary(
                    words, background=_background(options.background), templates=options.templates
                )
        print(f"{self.segmenter.describe()}   {_count(words)}", file=sys.stderr)

    def do(self, source: Source, place: Path, progress: Progress) -> None:
        """Segment one input; a failure is noted and the run goes on."""
        try:
            if source.is_video:
                from mmseg_plugins.cli.video import segment_video

                content = segment_video(self.segmenter, source.path, place, self.options, self.settings)
                self._say_video(source, place, content, progress)
            else:
                result = self.segmenter.segment(source.path, panoptic=self.options.panoptic or None)
                result.about.update(source=str(source.path), settings=self.settings)
                files = result.save(place, opacity=self.options.opacity)
                self._say(source, result, list(files.values()), progress)
            self.done += 1
        except Exception as error:
            if self.options.debug:
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            self.failures.append((source, message))
            progress.say(f"{source.path}: failed, going on", sys.stderr)

    def _say(self, source: Source, result: "SegmentationResult", files: list[Path], progress: Progress) -> None:
        if self.options.json:
            content = result.to_dict() | {"files": [str(file) for file in files]}
            progress.say(json.dumps(content, ensure_ascii=False))
            return
        height, width = result.labels.shape
        seconds = format_seconds(result.about["seconds"])
        segments = "" if result.segment_ids is None else f"  {len(result.segments)} segments"
        progress.say(f"{source.path}  {height} x {width}  {len(result.legend)} classes{segments}  {seconds}")
        progress.say(f"  {_areas(result)}")
        if len(self.options.inputs) == 1 and files[0] == Path(self.options.out).expanduser():
            kinds = ("overlay with legend", "label map", "areas and settings", "segments")[: len(files)]
            listed = ", ".join(f"{file} ({kind})" for file, kind in zip(files, kinds, strict=True))
            progress.say(f"wrote {listed}")

    def _say_video(self, source: Source, place: Path, content: dict[str, Any], progress: Progress) -> None:
        if self.options.json:
            progress.say(json.dumps(content, ensure_ascii=False))
        else:
            progress.say(f"{source.path}  {content['frames']} frames  {format_seconds(content['seconds'])}  {place}")

    def report(self, total: int, out: Path) -> int:
        """Say what was done and what failed."""
        seconds = format_seconds(time.monotonic() - self.start)
        parts = [f"{self.done} of {total} done"]
        parts += [f"{self.skipped} were done already (--overwrite to redo)"] if self.skipped else []
        parts += [f"{len(self.failures)} failed"] if self.failures else []
        print(f"{', '.join(parts)}, in {seconds}: {out}", file=sys.stderr)
        for source, message in self.failures:
            print(f"failed: {source.path}: {message}", file=sys.stderr)
        return 1 if self.failures else 0


def _areas(result: "SegmentationResult") -> str:
    from mmseg_plugins.api.draw import format_share

    shown = [f"{area.name}  {format_share(area.share)}" for area in result.legend[:_SHOWN_CLASSES]]
    hidden = len(result.legend) - len(shown)
    return "   ".join(shown) + (f"   and {hidden} more" if hidden > 0 else "")


def _read_vocabulary(options: argparse.Namespace) -> Any:
    """Read the words before anything slow happens."""
    from mmseg_plugins.vocabulary.vocabulary import Vocabulary

    background = _background(options.background)
    if options.vocabulary is not None:
        place = Path(options.vocabulary).expanduser()
        return Vocabulary.parse(place if place.is_file() else options.vocabulary, background=background)
    if options.classes is not None:
        return Vocabulary.parse(options.classes, background=background)
    return None


def _with_stuff(words: "Vocabulary | None", stuff: str) -> "Vocabulary":
    """Mark classes as stuff and all others as things."""
    if words is None:
        raise ValueError("--stuff needs a model whose classes are words: this one's classes are fixed.")
    names = [name.strip() for name in stuff.split(";") if name.strip()]
    unknown = [name for name in names if name not in words.class_names]
    if unknown:
        raise ValueError(f"--stuff names no class: {'; '.join(unknown)}. Classes: {'; '.join(words.class_names)}.")
    return replace(words, is_thing=tuple(name not in names for name in words.class_names))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _background(text: str | None) -> Any:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _read_settings(record: Path) -> Any:
    try:
        return json.loads(record.read_text(encoding="utf-8")).get("settings")
    except (OSError, ValueError, AttributeError):
        return None


def _count(words: Any) -> str:
    return "classes: the model's" if words is None else f"classes: {words.num_classes}"
