"""Build the compiled ops in place: ``python -m mmseg_plugins.ops.build [--cpu] [--cuda] [--out DIR]``."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from mmseg_plugins.ops._extensions import KINDS, make_build_command, make_extension, report, why_not
from mmseg_plugins.ops._load import library_folder


def build_library(kind: str, folder: Path) -> Path:
    """Build one library.

    Args:
        kind: "cpu" or "cuda".
        folder: where the library goes; made if missing. The file appears there when it is complete.

    Returns:
        The library.

    Raises:
        RuntimeError: if it cannot be built here, or the compiler fails.
    """
    from setuptools import Distribution

    reason = why_not(kind)
    if reason is not None:
        raise RuntimeError(f"The compiled {kind} ops cannot be built: {reason}.")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"_C_{kind}"
    with tempfile.TemporaryDirectory(prefix="mmseg_plugins_build_") as work:
        distribution = Distribution({"name": "mmseg_plugins_ops", "ext_modules": [make_extension(kind, name)]})
        command = make_build_command(is_strict=True)(distribution)
        command.build_lib, command.build_temp = str(Path(work, "lib")), str(Path(work, "objects"))
        command.ensure_finalized()
        command.run()
        built = Path(command.get_ext_fullpath(name))
        # On the target's own file system first, then renamed: a process that loads it never sees half a file.
        partial = folder / f".{name}.{os.getpid()}.partial"
        partial.write_bytes(built.read_bytes())
        partial.chmod(0o755)
        target = folder / f"{name}.so"
        os.replace(partial, target)
    return target


def main(arguments: list[str] | None = None) -> int:
    """Build what was asked for; both libraries, as far as they can be built here, by default."""
    parser = argparse.ArgumentParser(prog="python -m mmseg_plugins.ops.build", description=__doc__)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", action="store_true", help=f"build the {kind} library")
    parser.add_argument("--out", type=Path, default=library_folder(), help="target folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    named = [kind for kind in KINDS if getattr(options, kind)]
    failed = 0
    for kind in named or KINDS:
        reason = why_not(kind)
        if reason is not None and not named:
            report(f"the compiled {kind} ops are left out: {reason}.")
            continue
        try:
            report(f"built {build_library(kind, options.out)}")
        except Exception as error:
            report(f"the compiled {kind} ops were not built: {error}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
