"""Whatever happens to the libraries, the import works, the numbers stay right, and ``info`` says why."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from mmseg_plugins.ops import _dispatch, _load, info

LOADED = _load.STATUS["cpu"]
looks_for_files = pytest.mark.skipif(_load._torch_version() < (2, 10), reason="older torch does not look for libraries")

# Pools in a fresh process, so that what is in the folder decides; prints the result and the report.
PROGRAM = """
import torch
from mmseg_plugins.ops import _load, info, mask_pool
features = torch.arange(4.0).reshape(1, 1, 2, 2)
masks = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
print(mask_pool(features, masks).item())
print(info.describe())
"""


def run(folder, program=PROGRAM, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MMSEG_PLUGINS", "TRITON"))}
    environment |= {"MMSEG_PLUGINS_OPS_DIR": str(folder), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@looks_for_files
def test_without_libraries_the_eager_tier_runs_and_the_way_to_build_is_told(tmp_path):
    report = run(tmp_path)
    assert report.startswith("1.0")
    assert "no _C_cpu*.so" in report
    assert "python -m mmseg_plugins.ops.build --cpu" in report


@looks_for_files
def test_broken_files_are_passed_over_with_their_error(tmp_path):
    (tmp_path / "_C_cpu.so").write_bytes(b"not a library")
    (tmp_path / "_C_cpu.gone.so").symlink_to(tmp_path / "nowhere")
    shutil.copy(torch._C.__file__, tmp_path / "_C_cpu.other.so")
    (tmp_path / "_C_cuda.so").write_bytes(b"")
    report = run(tmp_path)
    assert report.startswith("1.0")
    assert "_C_cpu.so: OSError" in report
    assert "file too short" in report  # what the loader said, not only that it failed
    assert "_C_cpu.gone.so: FileNotFoundError" in report
    # It loads, and would stand in the report as the tier in use while every operator runs elsewhere.
    assert "_C_cpu.other.so: it holds no cpu kernel of this package" in report


@looks_for_files
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
def test_a_library_for_another_cuda_is_refused_before_it_is_loaded(tmp_path):
    (tmp_path / "_C_cuda.so").write_bytes(b"\x7fELF ... libcudart.so.9 ...")
    report = run(tmp_path)
    assert report.startswith("1.0")
    assert f"built for CUDA 9, but this torch has CUDA {torch.version.cuda}" in report
    assert "mmseg_plugins.ops.build --cuda" in report


@pytest.mark.compiled
@pytest.mark.skipif(not LOADED.loaded, reason=f"the compiled CPU ops are not loaded: {LOADED.reason}")
class TestWithLibrary:
    def test_the_library_is_found_by_its_beginning(self, tmp_path):
        shutil.copy(LOADED.path, tmp_path / "_C_cpu.abi3.so")
        report = run(tmp_path)
        assert report.startswith("1.0")
        assert "loaded from" in report
        assert "_C_cpu.abi3.so" in report

    def test_a_renamed_library_is_not_found(self, tmp_path, monkeypatch):
        shutil.copy(LOADED.path, tmp_path / "renamed.so")
        monkeypatch.delenv("MMSEG_PLUGINS_OPS", raising=False)
        monkeypatch.setenv("MMSEG_PLUGINS_OPS_DIR", str(tmp_path))
        assert "no _C_cpu*.so" in _load.load_library("cpu").reason

    def test_truncated_libraries_are_passed_over(self, tmp_path):
        content = LOADED.path.read_bytes()
        for share in (0.01, 0.5, 0.999):
            (tmp_path / f"_C_cpu.{share}.so").write_bytes(content[: int(share * len(content))])
        report = run(tmp_path)
        assert report.startswith("1.0")
        assert report.count(".so: the file is cut off") == 3

    def test_a_whole_library_is_taken_where_the_newest_is_broken(self, tmp_path):
        shutil.copy(LOADED.path, tmp_path / "_C_cpu.old.so")
        broken = tmp_path / "_C_cpu.so"
        broken.write_bytes(b"not a library")
        later = broken.stat().st_mtime + 100
        os.utime(broken, (later, later))
        assert "_C_cpu.old.so" in run(tmp_path)

    @pytest.mark.parametrize("name", ["eager", "triton"])
    def test_another_tier_can_be_asked_for(self, name, tmp_path, monkeypatch):
        shutil.copy(LOADED.path, tmp_path / "_C_cpu.so")
        monkeypatch.setenv("MMSEG_PLUGINS_OPS_DIR", str(tmp_path))
        monkeypatch.setenv("MMSEG_PLUGINS_OPS", name)
        status = _load.load_library("cpu")
        assert not status.loaded
        assert f"MMSEG_PLUGINS_OPS={name} asks for another tier" in status.reason

    def test_the_compiled_tier_can_be_demanded(self, tmp_path):
        shutil.copy(LOADED.path, tmp_path / "_C_cpu.so")
        assert run(tmp_path, MMSEG_PLUGINS_OPS="compiled").startswith("1.0")

    @pytest.mark.parametrize("instructions", ["baseline", "avx2"])
    def test_lesser_instruction_sets_pass_the_reference_cases(self, instructions):
        program = (
            "import glob\n"
            "from mmseg_plugins.cases import Case, verify\n"
            "for path in sorted(glob.glob('tests/fixtures/mask_pooling/*.json')):\n"
            "    wrong = [result for result in verify(Case.load(path)) if not result.passed]\n"
            "    assert not wrong, (path, wrong)\n"
            "print('all agree')\n"
        )
        assert "all agree" in run(LOADED.path.parent, program, MMSEG_PLUGINS_CPU_SET=instructions)


@looks_for_files
def test_demanding_the_compiled_tier_without_it_fails_at_the_call_and_not_at_import(tmp_path):
    program = (
        "import torch\n"
        "from mmseg_plugins.ops import mask_pool\n"
        "try:\n"
        "    mask_pool(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    assert "compiled cpu ops are not loaded: no _C_cpu" in run(tmp_path, program, MMSEG_PLUGINS_OPS="compiled")


def test_an_unknown_tier_is_reported_and_ignored(monkeypatch, caplog):
    monkeypatch.setenv("MMSEG_PLUGINS_OPS", "fast")
    assert _load.requested_tier() is None
    assert "eager, triton, compiled" in caplog.text


def test_an_old_torch_is_told_apart(monkeypatch):
    monkeypatch.setattr(_load.torch, "__version__", "2.6.0+cu124")
    monkeypatch.delenv("MMSEG_PLUGINS_OPS", raising=False)
    status = _load.load_library("cpu")
    assert not status.loaded
    assert "needs torch >= 2.10" in status.reason


def test_a_tier_that_is_missing_says_so(monkeypatch):
    monkeypatch.setitem(_load.STATUS, "cpu", _load.LibraryStatus("cpu", None, False, "nothing there"))
    with pytest.raises(RuntimeError, match="nothing there"):
        _dispatch.check_impl("cpu", torch.ones(1))


def test_triton_says_why_it_cannot_run(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    _load.triton_tier.cache_clear()
    with pytest.raises(RuntimeError, match="Triton ops cannot run"):
        _load.triton_tier()


def test_float64_on_cuda_goes_to_the_eager_functions():
    class OnCuda(torch.Tensor):
        is_cuda = True

    double, single = (torch.ones(1, dtype=dtype).as_subclass(OnCuda) for dtype in (torch.float64, torch.float32))
    assert _dispatch._forced_tier("auto", (single, double)) is _load.EAGER
    assert _dispatch._forced_tier("auto", (single, single)) is None


def test_info_names_every_operator_and_tier():
    report = info.describe()
    for word in ("mask_pool_fwd", "upsample_argmax", "compiled cpu", "compiled cuda", "triton", "eager"):
        assert word in report
    assert info.tier_of("mask_pool_fwd", "cpu") == ("compiled" if LOADED.loaded else "eager")
