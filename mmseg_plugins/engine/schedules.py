"""Learning-rate schedules that mmengine lacks."""

from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmseg.registry import PARAM_SCHEDULERS


def warmup_poly(
    base: float,
    step: int,
    *,
    total_iters: int,
    power: float,
    eta_min: float,
    warmup_iters: int,
    warmup_ratio: float,
) -> float:
    """Return the learning rate of mmcv 1.x: polynomial decay, and a linear warm-up as a factor on it.

    mmengine's ``LinearLR`` with ``PolyLR`` comes close but is not equal: it starts the decay from the warmed-up rate.
    As in mmcv, ``eta_min`` is where *every* rate goes, so a base of 0 (a "frozen" group) rises towards it.

    Args:
        base: rate of the group.
        step: iteration, from 0.
        total_iters: iteration at which ``eta_min`` is reached.
        power: of the decay.
        eta_min: rate at the end.
        warmup_iters: iterations of the warm-up.
        warmup_ratio: factor at iteration 0.
    """
    rate = (base - eta_min) * max(1 - step / total_iters, 0.0) ** power + eta_min
    if step < warmup_iters:
        rate *= 1 - (1 - step / warmup_iters) * (1 - warmup_ratio)
    return rate


@PARAM_SCHEDULERS.register_module()
class WarmupPolyLR(LRSchedulerMixin, _ParamScheduler):
    """The schedule of mmcv 1.x with ``policy='poly', warmup='linear'``, see :func:`warmup_poly`.

    The rate depends on the iteration alone, so a resumed run goes on exactly.

    Args:
        optimizer: optimizer or its wrapper.
        total_iters: iterations of the whole training.
        power: of the decay.
        eta_min: rate at the end.
        warmup_iters: iterations of the warm-up, 0: none.
        warmup_ratio: factor at iteration 0.
        **options: further arguments of mmengine's schedulers; ``by_epoch`` is False, ``end`` is not used.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        total_iters: int,
        power: float = 0.9,
        eta_min: float = 0.0,
        warmup_iters: int = 0,
        warmup_ratio: float = 1e-6,
        **options: Any,
    ) -> None:
        self.law = {
            "total_iters": total_iters,
            "power": power,
            "eta_min": eta_min,
            "warmup_iters": warmup_iters,
            "warmup_ratio": warmup_ratio,
        }
        # Without by_epoch in the config the runner counts epochs and would end the schedule after one step;
        # the law ends by itself.
        super().__init__(optimizer, **{"by_epoch": False, **options, "end": INF})

    def values_at(self, step: int) -> list[float]:
        """Return the rate of each parameter group at an iteration."""
        return [warmup_poly(base, step, **self.law) for base in self.base_values]

    def _get_value(self) -> list[float]:
        return self.values_at(self.last_step)
