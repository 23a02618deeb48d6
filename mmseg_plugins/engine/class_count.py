"""Whether a model with a fixed head and a data set have the same number of classes, said before the first image."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import HOOKS

from mmseg_plugins.engine.bare_model import bare_model

_SHOWN = 5


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Refuses data sets whose number of classes is not the model's.

    For mmseg's ``EncoderDecoder`` and what derives from it; open vocabularies are compared where they are scored.
    Without this, labels beyond the head's end in an index error of the loss, and fewer classes train in silence.
    """

    def before_train(self, runner: Runner) -> None:
        """Look at the training and the validation set."""
        _check(runner.model, runner.train_dataloader, "train_dataloader")
        if runner.val_loop is not None:
            _check(runner.model, runner.val_dataloader, "val_dataloader")

    def before_val(self, runner: Runner) -> None:
        """Look at the validation set."""
        _check(runner.model, runner.val_dataloader, "val_dataloader")

    def before_test(self, runner: Runner) -> None:
        """Look at the test set."""
        _check(runner.model, runner.test_dataloader, "test_dataloader")


def _check(model: Any, loader: Any, name: str) -> None:
    model = bare_model(model)
    data_set = getattr(loader, "dataset", None)
    classes = (getattr(data_set, "metainfo", None) or {}).get("classes")
    if not isinstance(model, EncoderDecoder) or not classes or len(classes) == model.num_classes:
        return
    shown = ", ".join(map(repr, classes[:_SHOWN])) + (", ..." if len(classes) > _SHOWN else "")
    raise ValueError(
        f"the model has {model.num_classes} classes, but the {type(data_set).__name__} of {name} has {len(classes)}: "
        f"{shown}. Take a data set with the model's classes, or set decode_head.num_classes (DenseCLIP: also "
        "class_names, identity_head.num_classes, and the score map's channels in neck.in_channels)."
    )
