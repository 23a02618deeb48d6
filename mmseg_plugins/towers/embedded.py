"""The small CLIP that comes with the package, trained on ShapesWorld."""

import json
from typing import Any

from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.files import asset_path

# Name -> asset. The first never saw the eight held-out pairs in training, the second saw all 32.
EMBEDDED_MODELS = {"shapesworld": "shapes_clip", "shapesworld_all": "shapes_clip_all"}


def embedded_record(name: str = "shapesworld") -> dict[str, Any]:
    """Return how an embedded model was made, and its configuration under ``config``.

    Raises:
        FileNotFoundError: if the asset is missing from the installation.
    """
    path = asset_path(EMBEDDED_MODELS[name]).with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the record of the embedded model, is missing. Install the package again.")
    return json.loads(path.read_text(encoding="utf-8"))


def embedded_config(name: str = "shapesworld") -> ClipConfig:
    """Return the configuration of an embedded model.

    Its record holds open_clip's form under ``config``, and ``image_mean``, ``image_std`` on the 0..255 scale, in
    ``config`` or beside it.
    """
    record = embedded_record(name)
    content = dict(record["config"])
    statistics = {
        key: tuple(value) for key in ("image_mean", "image_std") if (value := content.pop(key, record.get(key)))
    }
    return ClipConfig.from_open_clip(content, name=name, **statistics)
