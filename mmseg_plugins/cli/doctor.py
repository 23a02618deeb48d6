"""Check the installation: versions, device, compiled ops, configs, caches. What is wrong comes with its remedy.

Nothing is downloaded or changed. The exit code is 1 when something must be mended; notes alone leave it 0.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

EXAMPLES = """  mmseg-plugins doctor
  mmseg-plugins doctor --json"""

# module: (distributions that may bring it, oldest usable version)
_PACKAGES = {
    "torch": (("torch",), "2.4"),
    "torchvision": (("torchvision",), "0.19"),
    "numpy": (("numpy",), "2.0"),
    "PIL": (("pillow",), "10.1"),
    "cv2": (("opencv-python", "opencv-python-headless", "opencv-contrib-python"), "4.10"),
    "open_clip": (("open_clip_torch",), "2.30"),
    "safetensors": (("safetensors",), "0.4.3"),
    "huggingface_hub": (("huggingface_hub",), "0.26"),
}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        topic: what was looked at.
        state: ``ok``, ``note`` (works, could be better) or ``problem``.
        text: what was found.
        remedy: what to do, where something should be done.
    """

    topic: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the findings; 1 when one is a problem."""
    findings = examine()
    problems = sum(finding.state == "problem" for finding in findings)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
        print(f"{problems} to mend" if problems else "everything needed is there", file=sys.stderr)
    return 1 if problems else 0


def examine() -> list[Finding]:
    """Run all checks; one that fails itself becomes a problem."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python, _packages, _openmmlab, _device, _ops, _configs, _embedded_model, _caches, _network,
    )  # fmt: skip
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # the report must go on, whatever is broken
            text = " ".join(f"{type(error).__name__}: {error}".split())
            findings.append(Finding(check.__name__.lstrip("_"), "problem", text, "Install the package again."))
    return findings


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        print(f"{finding.state:<8}{finding.topic:<{width}}  {finding.text}")
        if finding.remedy:
            print(f"{'':<8}{'':<{width}}  -> {finding.remedy}")


def _python() -> Iterator[Finding]:
    from mmseg_plugins import __file__ as place
    from mmseg_plugins import __version__

    yield Finding("mmseg_plugins", "ok", f"{__version__}, in {Path(place).parent}")
    yield Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")


def _packages() -> Iterator[Finding]:
    for module, (distributions, oldest) in _PACKAGES.items():
        versions = {name: _version(name) for name in distributions}
        found = {name: version for name, version in versions.items() if version}
        remedy = f"pip install --upgrade '{distributions[0]}>={oldest}'"
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken package can fail in any way
            yield Finding(distributions[0], "problem", f"cannot be imported: {error}", remedy)
            continue
        name, version = next(iter(found.items()), (distributions[0], "?"))
        is_old = version != "?" and _numbers(version) < _numbers(oldest)
        yield Finding(name, "problem" if is_old else "ok", version, remedy if is_old else "")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


def _openmmlab() -> Iterator[Finding]:
    from mmseg_plugins.openmmlab import REMEDY, check_openmmlab, installed_families

    for module, found in installed_families().items():
        listed = ", ".join(f"{name} {version}" for name, version in found.items())
        yield Finding(module, "ok" if found else "problem", listed or "not installed", "" if found else REMEDY)
    try:
        check_openmmlab()
        import mmseg_plugins.register  # noqa: F401  (what is checked is that this import works)
    except Exception as error:  # an environment of mixed families can fail in any way
        yield Finding("registration", "problem", " ".join(str(error).split()), REMEDY)
    else:
        yield Finding("registration", "ok", "mmseg knows the models, data sets and metrics")


def _device() -> Iterator[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    yield Finding("cpu", "ok", threads)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = (value / 2**30 for value in torch.cuda.mem_get_info(index))
            name = torch.cuda.get_device_name(index)
            yield Finding(f"cuda:{index}", "ok", f"{name}, {free:.1f} of {total:.1f} GiB free")
    elif torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")
    else:
        built = f"this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "this torch has no CUDA"
        yield Finding("gpu", "note", f"none in use ({built}); everything runs on the CPU")


def _ops() -> Iterator[Finding]:
    from mmseg_plugins.ops import _load

    for kind, status in _load.STATUS.items():
        remedy = "" if status.loaded else f"optional, for speed: {_load.BUILD_COMMAND}"
        yield Finding(f"ops ({kind})", "ok" if status.loaded else "note", status.reason, remedy)
    reason = _load.triton_reason()
    yield Finding("ops (triton)", "note" if reason else "ok", reason or "ready")
    tiers = [kind for kind, status in _load.STATUS.items() if status.loaded]
    used = f"compiled for {' and '.join(tiers)}" if tiers else "plain PyTorch, same results but slower"
    yield Finding("ops in use", "ok", used)


def _configs() -> Iterator[Finding]:
    from mmseg_plugins.api.configs import config_folders, find_config, list_pretrained

    folders = config_folders()
    if not folders:
        yield Finding("configs", "problem", "no shipped config files found", "Install the package again.")
        return
    for model in list_pretrained():
        find_config(model.config)
    yield Finding("configs", "ok", f"{len(list_pretrained())} models by name, in {folders[0]}")


def _embedded_model() -> Iterator[Finding]:
    from mmseg_plugins.towers.clip import EMBEDDED_MODEL, find_clip
    from mmseg_plugins.towers.files import read_tensors

    path = find_clip(EMBEDDED_MODEL).path()
    tensors = read_tensors(path)
    yield Finding("embedded model", "ok", f"{len(tensors)} tensors, {path.stat().st_size / 1e6:.1f} MB")


def _caches() -> Iterator[Finding]:
    from huggingface_hub import constants

    from mmseg_plugins.towers.download import home_folder
    from mmseg_plugins.vocabulary.cache import cache_folder

    yield _folder("text cache", cache_folder(), "Set MMSEG_PLUGINS_CACHE to a folder you can write to.")
    yield _folder("downloads", home_folder() / "weights", "Set MMSEG_PLUGINS_HOME to a folder you can write to.")
    yield _folder("hub cache", Path(constants.HF_HUB_CACHE), "Set HF_HOME to a folder you can write to.")


def _folder(topic: str, folder: Path, remedy: str) -> Finding:
    if not folder.exists():
        nearest = next(parent for parent in folder.absolute().parents if parent.exists())
        is_writable = os.access(nearest, os.W_OK)
        text = f"{folder}: made on first use" if is_writable else f"{folder} cannot be made"
    else:
        sizes = list(_file_sizes(folder))
        is_writable = os.access(folder, os.W_OK)
        text = f"{folder}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB" + ("" if is_writable else ", read-only")
    return Finding(topic, "ok" if is_writable else "note", text, "" if is_writable else remedy)


def _file_sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):  # which passes over folders that another process takes away meanwhile
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(os.path.join(parent, name))
                if stat.S_ISREG(found.st_mode):
                    yield found.st_size


def _network() -> Iterator[Finding]:
    from huggingface_hub import constants

    switches = [name for name in _OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if switches:
        text = f"downloads are switched off by {', '.join(switches)}; only weights on this machine can be used"
        yield Finding("network", "note", text)
    else:
        yield Finding("network", "ok", f"weights are fetched on first use, from {constants.ENDPOINT} (not tried here)")
