"""Reference cases: inputs and stage outputs of a published implementation, and how ours is compared with them.

A case is a json file with an npz of the same stem beside it. ``tests/fixtures/README.md`` describes the form.
Each method's ``cases.py`` holds ``run(case, device, dtype)``, which builds the model from ``case.config``
with the classes and loaders that the configs use, and returns ``{stage name: tensor}``.
"""

import importlib
import importlib.util
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmseg_plugins.fixture_weights import fill

# Cases whose arithmetic lives in a shared room rather than in a method's folder.
_HOMES = {
    "mask_pooling": "mmseg_plugins.ops.cases",
    "backbones": "mmseg_plugins.towers.cases",
    "metrics": "mmseg_plugins.evaluation.cases",
}

# Reduced precision has tolerances of its own, relative to the largest expected value of a stage, and lets
# this fraction of integer results flip: rounding moves values that stand near a boundary.
_REDUCED = {torch.bfloat16: (8e-2, 0.05), torch.float16: (1e-2, 0.02)}
_CUDA_FLOAT32 = (1e-3, 0.002)


@dataclass(frozen=True)
class StageResult:
    """How one stage compared.

    Attributes:
        name: array name of the stage.
        difference: largest absolute difference, or the fraction of differing entries of an exact stage.
        tolerance: the bound in words.
        passed: whether the stage holds.
        detail: why it failed, where the numbers alone do not say.
    """

    name: str
    difference: float
    tolerance: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Case:
    """One reference case.

    Attributes:
        path: the json file.
        spec: its content.
        arrays: name -> array of the npz; float16 arrays as float32, text as lists of str.
    """

    path: Path
    spec: dict[str, Any]
    arrays: dict[str, Any] = field(repr=False)

    @classmethod
    def load(cls, path: str | Path) -> "Case":
        """Read a case from its json file.

        Raises:
            FileNotFoundError: if the json or its npz is missing.
            ValueError: if the json is not a case, or the npz is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"Reference case {path} does not exist. Expected the .json file of a case.")
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"Reference case {path} is not valid JSON: {error}.") from error
        if not isinstance(spec, dict) or not {"method", "kind"} <= spec.keys():
            raise ValueError(f"{path} is not a reference case: expected an object with 'method' and 'kind'.")
        npz = path.with_suffix(".npz")
        arrays = {}
        if npz.is_file():
            try:
                with np.load(npz, allow_pickle=False) as content:
                    arrays = {name: _as_value(content[name]) for name in content.files}
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"Reference case {path}: {npz} is damaged or no npz file. Copy it again.") from error
        elif spec.get("stages") or spec.get("arrays"):
            raise FileNotFoundError(f"Reference case {path} has no arrays: expected {npz} beside it.")
        return cls(path=path, spec=spec, arrays=arrays)

    @property
    def method(self) -> str:
        """Method that the case belongs to."""
        return self.spec["method"]

    @property
    def kind(self) -> str:
        """Which part of the method the case covers."""
        return self.spec["kind"]

    @property
    def config(self) -> dict[str, Any]:
        """Every hyper-parameter needed to build the same model."""
        return self.spec.get("config", {})

    @property
    def outputs(self) -> dict[str, dict]:
        """Stage entries that are to be computed and compared."""
        return {name: entry for name, entry in self.spec.get("stages", {}).items() if entry["role"] == "output"}

    def tensor(self, name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """Return an input array as a tensor; floating ones take ``dtype`` when it is given."""
        value = torch.as_tensor(self.arrays[name])
        return value.to(device, dtype if dtype is not None and value.is_floating_point() else value.dtype)

    @cached_property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Published tensors per layout name (``layout``, ``layout_clip``, ...), integer buffers included."""
        return {
            name: self._layout_weights(name) for name in self.spec if name == "layout" or name.startswith("layout_")
        }

    def _layout_weights(self, name: str) -> dict[str, Tensor]:
        layout = self.spec[name]
        in_npz = set(self.spec.get("weights_in_npz", ()))
        filled = fill({k: v for k, v in layout.items() if k not in in_npz}, self.spec.get("overrides", ()))
        tensors = {
            key: torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape) for key, array in filled.items()
        }
        tensors |= {key: torch.as_tensor(self.arrays[key]) for key in layout if key in in_npz}
        parents = {key.rpartition(".")[0] for key in layout}
        for key, shape in self.spec.get("int_buffers", {}).items():
            if key.rpartition(".")[0] in parents or len(self._layout_names) == 1:
                tensors[key] = torch.zeros(shape, dtype=torch.int64)
        return tensors

    @property
    def _layout_names(self) -> list[str]:
        return [name for name in self.spec if name == "layout" or name.startswith("layout_")]

    def file_content(self, role: str, extra: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Return what the published file of this role holds.

        Args:
            role: entry of ``files``.
            extra: tensors of keys that are listed under ``not_filled``, under their names in the layout.
        """
        entry = self.spec["files"][role]
        tensors = self.weights[entry["keys"]]
        for leading in entry.get("not_filled", {}):
            tensors = {key: value for key, value in tensors.items() if not key.startswith(leading)}
        tensors = tensors | dict(extra or {})
        if entry.get("select"):
            tensors = {k: v for k, v in tensors.items() if k.startswith(tuple(entry["select"]))}
        prefix, strip = entry.get("prefix") or "", entry.get("strip") or ""
        renamed = {prefix + key.removeprefix(strip): value for key, value in tensors.items()}
        return {entry["wrapper"]: renamed} if entry.get("wrapper") else renamed

    def write_file(self, role: str, folder: str | Path, extra: Mapping[str, Tensor] | None = None) -> Path:
        """Write the published file of this role into ``folder`` (torch format) and return its path."""
        path = Path(folder) / f"{role}.pth"
        torch.save(self.file_content(role, extra), path)
        return path

    def compare(
        self, computed: Mapping[str, Any], *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> list[StageResult]:
        """Compare every output stage of the case; a stage that was not produced fails."""
        return [
            _compare_stage(name, self.arrays[name], computed.get(name), entry["tolerance"], device, dtype)
            for name, entry in self.outputs.items()
        ]


def _as_value(array: np.ndarray) -> Any:
    if array.dtype.kind in "US":
        return array.tolist()
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _compare_stage(
    name: str, want: Any, got: Any, tolerance: Mapping[str, float], device: str, dtype: torch.dtype
) -> StageResult:
    if got is None:
        return StageResult(name, float("nan"), "", False, "not produced")
    if isinstance(want, (list, str)):
        passed = want == (got.tolist() if hasattr(got, "tolist") else got)
        return StageResult(name, 0.0 if passed else 1.0, "equal", passed)
    want_array = np.asarray(want)
    got_array = got.detach().cpu() if isinstance(got, Tensor) else torch.as_tensor(np.asarray(got))
    got_array = (got_array.double() if got_array.is_floating_point() else got_array).numpy()
    if want_array.shape != got_array.shape:
        return StageResult(name, float("nan"), "", False, f"shape {got_array.shape}, expected {want_array.shape}")
    return _compare_arrays(name, want_array, got_array, tolerance, device, dtype)


def _compare_arrays(
    name: str, want: np.ndarray, got: np.ndarray, tolerance: Mapping[str, float], device: str, dtype: torch.dtype
) -> StageResult:
    atol, rtol = float(tolerance["atol"]), float(tolerance["rtol"])
    allowed = float(tolerance.get("max_mismatch", 0.0))
    want64, got64 = want.astype(np.float64), got.astype(np.float64)
    relative, flips = _REDUCED.get(dtype, _CUDA_FLOAT32 if str(device).startswith("cuda") else (0.0, 0.0))
    if relative:
        finite = np.abs(want64[np.isfinite(want64)])
        if want.dtype.kind == "f":
            atol = max(atol, relative * float(finite.max(initial=0.0)))
        else:
            allowed = max(allowed, flips)
    same = (got64 == want64) | (np.isnan(got64) & np.isnan(want64))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(got64 - want64))
        holds = same | (difference <= atol + rtol * np.abs(want64))
    fraction = 1.0 - float(holds.mean()) if holds.size else 0.0
    text = f"atol {atol:g} rtol {rtol:g}" + (f", {allowed:.2%} may differ" if allowed else "")
    largest = float(np.nanmax(difference)) if difference.size and not np.isnan(difference).all() else 0.0
    detail = "" if fraction <= allowed else f"{fraction:.3%} of the entries differ"
    return StageResult(name, largest, text, fraction <= allowed, detail)


def runner_module(method: str) -> str:
    """Return the module that holds ``run`` for the cases of a method.

    Raises:
        KeyError: if no such method exists here.
    """
    module = _HOMES.get(method, f"mmseg_plugins.methods.{method}.cases")
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise KeyError(f"No method {method!r} with reference cases here: module {module} does not exist.")
    return module


def verify(case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[StageResult]:
    """Run a case through its method's runner and compare every output stage.

    A runner returns ``{stage: value}``, which is compared with the case's stages, or a list of
    :class:`StageResult` where the case has a form of its own.
    """
    module = runner_module(case.method)
    if ".methods." in module:
        # Models are built and loaded as the configs do it: with everything registered and the safe loader installed.
        importlib.import_module("mmseg_plugins.register")
    module = importlib.import_module(module)
    with torch.no_grad():
        computed = module.run(case, device=device, dtype=dtype)
    if isinstance(computed, list):
        return computed
    return case.compare(computed, device=device, dtype=dtype)
