"""Registers everything into mmseg: the one module that configs name in ``custom_imports``.

Importing it needs no network, no GPU and no compiled op, and doing so twice changes nothing.
"""

import warnings

from mmseg_plugins.openmmlab import check_openmmlab

check_openmmlab()

# mmcv without compiled operators announces one that nothing here uses.
warnings.filterwarnings("ignore", message="Fail to import ``MultiScaleDeformableAttention``")

from mmseg_plugins.datasets import register as datasets  # noqa: E402  (mmseg is imported below the check)
from mmseg_plugins.methods.maskclip import model as maskclip  # noqa: E402
from mmseg_plugins.segmentors import tta  # noqa: E402
from mmseg_plugins.towers.files import install_safe_loader  # noqa: E402

install_safe_loader()

__all__ = ["datasets", "maskclip", "tta"]
