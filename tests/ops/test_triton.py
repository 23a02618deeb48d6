"""The Triton tier: its kernels run in Triton's interpreter, and compile for GPUs that are not there."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="needs triton")

from triton.backends.compiler import GPUTarget  # noqa: E402  behind the check that triton is there
from triton.compiler import ASTSource  # noqa: E402

from mmseg_plugins.ops import _triton_label_map, _triton_product, _triton_weights  # noqa: E402

CHECKS = Path(__file__).parent / "emulation" / "interpreted.py"
TILE = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def run_checks(*selection):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS), *selection]
    settings = {"MMSEG_PLUGINS_OPS": "eager", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, cwd=CHECKS.parents[3], check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.slow
def test_every_check_passes_in_the_interpreter():
    run_checks()


def test_one_fixture_of_each_mode_passes_in_the_interpreter():
    run_checks("-k", "fixture and (hard_same or sigmoid_same or prob_down or gated_same or kmap_same) and not half")


def product(layout_a, layout_b, terms_a, terms_b, type_b, *, half=False):
    types = {"a_ptr": "*i32" if layout_a else "*fp32", "b_ptr": type_b}
    constants = {"A_LAYOUT": layout_a, "B_LAYOUT": layout_b, "TERMS_A": terms_a, "TERMS_B": terms_b}
    return _triton_product.product_kernel, types, constants | {"HALF": half, "CAST": True} | TILE


MASK_ONES = dict.fromkeys(("H", "W", "h", "w", "tiles", "queries", "x_stride"), 1)
BITS = {"words_ptr": "*i32", "counts_ptr": "*i32"}
LABELS = {"logits_ptr": "*bf16", "classes_ptr": "*i64", "labels_ptr": "*i64"}
WANTED = {"WANT_SCORE": True, "WANT_MARGIN": True, "WANT_PROBABILITY": True, "BLOCK": 512}

# Kernel, types of pointers that are not to float32, constants. Triton makes a constant of any argument that is 1, which
# has to compile too.
VARIANTS = {
    "product bits float32": product(1, 0, 1, 3, "*fp32"),
    "product bits bfloat16": product(1, 0, 1, 1, "*bf16"),
    "product bits float16": product(1, 0, 1, 1, "*fp16", half=True),
    "product soft float32": product(0, 0, 3, 3, "*fp32"),
    "product soft float16": product(0, 0, 2, 2, "*fp16"),
    "product scatter bits": product(0, 2, 3, 1, "*i32"),
    "finish": (_triton_product.finish_kernel, {"area_ptr": "*i32"}, {"DIVIDE": True, "BLOCK": 256, "BLOCK_PARTS": 64}),
    "pack": (_triton_weights.pack_kernel, BITS, {"BLOCK_WORDS": 32}),
    "pack ones": (_triton_weights.pack_kernel, BITS, {"BLOCK_WORDS": 32, "words": 1} | MASK_ONES),
    "sigmoid": (_triton_weights.soft_kernel, {"masks_ptr": "*bf16"}, {"MODE": 1, "BLOCK": 1024}),
    "prob": (_triton_weights.soft_kernel, {"masks_ptr": "*u8"}, {"MODE": 2, "BLOCK": 1024}),
    "gated": (_triton_weights.soft_kernel, {"masks_ptr": "*fp16"}, {"MODE": 3, "BLOCK": 1024}),
    "statistics": (_triton_weights.map_statistics_kernel, {}, {"BLOCK": 1024}),
    "maps": (_triton_weights.map_kernel, {}, {"BLOCK": 1024}),
    "maps ones": (_triton_weights.map_kernel, {}, {"BLOCK": 1024, "maps": 1} | MASK_ONES),
    "rows dot": (_triton_weights.rows_dot_kernel, {}, {"BLOCK": 1024}),
    "slope sigmoid": (_triton_weights.slope_kernel, {}, {"MODE": 1, "BLOCK": 1024}),
    "slope prob": (_triton_weights.slope_kernel, {}, {"MODE": 2, "BLOCK": 1024}),
    "slope kmap": (_triton_weights.slope_kernel, {}, {"MODE": 4, "BLOCK": 1024}),
    "slope ones": (_triton_weights.slope_kernel, {}, {"MODE": 4, "BLOCK": 1024, "share": 1} | MASK_ONES),
    "gather": (_triton_weights.gather_kernel, {"grad_ptr": "*bf16"}, {"BLOCK": 1024}),
    "label map": (
        _triton_label_map.upsample_argmax_kernel, LABELS, {"HAS_CLASSES": True, "SOFTMAX_ROWS": True} | WANTED,
    ),
    "label map classes": (
        _triton_label_map.upsample_argmax_kernel, LABELS, {"HAS_CLASSES": False, "SOFTMAX_ROWS": False} | WANTED,
    ),
}  # fmt: skip

FLOATS = ("eps", "threshold", "scale", "y_scale", "x_scale", "logit_scale")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Function of a variant's name and a capability; what two tests look at is compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield functools.cache(compile_variant)


def compile_variant(name, capability):
    kernel, types, constants = VARIANTS[name]
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}

    def type_of(argument):
        if argument in constants:
            return "constexpr"
        ordinary = "*fp32" if argument.endswith("_ptr") else "fp32" if argument in FLOATS else "i32"
        return types.get(argument, ordinary)

    source = ASTSource(kernel, {argument: type_of(argument) for argument in kernel.arg_names}, constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter's kernels cannot be compiled")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", VARIANTS)
def test_kernels_compile_without_a_gpu(name, capability, compiled):
    assert len(compiled(name, capability).asm["cubin"]) > 0


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter's kernels cannot be compiled")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["product bits float32", "product bits bfloat16"])
def test_the_compiler_keeps_pieces_of_a_sum_apart(name, capability, compiled):
    """A tensor core cuts its sums: merged into one chain over all pixels they would drift past the error bound."""
    code = compiled(name, capability).asm["ttgir"]
    additions = [line for line in code.splitlines() if "arith.addf" in line and "64x64xf32" in line]
    assert len(additions) == 1
