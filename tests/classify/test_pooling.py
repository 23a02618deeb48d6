import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.classify.features import ClipMaskFeatures, encode_images, features_of_stage
from mmseg_plugins.classify.pooling import MaskPoolingClassifier, attention_pool_masks, masks_on_grid, valid_masks
from mmseg_plugins.towers.config import ClipConfig, VisionConfig
from mmseg_plugins.towers.model import Clip
from mmseg_plugins.towers.resnet import AttentionPool


def test_masks_are_resized_before_they_are_binarised():
    torch.manual_seed(0)
    dense, masks = torch.randn(1, 6, 3, 5), torch.randn(1, 4, 24, 40)
    masks[0, 1] = -1.0
    features = ClipMaskFeatures(dense=dense, project=lambda vectors: vectors * 2)
    inside = F.interpolate(masks, (3, 5), mode="bilinear", align_corners=False) > 0
    expected = torch.stack([2 * dense[0][:, mask].sum(1) / mask.sum().clamp(min=1) for mask in inside[0]])
    got = MaskPoolingClassifier()(features, masks)
    torch.testing.assert_close(got[0], expected)
    assert (got[0, 1] == 0).all()
    assert valid_masks(masks, features.grid)[0].tolist() == inside[0].flatten(1).any(1).tolist()


def test_features_may_be_brought_to_sharp_masks_instead():
    torch.manual_seed(0)
    dense, masks = torch.randn(1, 6, 2, 2), torch.full((1, 1, 64, 64), -1.0)
    masks[0, 0, 3, 40] = 1.0
    features = ClipMaskFeatures(dense=dense, project=lambda vectors: vectors)
    large = F.interpolate(dense, (64, 64), mode="bilinear", align_corners=False)
    got = MaskPoolingClassifier(resize="features")(features, masks)
    torch.testing.assert_close(got[0, 0], large[0, :, 3, 40])
    sharp = (127 * masks).to(torch.int8)
    torch.testing.assert_close(MaskPoolingClassifier(resize="features")(features, sharp), got)
    assert (MaskPoolingClassifier()(features, masks) == 0).all()
    assert (MaskPoolingClassifier()(features, sharp) == 0).all()
    with pytest.raises(ValueError, match="resize"):
        MaskPoolingClassifier(resize="both")


def test_half_precision_masks_are_resized_in_float32():
    masks = torch.randn(1, 2, 16, 16).half()
    assert masks_on_grid(masks, (4, 4)).dtype == torch.float32
    dense = torch.randn(1, 3, 4, 4).half()
    features = ClipMaskFeatures(dense=dense, project=lambda vectors: vectors)
    assert MaskPoolingClassifier()(features, masks - 100).isfinite().all()


def slow_attention_pool(pool, dense, inside):
    """One mask, one head at a time, from the words of the paper's code."""
    width, heads = dense.shape[0], pool.heads
    positions = pool.positional_embedding
    spatial = positions[1:].T.reshape(1, width, *pool.grid)
    spatial = F.interpolate(spatial, dense.shape[1:], mode="bilinear", align_corners=False)[0]
    tokens = (dense + spatial).flatten(1).T[inside.flatten()]
    query = pool.q_proj(dense.flatten(1).mean(1) + positions[0])
    keys, values = pool.k_proj(tokens), pool.v_proj(tokens)
    size = width // heads
    parts = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        weights = (keys[:, cut] @ query[cut] / size**0.5).softmax(0)
        parts.append(weights @ values[:, cut])
    return pool.c_proj(torch.cat(parts))


@torch.no_grad()
def test_attention_pool_attends_inside_each_mask():
    torch.manual_seed(0)
    pool = AttentionPool((4, 4), width=16, heads=2, embed_dim=6)
    dense, masks = torch.randn(2, 16, 3, 5), torch.randn(2, 3, 12, 20)
    masks[1, 2] = -1.0
    got = attention_pool_masks(pool, dense, masks)
    inside = masks_on_grid(masks, (3, 5)) > 0
    for b in range(2):
        for q in range(3):
            if (b, q) != (1, 2):
                torch.testing.assert_close(got[b, q], slow_attention_pool(pool, dense[b], inside[b, q]))
    torch.testing.assert_close(got[1, 2], pool.c_proj.bias)


