import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.prediction.pamr import PAMR, local_deviation, pamr_affinity


def neighbours(image, row, column, dilation, with_centre):
    """The values around a pixel, the border repeated; image is (C, H, W)."""
    found = []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if with_centre or (down, right) != (0, 0):
                y = min(max(row + down * dilation, 0), image.shape[1] - 1)
                x = min(max(column + right * dilation, 0), image.shape[2] - 1)
                found.append(image[:, y, x])
    return found


def slow_pamr(image, maps, steps, dilations):
    _, height, width = image.shape
    weights = {}
    for row in range(height):
        for column in range(width):
            around = [v for d in dilations for v in neighbours(image, row, column, d, True)]
            spread = 1e-8 + 0.1 * torch.stack(around).std(0)
            others = [v for d in dilations for v in neighbours(image, row, column, d, False)]
            scores = [-(((image[:, row, column] - v).abs()) / spread).mean() for v in others]
            weights[row, column] = torch.stack(scores).softmax(0)
    for _ in range(steps):
        after = torch.empty_like(maps)
        for (row, column), alpha in weights.items():
            others = [v for d in dilations for v in neighbours(maps, row, column, d, False)]
            after[:, row, column] = sum(a * v for a, v in zip(alpha, others, strict=True))
        maps = after
    return maps


@pytest.mark.parametrize(("dilations", "size"), [((1, 2), (6, 9)), ((8, 16), (5, 7))])
def test_equals_a_loop_over_pixels(dilations, size):
    torch.manual_seed(0)
    image, maps = torch.randn(3, *size, dtype=torch.float64), torch.randn(2, *size, dtype=torch.float64)
    got = PAMR(steps=3, dilations=dilations).guide(image)(maps)
    torch.testing.assert_close(got.double(), slow_pamr(image, maps, 3, dilations), atol=1e-5, rtol=1e-5)


def test_maps_may_come_in_any_portions():
    torch.manual_seed(0)
    refine = PAMR().guide(torch.randn(3, 20, 24))
    maps = torch.randn(5, 20, 24)
    assert torch.equal(refine(maps), torch.cat([refine(maps[:2]), refine(maps[2:])]))


def test_smaller_maps_are_resized_with_aligned_corners_and_images_without():
    torch.manual_seed(0)
    image, maps = torch.randn(3, 30, 40), torch.randn(2, 4, 5)
    guide = F.interpolate(image[None], (12, 16), mode="bilinear", align_corners=False)[0]
    large = F.interpolate(maps[None], (12, 16), mode="bilinear", align_corners=True)[0]
    refine = PAMR(steps=2, dilations=(1,))
    torch.testing.assert_close(refine.guide(image, (12, 16))(maps), refine.guide(guide)(large))


def test_weights_sum_to_one_and_keep_constant_maps():
    image = torch.randn(3, 9, 11)
    torch.testing.assert_close(pamr_affinity(image, (1, 3)).sum(0), torch.ones(9, 11))
    torch.testing.assert_close(PAMR().guide(image)(torch.full((2, 9, 11), 0.7)), torch.full((2, 9, 11), 0.7))


def test_image_of_one_colour_averages_evenly():
    refine = PAMR(steps=1, dilations=(1,)).guide(torch.full((3, 7, 7), 0.3))
    maps = torch.zeros(1, 7, 7)
    maps[0, 3, 3] = 1
    expected = torch.zeros(1, 7, 7)
    expected[0, 2:5, 2:5] = 1 / 8
    expected[0, 3, 3] = 0
    torch.testing.assert_close(refine(maps), expected)


def test_deviation_of_nearly_flat_areas_is_as_exact_as_their_values():
    image = torch.full((3, 5, 5), 100.0)
    image[:, 2, 2] = 100.0 + 2**-17  # the next float32
    exact = torch.stack(neighbours(image.double(), 2, 2, 1, True)).std(0)
    torch.testing.assert_close(local_deviation(image, (1,))[:, 2, 2].double(), exact, rtol=1e-5, atol=0)


def test_no_step_changes_nothing():
    maps = torch.randn(2, 6, 6)
    assert torch.equal(PAMR(steps=0).guide(torch.randn(3, 6, 6))(maps), maps)


@pytest.mark.parametrize("settings", [{"steps": -1}, {"dilations": ()}, {"dilations": (0, 4)}])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError, match="at least one dilation"):
        PAMR(**settings)


def test_a_batch_of_images_is_refused():
    with pytest.raises(ValueError, match=r"\(3, h, w\)"):
        PAMR().guide(torch.randn(1, 3, 8, 8))
