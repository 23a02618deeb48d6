"""Strict loading of published files: converted and checked as a whole before the first tensor is copied."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmseg_plugins.towers.files import unwrap_state_dict
from mmseg_plugins.towers.layouts import compare_keys

# What files may leave out: counters, and what only checkpoints trained here record.
_NOT_IN_FILES = ("num_batches_tracked", "_extra_state")


class StrictLoading(nn.Module):
    """Mixin of a segmentor that takes published files by every way of loading, whole or not at all.

    Stands before the segmentor's own base class. ``load_state_dict``, mmengine's ``load_from``, ``resume`` and
    ``init_cfg`` all end in :meth:`_load_from_state_dict`.
    """

    def open_checkpoint(self, content: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return a file's tensors under flat names, trainer wrappers removed."""
        return unwrap_state_dict(content)

    def adapt_checkpoint(self, state: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Bring a file's tensors to this model's names.

        A derived class takes its own published layout first and leaves the rest to this one.

        Args:
            state: the file's tensors, trainer wrappers already removed.

        Returns:
            The tensors under the model's names, and the parts (leading texts) that the file declares to hold.
        """
        return dict(state), ("",)

    def note_loaded(self, parts: tuple[str, ...]) -> None:
        """Hear that the tensors below these leading texts are about to be filled; drop what depends on them."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Convert and check the whole file before torch copies the first tensor."""
        if not prefix:
            own = self.state_dict()
            adapted, parts = self.adapt_checkpoint(self.open_checkpoint(state_dict))
            check_fit(own, adapted, parts, f"this {type(self).__name__}; nothing was loaded")
            state_dict.clear()
            state_dict.update(own | adapted)
            self.note_loaded(parts)
        super()._load_from_state_dict(state_dict, prefix, *args)


def check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], parts: tuple[str, ...], what: str) -> None:
    """Raise unless tensors are exactly those of a model below some leading texts.

    Args:
        own: the model's state.
        given: tensors under the model's names.
        parts: leading texts; ``("",)`` is everything.
        what: what they should fit, in words.

    Raises:
        ValueError: naming what is missing, unexpected or of another shape.
    """
    wanted = {key: value for key, value in own.items() if key.startswith(parts) or key in given}
    compare_keys(wanted, given, what=what, optional=_NOT_IN_FILES)
