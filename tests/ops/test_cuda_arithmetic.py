"""The CUDA kernels' index arithmetic, compiled as plain C++ and run over every thread of small launches."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mmseg_plugins.ops._resize import resize_maps

SOURCES = Path(__file__).parents[2] / "mmseg_plugins" / "ops" / "csrc" / "cuda"
EMULATION = Path(__file__).parent / "emulation"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

AXES = [
    (1, 1),
    (7, 7),
    (160, 20),
    (64, 8),
    (37, 11),
    (53, 17),
    (9, 24),
    (7, 20),
    (1, 5),
    (5, 1),
    (30, 6),
    (3, 40),
    (18, 13),
]


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory):
    library = tmp_path_factory.mktemp("arithmetic") / "arithmetic.so"
    include = Path(torch.__file__).parent / "include"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += ["-DMMSEG_PLUGINS_EMULATION", f"-I{SOURCES}", f"-I{EMULATION}", "-isystem", str(include)]
    subprocess.run([*command, str(EMULATION / "arithmetic.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def taps_of(function, n_in, n_out):
    low, high, weight = np.zeros(n_out, np.int32), np.zeros(n_out, np.int32), np.zeros(n_out, np.float32)
    function(n_in, n_out, pointer(low), pointer(high), pointer(weight))
    return low, high, weight


def matrix_of(low, high, weight, n_in):
    """Return the (n_in, n_out) matrix that the taps stand for."""
    matrix, outputs = np.zeros((n_in, len(low))), np.arange(len(low))
    np.add.at(matrix, (low, outputs), 1 - weight.astype(np.float64))
    np.add.at(matrix, (high, outputs), weight.astype(np.float64))
    return matrix


@pytest.mark.parametrize(("n_in", "n_out"), AXES)
def test_taps_resize_like_the_eager_tier(arithmetic, n_in, n_out):
    ours = matrix_of(*taps_of(arithmetic.taps, n_in, n_out), n_in)
    unit_maps = torch.eye(n_in, dtype=torch.float64).reshape(1, n_in, 1, n_in)
    eager = resize_maps(unit_maps, (1, n_out))[0, :, 0].numpy()
    assert np.abs(ours - eager).max() <= 2**-24  # one rounding of the fraction to float32


@pytest.mark.parametrize(("n_in", "n_out"), AXES)
def test_torch_taps_resize_like_interpolate(arithmetic, n_in, n_out):
    ours = matrix_of(*taps_of(arithmetic.torch_taps, n_in, n_out), n_in)
    unit_maps = torch.eye(n_in).reshape(1, n_in, 1, n_in)
    torch_own = torch.nn.functional.interpolate(unit_maps, (1, n_out), mode="bilinear")[0, :, 0].numpy()
    assert np.abs(ours - torch_own).max() <= 4e-6  # float32 source indices of up to 160


@pytest.mark.parametrize(("n_in", "n_out"), AXES)
def test_gather_ranges_are_the_adjoint_of_the_taps(arithmetic, n_in, n_out):
    gathered = np.zeros((n_in, n_out), np.float32)
    arithmetic.adjoint(n_in, n_out, pointer(gathered))
    assert np.abs(gathered - matrix_of(*taps_of(arithmetic.taps, n_in, n_out), n_in)).max() <= 2**-24


def test_taps_stay_inside_at_the_longest_axes(arithmetic):
    for n_in, n_out in [(32767, 32767), (32767, 32766), (32766, 32767), (1 << 20, 1023), (1023, 1 << 20)]:
        low, high, weight = taps_of(arithmetic.taps, n_in, n_out)
        assert low.min() >= 0
        assert high.max() <= n_in - 1
        assert ((high - low) <= 1).all()
        assert ((weight >= 0) & (weight <= 1)).all()
        position = ((2 * np.arange(n_out, dtype=np.int64) + 1) * n_in - n_out).clip(0)
        assert (low == position // (2 * n_out)).all()


def test_fragments_hold_every_element_once(arithmetic):
    a, b, c = np.zeros((128, 2), np.int32), np.zeros((64, 2), np.int32), np.zeros((128, 2), np.int32)
    arithmetic.fragments(pointer(a), pointer(b), pointer(c))
    for places, rows, columns, packed in [(a, 16, 16, 2), (b, 8, 16, 2), (c, 16, 8, 1)]:
        held = {(row, column + i) for row, column in places.tolist() for i in range(packed)}
        assert held == {(row, column) for row in range(rows) for column in range(columns)}


def test_fragments_stand_where_the_instruction_puts_them(arithmetic):
    """The tables of the PTX manual for m16n8k16, written per element i of a lane's fragment."""
    a, b, c = np.zeros((32, 4, 2), np.int32), np.zeros((32, 2, 2), np.int32), np.zeros((32, 4, 2), np.int32)
    arithmetic.fragments(pointer(a), pointer(b), pointer(c))
    for lane in range(32):
        group, place = lane >> 2, lane % 4
        for i in range(0, 8, 2):
            row = group if i < 2 or 4 <= i < 6 else group + 8
            assert tuple(a[lane, i // 2]) == (row, place * 2 + (8 if i >= 4 else 0))
        for i in range(0, 4, 2):
            assert tuple(b[lane, i // 2]) == (group, place * 2 + (8 if i >= 2 else 0))
        for i in range(4):
            assert tuple(c[lane, i]) == (group if i < 2 else group + 8, place * 2 + (i & 1))


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("k_contiguous", [0, 1])
def test_a_panel_is_fetched_once(arithmetic, rows, k_contiguous):
    times = np.zeros(rows * 32, np.int32)
    arithmetic.tile_cover(256, rows, 32, k_contiguous, pointer(times))
    assert (times == 1).all()


def test_blocks_visit_every_tile_once(arithmetic):
    times = np.zeros(3 * 5 * 2 * 4, np.int32)
    arithmetic.product_cover(3, 5, 2, 4, pointer(times))
    assert (times == 1).all()


@pytest.mark.parametrize(("count", "depth"), [(1, 0), (1, 7), (5, 31), (33, 65536), (7, 9312), (64, 33)])
def test_splits_cover_the_depth_in_order(arithmetic, count, depth):
    ranges = np.zeros((count, 2), np.int64)
    arithmetic.splits(ctypes.c_int64(count), ctypes.c_int64(depth), ctypes.c_int64(32), pointer(ranges))
    covered = [k for begin, end in ranges.tolist() for k in range(begin, end)]
    assert covered == list(range(depth))
    assert all(begin % 32 == 0 or begin == depth for begin, _ in ranges.tolist())  # a word of bits starts every step


@pytest.mark.parametrize("words", [1, 8, 63, 64, 65, 291])
def test_every_word_is_packed_once(arithmetic, words):
    times = np.zeros(words, np.int32)
    arithmetic.pack_cover(ctypes.c_int64(words), ctypes.c_int64(-(-words // 64)), 8, pointer(times))
    assert (times == 1).all()


def test_three_terms_hold_a_float32_exactly(arithmetic):
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [
            rng.standard_normal(1000).astype(np.float32)
            * np.float32(10.0) ** rng.integers(-25, 25, 1000).astype(np.float32),
            np.array([0.0, -0.0, 1.0, 3.4028235e38, -3.4028235e38, 1.1754944e-20, 1 + 2**-23], np.float32),
        ]
    )
    parts = np.zeros((len(values), 3), np.float32)
    arithmetic.terms(pointer(values), len(values), pointer(parts))
    assert (parts.astype(np.float64).sum(1) == values).all()
    assert (np.abs(parts[:, 1]) <= 2.0**-7 * np.abs(parts[:, 0])).all()
