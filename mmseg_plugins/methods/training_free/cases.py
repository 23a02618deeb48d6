"""How the reference cases of the training-free methods run; one runner for each kind."""

from collections.abc import Callable
from typing import Any

import torch

from mmseg_plugins.cases import Case
from mmseg_plugins.methods.training_free import cases_external, cases_rules

_RUNNERS: dict[str, Callable[[Case, str, torch.dtype], dict[str, Any]]] = {
    "sclip": cases_rules.run_sclip,
    "clearclip": cases_rules.run_clearclip,
    "naclip": cases_rules.run_naclip,
    "gem": cases_rules.run_gem,
    "clip_surgery": cases_rules.run_clip_surgery,
    "resclip": cases_rules.run_resclip,
    "proxyclip": cases_external.run_proxyclip,
    "corrclip_region": cases_external.run_corrclip,
    "trident_guidance": cases_external.run_trident,
    "pamr": cases_external.run_pamr,
}


def run(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the output stages of a case.

    Raises:
        ValueError: if the kind of case is not known.
    """
    if case.kind not in _RUNNERS:
        raise ValueError(f"{case.path}: no runner for cases of kind {case.kind!r}. Known: {', '.join(_RUNNERS)}.")
    return _RUNNERS[case.kind](case, device, dtype)
