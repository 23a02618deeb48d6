"""Build the package; the compiled ops are optional and join in when torch and a compiler are there.

``pip install .`` isolates the build and finds no torch: pure Python. ``pip install --no-build-isolation --no-deps .``
builds the CPU library, and the CUDA library where nvcc is found. ``MMSEG_PLUGINS_BUILD_OPS=0`` never builds, ``=1``
makes every failure fatal.
"""

import importlib.util
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Where mmengine's tools look in an installed package; a source checkout uses the folders themselves.
SHIPPED = ("configs", "tools", "model-index.yml")


class BuildWithConfigs(build_py):
    """Put configs, tools and the model index into the wheel, under ``mmseg_plugins/.mim``."""

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return
        target = Path(self.build_lib) / "mmseg_plugins" / ".mim"
        for name in SHIPPED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, target / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target / name)


def extension_arguments():
    # By path: importing the package would need torch.
    spec = importlib.util.spec_from_file_location("extensions", ROOT / "mmseg_plugins" / "ops" / "_extensions.py")
    extensions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extensions)
    return extensions.setup_arguments(ROOT)


arguments = extension_arguments()
setup(**arguments | {"cmdclass": {"build_py": BuildWithConfigs} | arguments.get("cmdclass", {})})
