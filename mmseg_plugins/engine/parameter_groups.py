"""Learning rates by part of the model, and weight decay by kind of layer, as detectron2's recipes have them."""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_KEYS = {"lr_mult", "norm_decay_mult", "embed_decay_mult"}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PartsOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds one group per combination of rate and decay, out of the parameters that take gradients.

    mmengine's own constructor cannot do both at once: a parameter that matches one of its ``custom_keys`` is no longer
    treated as a norm layer's.

    ``paramwise_cfg`` takes

    * ``lr_mult``: {leading text of parameter names: factor of the learning rate}; the longest match counts;
    * ``norm_decay_mult``: factor of the weight decay for weights and biases of norm layers (1 unless given);
    * ``embed_decay_mult``: the same for ``nn.Embedding`` (1 unless given).

    Parameters of no layer of their own, such as a layer scale or a level embedding, are decayed like any other.

    Args:
        optim_wrapper_cfg: config of the optimizer wrapper.
        paramwise_cfg: see above.

    Raises:
        ValueError: if ``paramwise_cfg`` has other keys, or a leading text matches no parameter that takes gradients.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, None)
        self.options = dict(paramwise_cfg or {})
        unknown = sorted(set(self.options) - _KEYS)
        if unknown:
            raise ValueError(f"unknown paramwise_cfg keys {unknown}. Known: {', '.join(sorted(_KEYS))}.")

    def __call__(self, model: nn.Module) -> Any:
        """Build the optimizer wrapper of a model."""
        from mmengine.model import is_model_wrapper
        from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS

        bare = model.module if is_model_wrapper(model) else model
        wrapper_config, optimizer_config = self.optim_wrapper_cfg.copy(), self.optimizer_cfg.copy()
        optimizer_config["params"] = parameter_groups(
            bare, lr=self.base_lr, weight_decay=self.base_wd, **_plain(self.options)
        )
        optimizer = OPTIMIZERS.build(optimizer_config)
        return OPTIM_WRAPPERS.build(wrapper_config, default_args={"optimizer": optimizer})


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "lr_mult": dict(options.get("lr_mult") or {})}


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float | None,
    lr_mult: Mapping[str, float],
    norm_decay_mult: float = 1.0,
    embed_decay_mult: float = 1.0,
) -> list[dict[str, Any]]:
    """Sort a model's parameters into groups of one rate and decay.

    Args:
        model: the model; parameters without gradient are left out, shared ones appear once.
        lr: learning rate.
        weight_decay: weight decay, None counts as 0.
        lr_mult: see :class:`PartsOptimWrapperConstructor`.
        norm_decay_mult: the same.
        embed_decay_mult: the same.

    Raises:
        ValueError: if a leading text of ``lr_mult`` matches no parameter.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen, matched = set(), set()
    for module_name, module in model.named_modules():
        decay_mult = norm_decay_mult if isinstance(module, _NORMS) else 1.0
        decay_mult = embed_decay_mult if isinstance(module, nn.Embedding) else decay_mult
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            full_name = f"{module_name}.{name}" if module_name else name
            leading = max((text for text in lr_mult if full_name.startswith(text)), key=len, default=None)
            matched.add(leading)
            key = (lr * lr_mult.get(leading, 1.0), (weight_decay or 0.0) * decay_mult)
            groups.setdefault(key, []).append(parameter)
    absent = sorted(set(lr_mult) - matched)
    if absent:
        raise ValueError(f"lr_mult names {absent[0]!r}, but no parameter that takes gradients starts like that.")
    return [{"params": items, "lr": rate, "weight_decay": decay} for (rate, decay), items in groups.items()]
