"""Who may import whom, and what a plain import may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmseg_plugins

PACKAGE = Path(mmseg_plugins.__file__).parent
BOTTOM = {"assets", "cases", "fixture_weights", "openmmlab"}
# A room may import the rooms listed for it, itself, and the modules at the bottom.
MAY_IMPORT = {
    "ops": set(),
    "towers": {"ops"},
    "vocabulary": {"towers", "ops"},
    "prediction": {"vocabulary", "towers", "ops"},
    "masks": {"vocabulary", "towers", "ops"},
    "classify": {"vocabulary", "towers", "ops"},
    "segmentors": {"classify", "masks", "prediction", "vocabulary", "towers", "ops"},
    "methods": {"segmentors", "classify", "masks", "prediction", "vocabulary", "towers", "ops"},
    "datasets": {"ops", "vocabulary", "prediction", "towers", "evaluation", "engine"},
    "evaluation": {"ops", "vocabulary", "prediction", "towers", "datasets", "engine"},
    "engine": {"ops", "vocabulary", "prediction", "towers", "datasets", "evaluation"},
    "api": {"methods", "segmentors", "classify", "masks", "prediction", "vocabulary", "towers", "ops", "register"},
    "cli": {
        "api", "methods", "segmentors", "classify", "masks", "prediction", "vocabulary", "towers", "ops", "datasets",
        "evaluation", "engine", "register",
    },
}  # fmt: skip


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names below mmseg_plugins that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room they reach into"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mmseg_plugins.") for name in found if name.startswith("mmseg_plugins.")}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_only_what_lies_below_them(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported_modules(path):
            target = name.split(".")[0]
            if target.startswith("__"):  # attributes of the package itself
                continue
            allowed = MAY_IMPORT[room] | BOTTOM | {room}
            assert target in allowed, f"{path.relative_to(PACKAGE)} imports {name}: {room} may not import {target}"


def test_methods_do_not_import_each_other():
    methods = [folder for folder in (PACKAGE / "methods").iterdir() if folder.is_dir() and folder.name[0] != "_"]
    assert methods
    for folder in methods:
        for path in folder.rglob("*.py"):
            for name in imported_modules(path):
                parts = name.split(".")
                assert parts[0] != "methods" or parts[1] == folder.name, f"{path} imports {name}"


def test_every_room_is_covered_by_the_rules():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert rooms - {"assets", "__pycache__"} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    "statement", ["import mmseg_plugins", "from mmseg_plugins.cli.main import main; main(['--help'])"]
)
def test_plain_import_and_help_load_neither_torch_nor_mmseg(statement):
    code = (
        "import sys\n"
        f"try:\n    {statement}\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'mmseg', 'mmengine', 'mmcv', 'open_clip', 'numpy', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_registering_twice_is_harmless_and_needs_no_open_clip_weights():
    code = (
        "import importlib, sys, mmseg_plugins.register as register\n"
        "importlib.reload(register)\n"
        "assert 'mmcv.ops' not in sys.modules\n"
        "from mmseg.registry import MODELS\n"
        "assert MODELS.get('MaskCLIP') is not None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_unknown_attribute_names_what_exists():
    with pytest.raises(AttributeError, match="Segmenter"):
        _ = mmseg_plugins.Segmentor
