"""Build the package; the compiled ops are optional and join in when torch and a compiler are there."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
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


setup(cmdclass={"build_py": BuildWithConfigs})
