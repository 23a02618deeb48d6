import pytest
import torch

from mmseg_plugins.towers.digest import tensor_digest

LONG = 3 * 65_536 + 100  # float32 values: three rows of all lanes and a remainder


@pytest.fixture(scope="module")
def values():
    return torch.randn(LONG, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("place", [0, 1, 65_535, 65_536, 131_073, LONG - 101, LONG - 100, LONG - 1])
def test_a_single_bit_changes_the_digest(values, place):
    changed = values.clone()
    changed.view(torch.int32)[place] ^= 1
    assert tensor_digest(changed) != tensor_digest(values)


def test_signs_that_change_together_change_the_digest(values):
    pair = values.clone()
    pair[[1, 65_537]] *= -1  # the top bits of two words of one lane
    digests = {tensor_digest(each) for each in (values, -values, pair, values.flip(0), values.roll(65_536))}
    assert len(digests) == 5


def test_equal_values_have_equal_digests_wherever_they_lie(values):
    table = values[: 65_536 * 3].view(3, 65_536)
    assert tensor_digest(table.T.contiguous().T) == tensor_digest(table)
    assert tensor_digest(values.clone()) == tensor_digest(values)


def test_shape_and_dtype_count(values):
    some = values[:16]
    digests = {tensor_digest(each) for each in (some, some.view(4, 4), some.view(torch.int32), some[:15])}
    assert len(digests) == 4


def test_small_kinds_have_digests():
    kinds = [torch.zeros(()), torch.zeros(0), torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bool)]
    assert len({tensor_digest(each) for each in kinds}) == 4
