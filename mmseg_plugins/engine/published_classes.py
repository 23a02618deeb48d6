"""Class names that come with a published checkpoint."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from mmseg_plugins.engine.bare_model import bare_model


@HOOKS.register_module()
class PublishedClassesHook(Hook):
    """Hands a loaded checkpoint to models whose class names are part of it (``adopt_class_names``)."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Let the model compare or take over the names before its tensors are loaded."""
        model = bare_model(runner.model)
        if hasattr(model, "adopt_class_names"):
            model.adopt_class_names(checkpoint)
