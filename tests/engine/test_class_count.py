"""Models with a fixed head on data sets with another number of classes."""

from types import SimpleNamespace

import pytest
from torch import nn

from mmseg_plugins.engine.class_count import ClassCountHook
from tests.methods.denseclip_models import build


def loader(*classes):
    return SimpleNamespace(dataset=SimpleNamespace(metainfo={"classes": classes} if classes else {}))


FOUR, SIX, NONE = loader(*"abcd"), loader(*"abcdef"), loader()


def runner(model, train=FOUR, val=FOUR, test=FOUR):
    return SimpleNamespace(
        model=model, train_dataloader=train, val_loop=val, val_dataloader=val, test_dataloader=test
    )  # fmt: skip


def test_another_number_of_classes_is_refused_before_anything_runs():
    hook, model = ClassCountHook(), build("vit16")
    wrapped = SimpleNamespace(module=SimpleNamespace(module=model))
    for one in (model, wrapped):
        with pytest.raises(ValueError, match=r"has 4 classes, but the SimpleNamespace of train_dataloader has 6: 'a'"):
            hook.before_train(runner(one, train=SIX))
        with pytest.raises(ValueError, match=r"of val_dataloader has 6.*neck.in_channels"):
            hook.before_train(runner(one, val=SIX))
        with pytest.raises(ValueError, match=r"val_dataloader has 6"):
            hook.before_val(runner(one, val=SIX))
        with pytest.raises(ValueError, match=r"test_dataloader has 6"):
            hook.before_test(runner(one, test=SIX))


def test_the_same_number_and_data_sets_without_classes_pass():
    hook, model = ClassCountHook(), build("vit16", predict_from="score_map")
    hook.before_train(runner(model, val=None))
    hook.before_test(runner(model, test=NONE))
    hook.before_test(runner(nn.Linear(1, 1), test=SIX))
    model.set_classes(list("uvwxyz"))
    hook.before_test(runner(model, test=SIX))
