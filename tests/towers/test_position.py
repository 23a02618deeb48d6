import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.towers.position import PositionCache, pad_image, resize_positions

_TABLE = torch.randn(1 + 4 * 4, 5, generator=torch.Generator().manual_seed(0))


def cubic(x):
    """The kernel of bicubic interpolation with a = -0.75, as PyTorch has it."""
    x = abs(x)
    if x <= 1:
        return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3 if x < 2 else 0.0


def resample(line, count, step):
    """Bicubic resampling of one line with a given sampling step."""
    result = []
    for index in range(count):
        centre = step * (index + 0.5) - 0.5
        base = int(centre // 1)
        total = torch.zeros_like(line[0])
        for offset in range(-1, 3):
            at = min(max(base + offset, 0), len(line) - 1)
            total = total + cubic(centre - base - offset) * line[at]
        result.append(total)
    return torch.stack(result)


@pytest.mark.parametrize(("mode", "offset"), [("size", 0.0), ("scale_factor", 0.1)])
def test_bicubic_modes_differ_in_their_sampling_step(mode, offset):
    height, width = 6, 3
    grid = _TABLE[1:].reshape(4, 4, 5)
    rows = torch.stack([resample(grid[:, column], height, 4 / (height + offset)) for column in range(4)], dim=1)
    wanted = torch.stack([resample(row, width, 4 / (width + offset)) for row in rows])
    got = resize_positions(_TABLE, (4, 4), (height, width), mode)
    torch.testing.assert_close(got[0], _TABLE[0])
    torch.testing.assert_close(got[1:], wanted.reshape(-1, 5), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mode", "name", "antialias"), [("bilinear", "bilinear", 0), ("antialias", "bicubic", 1)])
def test_other_modes_are_pytorchs(mode, name, antialias):
    grid = _TABLE[1:].T.reshape(1, 5, 4, 4)
    wanted = F.interpolate(grid, (3, 5), mode=name, align_corners=False, antialias=bool(antialias))
    got = resize_positions(_TABLE, (4, 4), (3, 5), mode)
    torch.testing.assert_close(got[1:].T.reshape(1, 5, 3, 5), wanted)


@pytest.mark.parametrize("mode", ["size", "scale_factor", "antialias", "bilinear"])
def test_the_trained_grid_leaves_the_table_alone(mode):
    assert resize_positions(_TABLE, (4, 4), (4, 4), mode) is _TABLE


def test_another_grid_of_the_same_count_is_resized_unless_counts_decide():
    assert not torch.equal(resize_positions(_TABLE, (4, 4), (2, 8)), _TABLE)
    assert resize_positions(_TABLE, (4, 4), (2, 8), match="count") is _TABLE


def test_tables_without_and_with_several_prefix_rows():
    bare = resize_positions(_TABLE[1:], (4, 4), (2, 3))
    assert bare.shape == (6, 5)
    two = torch.cat([_TABLE[:1], _TABLE])
    torch.testing.assert_close(resize_positions(two, (4, 4), (2, 3))[2:], bare)


def test_a_table_that_is_too_short_and_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="fewer than its grid"):
        resize_positions(_TABLE[:10], (4, 4), (2, 2))
    with pytest.raises(ValueError, match="`mode`"):
        resize_positions(_TABLE, (4, 4), (2, 2), "nearest")


def test_padding_adds_zeros_at_the_corner_or_drops_the_rest():
    image = torch.ones(1, 3, 10, 17)
    padded = pad_image(image, 8)
    assert padded.shape == (1, 3, 16, 24)
    assert padded.sum() == image.sum()
    assert padded[..., 10:, :].sum() == 0
    assert pad_image(image, 8, "floor").shape == (1, 3, 8, 16)
    assert pad_image(image[..., :8, :16], 8) is not None


def test_the_cache_keeps_sixteen_sizes_and_notices_new_weights():
    cache, table = PositionCache(), torch.nn.Parameter(_TABLE.clone())
    first = cache.get(table, (4, 4), (2, 2), "size", "grid")
    assert cache.get(table, (4, 4), (2, 2), "size", "grid") is first
    for width in range(3, 19):
        cache.get(table, (4, 4), (2, width), "size", "grid")
    assert len(cache._entries) == 16
    with torch.no_grad():
        table.add_(1)
    torch.testing.assert_close(cache.get(table, (4, 4), (2, 2), "size", "grid"), first + 1, atol=1e-5, rtol=1e-5)
