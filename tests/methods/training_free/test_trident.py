import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample

from mmseg_plugins.methods.training_free.guidance import guidance_weights, guide_map, stitch_windows
from mmseg_plugins.methods.training_free.proxy import change_statistics
from mmseg_plugins.methods.training_free.proxyclip import ProxyCLIP
from mmseg_plugins.methods.training_free.trident import Trident
from mmseg_plugins.prediction.windows import Box
from tests.methods.training_free.reference import SlowTower, build

VFM = {
    "model": "vit_base_patch16_224.dino",
    "options": {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 8},
}
SAM = {
    "options": {
        "img_size": 64,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "global_attn_indexes": (1,),
        "window_size": 2,
    }
}


def trident(**options):
    return build(Trident, **{"vfm": VFM, "crop_size": (24, 24), "stride": (16, 16), **options})


def test_windows_are_averaged_place_by_place():
    torch.manual_seed(0)
    windows, boxes = torch.randn(2, 3, 4, 4), [Box(0, 0, 2, 2), Box(0, 1, 2, 3)]
    got = stitch_windows(windows, boxes, (2, 2), (2, 3))
    assert got.shape == (3, 4, 6)
    torch.testing.assert_close(got[:, :, :2], windows[0][:, :, :2])
    torch.testing.assert_close(got[:, :, 2:4], (windows[0][:, :, 2:] + windows[1][:, :, :2]) / 2)
    torch.testing.assert_close(got[:, :, 4:], windows[1][:, :, 2:])


def test_grids_that_are_no_multiples_are_resized_first():
    window = torch.randn(1, 2, 5, 7)
    got = stitch_windows(window, [Box(0, 0, 3, 3)], (3, 3), (3, 3))
    torch.testing.assert_close(got, F.interpolate(window, (6, 6), mode="bilinear", align_corners=False)[0])


def test_places_without_a_window_are_an_error():
    with pytest.raises(ValueError, match="lie in no window"):
        stitch_windows(torch.randn(1, 2, 2, 2), [Box(0, 0, 2, 2)], (2, 2), (2, 3))


def test_guidance_equals_its_equations():
    torch.manual_seed(0)
    values, attention = torch.randn(3, 5, 4), torch.rand(3, 5, 5)
    weights, threshold = guidance_weights(values, attention)
    cosines = torch.stack([F.normalize(v, dim=1) @ F.normalize(v, dim=1).T for v in values])
    expected = (1.2 * cosines.mean((0, 2))).clamp(max=0.9)
    kept = torch.where(cosines > expected[None, :, None], attention, torch.zeros(()))
    torch.testing.assert_close(threshold, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights, kept.mean(0) / kept.mean(0).sum(1, keepdim=True), atol=1e-6, rtol=1e-5)


