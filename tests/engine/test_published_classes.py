"""Class names of a checkpoint on their way to the model."""

from types import SimpleNamespace

from torch import nn

from mmseg_plugins.engine.published_classes import PublishedClassesHook


class Listener(nn.Module):
    """Remembers what it was told."""

    def adopt_class_names(self, content):
        """Remember."""
        self.content = content


def test_the_model_hears_of_the_checkpoint_also_behind_wrappers():
    for depth in range(3):
        listener = Listener()
        model = listener
        for _ in range(depth):
            model = SimpleNamespace(module=model)
        checkpoint = {"meta": {"CLASSES": ("a", "b")}, "state_dict": {}}
        PublishedClassesHook().after_load_checkpoint(SimpleNamespace(model=model), checkpoint)
        assert listener.content is checkpoint


def test_models_without_names_of_their_own_are_left_alone():
    PublishedClassesHook().after_load_checkpoint(SimpleNamespace(model=nn.Linear(1, 1)), {"state_dict": {}})
