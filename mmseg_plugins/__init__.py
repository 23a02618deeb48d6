"""Dense open-vocabulary segmentation for MMSegmentation: images and words in, every pixel named.

Importing this package is light: public names resolve on first use, so neither torch nor mmseg is
loaded by ``import mmseg_plugins``. Configs register everything with
``custom_imports = dict(imports=['mmseg_plugins.register'])``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Segmenter": "mmseg_plugins.api.segmenter",
    "SegmentationResult": "mmseg_plugins.api.result",
    "Vocabulary": "mmseg_plugins.vocabulary.vocabulary",
}

__all__ = ["SegmentationResult", "Segmenter", "Vocabulary", "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'mmseg_plugins' has no attribute {name!r}. Available: {', '.join(__all__)}.")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
