"""Building: each library by itself, and a failure is fatal only where that was asked for."""

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmseg_plugins
from mmseg_plugins.ops import _extensions, build

ROOT = Path(mmseg_plugins.__file__).parents[1]
BUILDS = _extensions.why_not("cpu") is None
needs_compiler = pytest.mark.skipif(not BUILDS, reason=f"cannot build here: {_extensions.why_not('cpu')}")


def small_extension(folder, name, source):
    from torch.utils import cpp_extension

    path = folder / f"{name}.cpp"
    path.write_text(source)
    return cpp_extension.CppExtension(name, [str(path)], py_limited_api=True)


def run_build(folder, extensions, is_strict):
    from setuptools import Distribution

    command = _extensions.make_build_command(is_strict)(Distribution({"name": "tried", "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    command.ensure_finalized()
    command.run()
    return command


@needs_compiler
def test_one_failure_leaves_the_other_library_and_its_outputs(tmp_path, capsys):
    extensions = [
        small_extension(tmp_path, "broken", "this is no C++;"),
        small_extension(tmp_path, "whole", 'extern "C" int answer() { return 42; }'),
    ]
    command = run_build(tmp_path, extensions, is_strict=False)
    assert [Path(path).name for path in command.get_outputs()] == ["whole.so"]
    assert ctypes.CDLL(command.get_outputs()[0]).answer() == 42
    assert "broken was not built" in capsys.readouterr().err


@needs_compiler
def test_a_failure_is_fatal_where_that_was_asked_for(tmp_path):
    extensions = [small_extension(tmp_path, "broken", "this is no C++;")]
    with pytest.raises(RuntimeError):
        run_build(tmp_path, extensions, is_strict=True)


def test_zero_skips_building(monkeypatch):
    monkeypatch.setenv("MMSEG_PLUGINS_BUILD_OPS", "0")
    assert _extensions.setup_arguments(ROOT) == {}


def test_one_makes_a_missing_compiler_fatal(monkeypatch):
    monkeypatch.setenv("MMSEG_PLUGINS_BUILD_OPS", "1")
    monkeypatch.setattr(_extensions, "why_not", lambda kind: "no C++ compiler was found")
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler was found"):
        _extensions.setup_arguments(ROOT)


def test_what_cannot_be_built_is_left_out_and_named(monkeypatch, capsys):
    monkeypatch.delenv("MMSEG_PLUGINS_BUILD_OPS", raising=False)
    monkeypatch.setattr(_extensions, "why_not", lambda kind: f"there is no {kind}")
    assert _extensions.setup_arguments(ROOT) == {}
    assert "compiled cuda ops are left out: there is no cuda" in capsys.readouterr().err


@needs_compiler
def test_setup_gets_relative_sources_and_the_command(monkeypatch):
    monkeypatch.delenv("MMSEG_PLUGINS_BUILD_OPS", raising=False)
    monkeypatch.setattr(_extensions, "why_not", lambda kind: None if kind == "cpu" else "left out")
    arguments = _extensions.setup_arguments(ROOT)
    (extension,) = arguments["ext_modules"]
    assert extension.name == "mmseg_plugins.ops._C_cpu"
    assert all(source.startswith("mmseg_plugins/ops/csrc/cpu/") for source in extension.sources)
    assert set(arguments["cmdclass"]) == {"build_ext"}


@pytest.mark.parametrize(
    ("attribute", "value", "kind", "reason"),
    [
        ("__version__", "2.9.1", "cpu", "needs torch >= 2.10"),
        ("version", type("Version", (), {"cuda": None}), "cuda", "without CUDA"),
    ],
)
def test_reasons_name_what_is_missing(attribute, value, kind, reason, monkeypatch):
    import torch

    monkeypatch.setattr(torch, attribute, value)
    assert reason in _extensions.why_not(kind)


def test_no_compiler_is_a_reason(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in _extensions.why_not("cpu")


def test_without_torch_the_reason_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "--no-build-isolation" in _extensions.why_not("cpu")


def test_the_toolkit_is_found_through_a_script_on_the_path(tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f'#!/bin/sh\necho "#$ TOP={tmp_path}/toolkit/bin/.." >&2\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert _extensions.find_cuda_home() == tmp_path / "toolkit"
    monkeypatch.setenv("CUDA_HOME", "/somewhere")
    assert _extensions.find_cuda_home() == Path("/somewhere")


def test_reading_the_description_needs_no_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('extensions', {str(_extensions.__file__)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"from pathlib import Path; assert module.setup_arguments(Path({str(ROOT)!r})) == {{}}\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MMSEG_PLUGINS_BUILD_OPS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "left out: torch cannot be imported" in done.stderr


def test_every_source_is_listed():
    assert {path.name for path in _extensions.sources("cpu")} >= {
        "library.cpp",
        "mask_pool_cpu.cpp",
        "kernels_base.cpp",
    }
    assert {path.name for path in _extensions.sources("cuda")} >= {"mask_pool_cuda.cu", "upsample_argmax_cuda.cu"}
    stems = [path.stem for kind in _extensions.KINDS for path in _extensions.sources(kind)]
    assert len(stems) == len(set(stems))  # equal stems would overwrite each other's object files


def test_what_was_named_must_be_built(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(build, "why_not", lambda kind: "it is Sunday")
    assert build.main(["--cpu", "--out", str(tmp_path)]) == 1
    assert build.main(["--out", str(tmp_path)]) == 0
    assert "it is Sunday" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.compiled
@needs_compiler
def test_the_cpu_library_builds_and_loads(tmp_path):
    command = [sys.executable, "-m", "mmseg_plugins.ops.build", "--cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning:" not in done.stdout + done.stderr  # the compiler's; Python's own name their category
    assert [path.name for path in tmp_path.iterdir()] == ["_C_cpu.so"]
    report = subprocess.run(
        [sys.executable, "-m", "mmseg_plugins.ops.info"],
        env=os.environ | {"MMSEG_PLUGINS_OPS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"loaded from {tmp_path / '_C_cpu.so'}" in report


def test_setup_file_finds_the_description():
    assert importlib.util.find_spec("mmseg_plugins.ops._extensions").origin == str(Path(_extensions.__file__))
    assert "_extensions.py" in (ROOT / "setup.py").read_text()