@torch.no_grad()
@pytest.mark.parametrize("family", ["resnet", "vit", "convnext", "pyramid", "timm"])
def test_every_tower_has_features_to_pool_from(family):
    torch.manual_seed(0)
    vision = {
        "resnet": VisionConfig(family="resnet", width=8, layers=(1, 1, 1, 1), heads=4, image_size=(64, 64)),
        "vit": VisionConfig(family="vit", width=16, layers=2, heads=2, patch=8, image_size=(64, 64)),
        "convnext": VisionConfig(
            family="convnext", timm_name="convnext_base", timm_pool="",
            timm_options={"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 16)},
        ),
        "pyramid": VisionConfig(family="pyramid", timm_name="fastvit_mci0", timm_proj=None),
        "timm": VisionConfig(
            family="timm", timm_name="vit_tiny_patch16_224", timm_pool="token", image_size=(64, 64),
            timm_options={"embed_dim": 16, "depth": 2, "num_heads": 2},
        ),
    }[family]  # fmt: skip
    clip = Clip(ClipConfig(embed_dim=12, vision=vision), text=False).eval()
    encoded = encode_images(clip, torch.randn(2, 3, 64, 96))
    features = encoded.features
    assert features.joint().shape == (2, 12, *features.grid)
    plain = family in ("vit", "timm")
    assert (encoded.stages is None) == plain
    assert (encoded.trunk is None) != plain
    if not plain:
        assert [64 // stage.shape[2] for stage in encoded.stages] == [4, 8, 16, 32]
    masks = torch.randn(2, 5, 16, 24)
    assert MaskPoolingClassifier()(features, masks).shape == (2, 5, 12)
    alone = MaskPoolingClassifier()(features.image(1), masks[1:])
    torch.testing.assert_close(alone[0], MaskPoolingClassifier()(features, masks)[1])
    whole = MaskPoolingClassifier(attention_pool=False)(features, torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(whole[:, 0], features.project(features.dense.mean((2, 3))))


@torch.no_grad()
def test_a_resnets_whole_image_mask_gives_almost_its_image_embedding():
    """CLIP's own pool also attends to the mean token; nothing else differs on the trained grid."""
    torch.manual_seed(0)
    pool = AttentionPool((2, 2), width=8, heads=2, embed_dim=4)
    dense = torch.randn(1, 8, 2, 2)
    tokens = dense.flatten(2).transpose(1, 2) + pool.positional_embedding[1:]
    query = dense.flatten(2).mean(2, keepdim=True).transpose(1, 2) + pool.positional_embedding[:1]
    torch.testing.assert_close(attention_pool_masks(pool, dense, torch.ones(1, 1, 2, 2)), pool.attend(query, tokens))


def test_compressed_masks_pool_themselves_but_not_under_attention():
    class Masks:
        def pool(self, features):
            return features.mean((2, 3))[:, None]

    dense = torch.randn(1, 8, 2, 2)
    features = ClipMaskFeatures(dense=dense, project=lambda vectors: vectors)
    torch.testing.assert_close(MaskPoolingClassifier()(features, Masks())[0, 0], dense[0].mean((1, 2)))
    features.attention_pool = AttentionPool((2, 2), width=8, heads=2, embed_dim=4)
    with pytest.raises(ValueError, match="attention_pool=False"):
        MaskPoolingClassifier()(features, Masks())


def test_options_of_a_transformer_are_refused_for_convolutions():
    from mmseg_plugins.towers.dense import DenseOptions

    vision = VisionConfig(family="resnet", width=8, layers=(1, 1, 1, 1), heads=4, image_size=(64, 64))
    clip = Clip(ClipConfig(embed_dim=12, vision=vision), text=False).eval()
    with pytest.raises(ValueError, match="convolutional tower"):
        encode_images(clip, torch.randn(1, 3, 64, 64), DenseOptions(rule="qq"))
    assert features_of_stage(clip.visual, torch.randn(1, 256, 2, 2)).attention_pool is clip.visual.attnpool
