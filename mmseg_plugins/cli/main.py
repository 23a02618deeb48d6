"""The ``mmseg-plugins`` command: finds the verb, runs it, and turns failures into one line."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from mmseg_plugins import __version__

# verb: (module, one line for the overview). A verb's module is imported only when that verb is called,
# so the overview loads neither torch nor mmseg.
VERBS = {
    "segment": ("mmseg_plugins.cli.segment", "name every pixel of images, folders or videos with your words"),
    "verify": ("mmseg_plugins.cli.verify", "check a method against reference cases, stage by stage"),
    "convert": ("mmseg_plugins.cli.convert", "turn an unsafe or foreign checkpoint into safetensors"),
    "models": ("mmseg_plugins.cli.models", "list models and weights: sizes, licences, cached or not"),
    "doctor": ("mmseg_plugins.cli.doctor", "report versions, device, ops tier and caches"),
    "prepare": ("mmseg_plugins.cli.prepare", "turn a benchmark's raw release into label maps, or check its data"),
    "score": ("mmseg_plugins.cli.score", "score saved predictions: semantic, panoptic or instance"),
    "submit": ("mmseg_plugins.cli.submit", "write or check the archive that a benchmark server takes"),
    "reproduce": ("mmseg_plugins.cli.reproduce", "measure a published result again and print both figures"),
    "shapes": ("mmseg_plugins.cli.shapes", "write a ShapesWorld data set"),
}


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    return f"verbs:\n{verbs}\n\nRun 'mmseg-plugins VERB --help' for a verb's options and examples."


def _build_verb_parser(verb: str) -> tuple[argparse.ArgumentParser, object]:
    module = importlib.import_module(VERBS[verb][0])
    parser = argparse.ArgumentParser(
        prog=f"mmseg-plugins {verb}",
        description=module.__doc__,
        epilog=f"examples:\n{module.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser, module


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 success, 1 failure, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    top = argparse.ArgumentParser(
        prog="mmseg-plugins",
        description="Dense open-vocabulary segmentation: images and words in, every pixel named.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mmseg_plugins {__version__}")
    top.add_argument("verb", choices=list(VERBS), metavar="VERB")
    if not arguments:
        top.print_help(sys.stderr)
        return 2
    parsed = top.parse_args(arguments[:1])
    parser, module = _build_verb_parser(parsed.verb)
    options = parser.parse_args(arguments[1:])
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold what the terminal's encoding does not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = module.run(options) or 0
        sys.stdout.flush()
        return result
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left. Python's last flush must not fail on the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if options.debug:
            raise
        print(f"mmseg-plugins {parsed.verb}: error: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    text: object = error
    if isinstance(error, KeyError) and error.args:
        text = error.args[0]  # its own text is the repr of this
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror  # its own text begins with a number
        if error.filename is not None:
            text = f"{error.filename}: {text}. Check that the path is right and that you may read or write there."
    return " ".join(str(text).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