def test_map_is_brought_to_the_guiding_grid():
    large, weights = torch.randn(2, 4, 6), torch.eye(6)
    small = F.interpolate(large[None], (2, 3), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(guide_map(large, weights, (2, 3)), small.flatten(1).T)


def test_one_window_without_guidance_is_proxyclip():
    model, image = trident(crop_size=(32, 32)), torch.randn(1, 3, 32, 32)
    proxy = build(ProxyCLIP, vfm=model.vfm)
    text = model.text_embeddings
    torch.testing.assert_close(model.row_logits(image, text), proxy.row_logits(image, text), atol=1e-5, rtol=1e-5)


def slow_window(model, slow, crop):
    """ProxyCLIP's arithmetic up to the output projection, (W, h, w): 3 x 3 patches of CLIP and of the vision model."""
    inputs, grid = slow.before_last(crop, model.clip.visual.positions((3, 3), "scale_factor", "count"))
    _, _, v = slow.qkv(slow.blocks[-1], inputs[-1])
    seen = model.vfm(change_statistics(crop[None], *model.statistics(), model.vfm.mean, model.vfm.std))[0]
    rows = F.normalize(seen.flatten(1).T, dim=1)
    z = 3.0 * (rows @ rows.T - 1.2 * (rows @ rows.T).mean())
    weights = z.masked_fill(z < 0, float("-inf")).softmax(1)
    return slow.out(slow.blocks[-1], [weights] * 4, v[:, 1:]).T.unflatten(1, grid)


@torch.no_grad()
def test_logits_equal_the_equations_from_windows_to_words():
    model, image = trident(guidance=SAM), torch.randn(1, 3, 40, 56)
    slow = SlowTower(model.clip.visual)
    total, count = torch.zeros(32, 5, 7), torch.zeros(5, 7)
    for top in (0, 16):
        for left in (0, 16, 32):
            crop = image[0, :, top : top + 24, left : left + 24]
            total[:, top // 8 : top // 8 + 3, left // 8 : left // 8 + 3] += slow_window(model, slow, crop)
            count[top // 8 : top // 8 + 3, left // 8 : left // 8 + 3] += 1
    guide = model.guidance
    seen = guide(change_statistics(image, *model.statistics(), guide.mean, guide.std))
    assert seen.grid == (3, 4)  # 46 x 64 of 64 x 64 pixels in patches of 16
    values, attention = seen.values[0], seen.attention[0]
    unit = values / values.norm(dim=-1, keepdim=True)
    cosines = torch.stack([head @ head.T for head in unit])
    kept = torch.zeros(12, 12)
    for i in range(12):
        threshold = min(0.9, 1.2 * float(cosines[:, i].mean()))
        for j in range(12):
            kept[i, j] = sum(attention[h, i, j] for h in range(2) if cosines[h, i, j] > threshold) / 2
    weights = kept / kept.sum(1, keepdim=True)
    small = F.interpolate((total / count)[None], (3, 4), mode="bilinear", align_corners=False)[0]
    rows = F.normalize(slow.finish(weights @ small.flatten(1).T), dim=1)
    expected = (rows @ model.text_embeddings.rows.T).T.unflatten(1, (3, 4))[None]
    torch.testing.assert_close(model.row_logits(image, model.text_embeddings), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("guidance", "grid"), [(None, (5, 6)), (SAM, (3, 4))])
def test_a_batch_gives_what_its_images_give(guidance, grid):
    model, images = trident(guidance=guidance), torch.randn(2, 3, 40, 48)
    text = model.text_embeddings
    together = model.row_logits(images, text)
    assert together.shape == (2, 5, *grid)
    alone = torch.cat([model.row_logits(image[None], text) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_halves_are_guided_for_themselves():
    model, image = trident(guidance=SAM, splits=2), torch.randn(1, 3, 32, 64)
    assert model.row_logits(image, model.text_embeddings).shape == (1, 5, 4, 8)
    with pytest.raises(ValueError, match="2 equal parts"):
        model.row_logits(torch.randn(1, 3, 32, 56), model.text_embeddings)


def test_whole_images_are_padded_to_patches():
    model = trident(guidance=SAM, test_cfg={"pad_multiple": 8})
    sample = model.predict(torch.randn(1, 3, 37, 45), [SegDataSample(metainfo={"ori_shape": (20, 25)})])[0]
    assert sample.pred_sem_seg.data.shape == (1, 20, 25)


def test_windows_off_the_patches_are_refused():
    with pytest.raises(ValueError, match="multiples of the patch of 8"):
        trident(stride=(12, 16))


def test_windows_and_guidance_are_printed_with_results():
    settings = trident(guidance=SAM, splits=2).harness_settings()
    assert settings["windows"] == "(24, 24) every (16, 16), spliced"
    assert settings["guidance"] == "factor 1.2, cap 0.9"
    assert settings["splits"] == "2"
    assert settings["vision model"] == "vit_base_patch16_224.dino (norm)"
    assert trident().harness_settings()["guidance"] == "off"
