import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmseg_plugins.masks.oracle import OracleProposals
from mmseg_plugins.masks.sam.proposals import SamProposals
from mmseg_plugins.methods.training_free.branches import choose_spatial_blocks
from mmseg_plugins.methods.training_free.corrclip import CorrCLIP
from mmseg_plugins.methods.training_free.region_sources import ColourRegions, FolderRegions, MaskRegions
from mmseg_plugins.methods.training_free.regions import (
    label_by_region,
    merge_regions,
    region_attention,
    resize_regions,
)
from tests.methods.training_free.reference import PREPROCESSOR, SlowTower, build

VFM = {
    "model": "vit_base_patch8_224.dino", "feature": "qk",
    "options": {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 4},
}  # fmt: skip


def corrclip(**options):
    return build(CorrCLIP, vfm=VFM, data_preprocessor=PREPROCESSOR, **options)


def test_alike_regions_join_through_others():
    angle = torch.tensor([0.0, 0.0, 0.5, 1.0, 3.0])  # numbers 0 (rest), 1, 2, 3, 4
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    merged = merge_regions(torch.tensor([[0, 1, 2, 3, 4]]), features, eps=0.2)
    assert merged.tolist() == [[0, 10000, 10000, 10000, 10001]]


def test_one_region_is_left_alone():
    regions = torch.tensor([[0, 7], [7, 0]])
    assert torch.equal(merge_regions(regions, F.normalize(torch.randn(4, 3), dim=1)), regions)


def test_scope_equals_a_loop_over_pairs():
    torch.manual_seed(0)
    regions, rows = torch.tensor([2, 5, 5, 2, 9, 2]), F.normalize(torch.randn(6, 4), dim=1)
    c = rows @ rows.T
    allowed = torch.zeros(6, 6, dtype=torch.bool)
    for i in range(6):
        for j in range(6):
            if 2 in (regions[i], regions[j]):
                allowed[i, j] = c[i, j] > c.mean()
            else:
                allowed[i, j] = regions[i] == regions[j]
    expected = (4 * c).masked_fill(~allowed, float("-inf")).softmax(1)
    torch.testing.assert_close(region_attention(regions, c), expected, atol=1e-6, rtol=1e-5)


def test_regions_vote_and_the_rest_does_not():
    labels = torch.tensor([[1, 2, 2, 3], [1, 1, 0, 2]])
    regions = torch.tensor([[0, 4, 4, 4], [0, 0, 4, 8]])
    assert label_by_region(labels, regions).tolist() == [[1, 2, 2, 2], [1, 1, 2, 2]]
    even = label_by_region(torch.tensor([[3, 1, 0]]), torch.tensor([[5, 5, 1]]))
    assert even.tolist() == [[1, 1, 0]]


def test_large_region_numbers_stay_exact():
    regions = torch.tensor([[2**40, 2**40 + 1]])
    assert resize_regions(regions, (2, 4)).tolist() == [[2**40, 2**40, 2**40 + 1, 2**40 + 1]] * 2


@pytest.mark.parametrize(
    ("depth", "blocks"), [(12, range(5, 10)), (24, range(10, 22)), (32, range(2, 30)), (6, range(2, 4))]
)
def test_spatial_branch_averages_the_published_blocks(depth, blocks):
    assert choose_spatial_blocks(depth) == blocks


def test_towers_too_shallow_for_the_spatial_branch_are_named():
    with pytest.raises(ValueError, match="cannot average"):
        choose_spatial_blocks(4)


