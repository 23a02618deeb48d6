"""Check that one family of the OpenMMLab libraries is installed, whole and new enough."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import warnings

REMEDY = (
    "Install the maintained family with: pip install 'mmseg_plugins[onedl]'. "
    "For an old environment with the original family: pip install 'mmseg_plugins[openmmlab]'. "
    "Never install both: they overwrite each other's files."
)

# module: (distribution of the maintained family, distributions of the original one, oldest usable version)
_LIBRARIES = {
    "mmengine": ("onedl-mmengine", ("mmengine", "mmengine-lite"), (0, 10, 5)),
    "mmcv": ("onedl-mmcv", ("mmcv", "mmcv-lite"), (2, 0, 1)),
    "mmseg": ("onedl-mmsegmentation", ("mmsegmentation",), (1, 2, 0)),
}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        parts.append(int(digits or 0))
    return tuple(parts)


def installed_families() -> dict[str, dict[str, str]]:
    """Return the installed distributions and versions of both families, per module."""
    found = {}
    for module, (maintained, originals, _) in _LIBRARIES.items():
        versions = {name: _version(name) for name in (maintained, *originals)}
        found[module] = {name: version for name, version in versions.items() if version is not None}
    return found


def check_openmmlab() -> None:
    """Raise if an OpenMMLab library is missing, too old, or installed twice.

    Raises:
        ImportError: naming the library, what is wrong and both remedies.
    """
    for module, found in installed_families().items():
        maintained, _, oldest = _LIBRARIES[module]
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"mmseg_plugins needs the module {module!r}, which is not installed. {REMEDY}")
        if maintained in found and len(found) > 1:
            raise ImportError(
                f"The module {module!r} was installed twice, by {' and '.join(sorted(found))}, so its files are mixed. "
                f"Uninstall all of them, then install one. {REMEDY}"
            )
        for name, version in found.items():
            if _numbers(version) < oldest:
                wanted = ".".join(map(str, oldest))
                raise ImportError(f"{name} {version} is too old: mmseg_plugins needs at least {wanted}. {REMEDY}")


def import_quietly() -> None:
    """Import mmseg without what it says on the way about parts that nothing here uses.

    mmcv warns about an operator that is not compiled, and mmseg prints that an optional service is missing.
    """
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")
        importlib.import_module("mmseg.datasets")
        importlib.import_module("mmseg.models")
