"""Finding the config files that come with the package, and the models that can be asked for by name."""

import difflib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mmseg_plugins
from mmseg_plugins.vocabulary.suggest import unknown_name

_PACKAGE = Path(mmseg_plugins.__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A model that ``Segmenter.from_pretrained`` knows, one entry of ``assets/models.json``.

    Args:
        name: how it is asked for.
        config: stem of its config file.
        what: what it is, in a few words.
        weights: name of a record of weights to load as checkpoint; None: the config names what it needs.
        aliases: other names.
        longest_side: larger pictures are first shrunk to this many pixels; None: the config's test pipeline decides.
    """

    name: str
    config: str
    what: str
    weights: str | None = None
    aliases: tuple[str, ...] = ()
    longest_side: int | None = None


@cache
def list_pretrained() -> tuple[PretrainedModel, ...]:
    """Return all models that can be asked for by name."""
    entries = json.loads((_PACKAGE / "assets" / "models.json").read_text(encoding="utf-8"))
    return tuple(PretrainedModel(**{**entry, "aliases": tuple(entry.get("aliases", ()))}) for entry in entries)


def find_pretrained(name: str) -> PretrainedModel:
    """Return the model of a name or alias.

    Args:
        name: case does not matter, ``_`` counts as ``-``.

    Raises:
        KeyError: if there is none; the message lists what there is.
    """
    key = name.strip().lower().replace("_", "-").replace("/", "-")
    known = {alias: model for model in list_pretrained() for alias in (model.name, *model.aliases)}
    if key in known:
        return known[key]
    error = unknown_name("model", name, [model.name for model in list_pretrained()])
    raise type(error)(f"{error} Any other model runs from its config: Segmenter.from_config, or --config.")


def config_folders() -> list[Path]:
    """Return where config files are looked for: the source checkout's ``configs``, an installed package's ``.mim``."""
    places = [_PACKAGE.parent / "configs", _PACKAGE / ".mim" / "configs"]
    return [place for place in places if (place / "_base_").is_dir()]


def find_config(name: str | os.PathLike) -> Path:
    """Find a config file.

    Args:
        name: a path, or the name of a shipped config, with or without its folder and ``.py``
            (``maskclip_vit-b16_ade20k-512x512``).

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: if there is none; the message shows the nearest names.
        ValueError: if the name fits several files.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = _shipped_configs()
    stem = path.as_posix().removesuffix(".py")
    found = [place for key, place in shipped.items() if key == stem or key.endswith(f"/{stem}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"config name {str(name)!r} fits several files: {', '.join(map(str, found))}. Give a path.")
    close = difflib.get_close_matches(path.stem, [Path(key).name for key in shipped], n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    looked = ", ".join(map(str, config_folders())) or "no folder of shipped configs: the installation is incomplete"
    raise FileNotFoundError(f"config {str(name)!r} is neither a file nor a shipped config.{hint} Looked in: {looked}.")


def _shipped_configs() -> dict[str, Path]:
    """Configs by their path below the folder, without ``.py``; bases are left out."""
    found: dict[str, Path] = {}
    for folder in config_folders():
        for place in sorted(folder.rglob("*.py")):
            relative = place.relative_to(folder)
            if "_base_" not in relative.parts:
                found.setdefault(relative.with_suffix("").as_posix(), place)
    return found