@torch.no_grad()
def test_three_branches_equal_their_equations():
    model, image = corrclip(), torch.randn(1, 3, 32, 24)
    regions, seen = torch.randint(0, 4, (1, 8, 6)), torch.randn(1, 5, 8, 6)
    got = model.region_features(image, regions, seen)
    slow = SlowTower(model.clip.visual)
    inputs, grid = slow.before_last(image[0], model.clip.visual.positions((4, 3), "scale_factor", "count"))
    rows = F.normalize(seen[0].flatten(1).T, dim=1)
    merged = merge_regions(regions[0], rows)
    weights, block = region_attention(merged.flatten(), rows @ rows.T), slow.blocks[-1]

    def branch(x):
        _, _, v = slow.qkv(block, x)
        patches = v[:, 1:].transpose(1, 2).unflatten(2, grid)
        large = F.interpolate(patches, (8, 6), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
        return slow.out(block, [weights] * 4, large)

    small = resize_regions(merged, grid)
    semantic = torch.empty(48, 32)
    for number in small.unique():
        state = inputs[0][:1]
        for each, x in zip(slow.blocks, inputs, strict=True):
            keys = torch.cat([x[:1], x[1:][small.flatten() == number]])
            both = torch.cat([state, keys])
            q, k, v = slow.qkv(each, both)
            state = state + slow.out(each, slow.weights(q[:, :1], k[:, 1:]), v[:, 1:])
            state = state + slow.mlp(each, state)
        semantic[resize_regions(small, (8, 6)).flatten() == number] = state[0]
    norm = model.clip.visual.ln_post
    trunk = norm(branch(inputs[-1])) + norm(branch(sum(inputs[6:11]) / 5)) + 0.5 * norm(semantic)
    torch.testing.assert_close(got.pixels[0].flatten(1).T, trunk @ model.clip.visual.proj, atol=1e-5, rtol=1e-5)


def halves(image, sample):
    regions = torch.ones(image.shape[1:], dtype=torch.int64)
    regions[:, image.shape[2] // 2 :] = 2
    regions[0] = 0
    return regions


SLIDE = {"mode": "slide", "crop_size": (24, 24), "stride": (16, 16), "pad_multiple": 28, "logit_scale": 4.0}


def test_every_region_gets_one_label_through_windows_and_padding():
    model = corrclip(regions=halves, test_cfg=SLIDE)
    sample = model.predict(torch.randn(1, 3, 40, 48), [SegDataSample(metainfo={"ori_shape": (40, 48)})])[0]
    labels = sample.pred_sem_seg.data[0, 1:]
    assert labels[:, :24].unique().numel() == labels[:, 24:].unique().numel() == 1


@pytest.mark.parametrize(("factor", "shift"), [(1, -1), (3, -20), (1, 2**40)], ids=["rest is -1", "negative", "large"])
def test_only_the_order_of_region_numbers_counts(factor, shift):
    def quarters(image, sample):
        regions = halves(image, sample)
        regions[20:] += 2
        return regions

    model, image = corrclip(regions=quarters, test_cfg=SLIDE), torch.randn(1, 3, 40, 48)
    expected = model.predict(image, [SegDataSample()])[0].pred_sem_seg.data
    model.regions = lambda *given: factor * quarters(*given) + shift
    assert torch.equal(model.predict(image, [SegDataSample()])[0].pred_sem_seg.data, expected)
    assert expected.unique().numel() > 1


def test_regions_are_printed_with_results():
    assert corrclip(regions=halves).harness_settings()["regions"] == "halves"
    settings = corrclip(regions=ColourRegions(), vote=False).harness_settings()
    assert settings["regions"] == "ColourRegions(radii 6 and 40, step 24, least_share 0.01)"
    assert settings["vote"] == "False"
    masks = corrclip(regions={"type": "MaskRegions", "proposals": {"type": "OracleProposals"}}).harness_settings()
    assert masks["regions"] == "OracleProposals(segments, overlaps smallest, unclaimed none, min_area 0.01)"
    assert settings["vision model"] == "vit_base_patch8_224.dino (qk)"


def test_a_batch_gives_what_its_images_give():
    model, images = corrclip(regions=halves, test_cfg=SLIDE), torch.randn(4, 3, 40, 48)
    meta = {"ori_shape": (30, 37)}
    together = model.predict(images, [SegDataSample(metainfo=meta) for _ in images])
    for image, sample in zip(images, together, strict=True):
        alone = model.predict(image[None], [SegDataSample(metainfo=meta)])[0]
        assert torch.equal(alone.pred_sem_seg.data, sample.pred_sem_seg.data)


def test_padding_is_a_region_of_its_own():
    model, seen = corrclip(), {}
    model.region_features = lambda pixels, regions, features: seen.update(regions=regions)
    model.vfm_features = lambda pixels: None
    channel = torch.tensor([[0.0, 1.0], [0.0, 6.0]])
    model.dense_features(torch.cat([torch.randn(1, 3, 2, 2), channel[None, None]], dim=1))
    assert seen["regions"].tolist() == [[[10000, 0], [10000, 5]]]


def test_sources_that_are_missing_and_flipped_images_are_refused():
    with pytest.raises(ValueError, match="no source of regions"):
        corrclip().predict(torch.randn(1, 3, 32, 32))
    flipped = SegDataSample(metainfo={"flip": True, "flip_direction": "horizontal"})
    with pytest.raises(ValueError, match="flipped"):
        corrclip(regions=halves).predict(torch.randn(1, 3, 32, 32), [flipped])


def annotated(*masks):
    sample = SegDataSample(metainfo={"ori_shape": tuple(masks[0].shape)})
    sample.gt_instances = InstanceData(masks=torch.stack(masks), labels=torch.zeros(len(masks), dtype=torch.int64))
    return sample


def box(top, bottom, left, right):
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(("rule", "part"), [({}, 2), ({"overlaps": "keep"}, 1)])
def test_masks_are_numbered_and_what_none_of_them_holds_is_in_no_region(rule, part):
    whole, inner, aside = box(0, 6, 0, 4), box(1, 3, 1, 3), box(0, 2, 5, 8)
    source = MaskRegions({"type": "OracleProposals", **rule})
    expected = whole.long() + 3 * aside.long()
    expected[inner] = part
    regions = source(torch.zeros(3, 12, 16), annotated(whole, inner, aside))
    assert torch.equal(regions, expected), "at the resolution of the annotation"


def test_true_segments_each_get_one_label_at_the_original_size():
    model = corrclip(regions=MaskRegions({"type": "OracleProposals"}), test_cfg=SLIDE)
    left, right = box(0, 6, 0, 5), box(0, 6, 5, 8)
    rest = box(0, 1, 0, 8)
    sample = model.predict(torch.randn(1, 3, 40, 48), [annotated(left & ~rest, right & ~rest)])[0]
    labels = sample.pred_sem_seg.data[0, 1:]
    assert labels[:, :5].unique().numel() == labels[:, 5:].unique().numel() == 1


def test_semantic_maps_give_a_region_for_each_class():
    truth = torch.tensor([[255, 7, 7], [3, 3, 7]])
    sample = SegDataSample(gt_sem_seg=PixelData(data=truth[None]))
    source = MaskRegions(OracleProposals(annotation="classes"))
    assert source(torch.zeros(3, 4, 6), sample).tolist() == [[0, 2, 2], [1, 1, 2]]


def test_without_a_mask_everything_is_in_no_region():
    model = corrclip(regions=MaskRegions(OracleProposals()), test_cfg=SLIDE)
    nothing = annotated(box(0, 0, 0, 0))
    nothing.gt_instances = nothing.gt_instances[:0]
    assert model.predict(torch.randn(1, 3, 40, 48), [nothing])[0].pred_sem_seg.data.shape == (1, 6, 8)


SAM = {
    "type": "SamProposals",
    "model": {"image_size": 32, "patch": 8, "width": 16, "depth": 2, "prompt_width": 16, "decoder_mlp": 16},
    "automatic": {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0},
}


def test_masks_of_sam_are_regions_by_configuration():
    pytest.importorskip("segment_anything")
    model = corrclip(regions={"type": "MaskRegions", "proposals": SAM}, test_cfg=SLIDE)
    image = torch.rand(3, 40, 48) * 255
    regions = model.regions(image, SegDataSample())
    picture = image.round().byte().permute(1, 2, 0).contiguous().numpy()
    options = {name: value for name, value in SAM.items() if name != "type"}
    found = SamProposals(**options).generator("cpu").automatic(picture).masks.decode()
    expected = torch.zeros(40, 48, dtype=torch.int64)
    for mask in sorted(found, key=lambda mask: int(mask.sum()), reverse=True):  # small ones are painted last
        expected[mask] = expected.max() + 1
    assert len(found) > 1
    assert torch.equal(regions == 0, expected == 0)
    pairs = {(int(a), int(b)) for a, b in zip(regions.flatten(), expected.flatten(), strict=True)}
    assert len(pairs) == len(regions.unique()) == len(expected.unique()), "the same areas under other numbers"
    normalised = (image - model.data_preprocessor.mean) / model.data_preprocessor.std
    labels = model.predict(normalised[None], [SegDataSample()])[0].pred_sem_seg.data[0]
    assert all(labels[regions == number].unique().numel() == 1 for number in regions.unique()[1:])
    assert not any("sam" in key or "regions" in key for key in model.state_dict())


def test_regions_need_masks_from_images_alone():
    decoder = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"Identity come otherwise.*SamProposals"):
        MaskRegions(decoder)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".png"])
