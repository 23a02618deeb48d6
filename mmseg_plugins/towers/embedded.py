"""The small CLIP that comes with the package, trained on ShapesWorld."""

import json
from typing import Any

from mmseg_plugins.towers.config import ClipConfig
from mmseg_plugins.towers.files import asset_path

ASSET = "shapes_clip"


def embedded_record() -> dict[str, Any]:
    """Return how the embedded model was made, and its configuration under ``config``.

    Raises:
        FileNotFoundError: if the asset is missing from the installation.
    """
    path = asset_path(ASSET).with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the record of the embedded model, is missing. Install the package again.")
    return json.loads(path.read_text(encoding="utf-8"))


def embedded_config() -> ClipConfig:
    """Return the configuration of the embedded model.

    Its record holds open_clip's form under ``config``, and ``image_mean``, ``image_std`` on the 0..255 scale, in
    ``config`` or beside it.
    """
    record = embedded_record()
    content = dict(record["config"])
    statistics = {
        key: tuple(value) for key in ("image_mean", "image_std") if (value := content.pop(key, record.get(key)))
    }
    return ClipConfig.from_open_clip(content, name="shapesworld", **statistics)