def test_region_maps_are_read_by_the_stem_of_the_image(suffix, tmp_path):
    content, path = np.array([[0, 1], [300, 2]], dtype=np.uint16), tmp_path / f"cat{suffix}"
    {
        ".npz": lambda: np.savez(path, instance_mask=content),
        ".npy": lambda: np.save(path, content),
        ".png": lambda: cv2.imwrite(str(path), content),
    }[suffix]()
    sample = SegDataSample(metainfo={"img_path": "somewhere/cat.jpg"})
    assert FolderRegions(tmp_path)(torch.zeros(3, 2, 2), sample).tolist() == content.tolist()
    with pytest.raises(FileNotFoundError, match="dog"):
        FolderRegions(tmp_path)(torch.zeros(3, 2, 2), SegDataSample(metainfo={"img_path": "dog.jpg"}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 2, 3), dtype=np.int64), r"cat\.npy holds no region map.*int64 of shape \(2, 2, 3\)"),
        (np.full((2, 2), 0.5), r"cat\.npy holds no region map.*float64 of shape"),
        (b"damaged", r"cat\.npy cannot be read"),
    ],
    ids=["colours", "fractions", "damaged"],
)
def test_files_that_hold_no_region_map_are_named(content, message, tmp_path):
    path = tmp_path / "cat.npy"
    np.save(path, content) if isinstance(content, np.ndarray) else path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        FolderRegions(tmp_path)(torch.zeros(3, 2, 2), SegDataSample(metainfo={"img_path": "cat.jpg"}))


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), torch.zeros(1, 4, 4).long(), torch.zeros(4, 4)])
def test_a_source_that_returns_something_else_is_named(wrong):
    def constant(image, sample):
        return wrong

    with pytest.raises(ValueError, match=r"expected constant to return a region map, an integer tensor \(h, w\)"):
        corrclip(regions=constant).predict(torch.randn(1, 3, 32, 32))


def test_areas_of_one_colour_are_regions_and_specks_are_not():
    image = torch.zeros(3, 40, 40)
    image[0, :20] = 250
    image[2, 20:] = 250
    image[:, 30, 30] = 120
    regions = ColourRegions(spatial_radius=1, colour_radius=1)(image, SegDataSample())
    assert len({int(regions[5, 5]), int(regions[35, 5]), 0}) == 3
    assert regions[30, 30] == 0
