import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.methods.training_free.proxy import (
    build_source,
    change_statistics,
    cosine_matrix,
    masked_softmax,
    proxy_attention,
)
from mmseg_plugins.methods.training_free.proxyclip import ProxyCLIP
from tests.methods.training_free.reference import PREPROCESSOR, SlowTower, build

VFM = {"model": "vit_base_patch8_224.dino", "options": {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32}}


def proxyclip(**options):
    return build(ProxyCLIP, vfm={**VFM, "options": {**VFM["options"], "patch_size": 4}}, **options)


def test_weights_equal_their_equation_image_by_image():
    features = torch.randn(2, 6, 3, 4)
    got = proxy_attention(cosine_matrix(features), beta=1.2, gamma=3.0)
    for image, weights in zip(features, got, strict=True):
        rows = F.normalize(image.flatten(1).T, dim=1)
        c = rows @ rows.T
        z = 3.0 * (c - 1.2 * c.mean())
        z[z < 0] = float("-inf")
        torch.testing.assert_close(weights, z.softmax(1), atol=1e-6, rtol=1e-5)


def test_uniform_image_attends_to_itself_instead_of_nothing():
    weights = proxy_attention(cosine_matrix(torch.ones(1, 3, 2, 2)))
    torch.testing.assert_close(weights, torch.eye(4)[None])
    nothing = masked_softmax(torch.zeros(1, 2, 2), torch.tensor([[[False, False], [True, False]]]))
    torch.testing.assert_close(nothing, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))


@torch.no_grad()
def test_logits_equal_the_equations():
    model, image = proxyclip(), torch.randn(1, 3, 32, 24)
    slow = SlowTower(model.clip.visual)
    inputs, grid = slow.before_last(image[0], model.clip.visual.positions((4, 3), "scale_factor", "count"))
    _, _, v = slow.qkv(slow.blocks[-1], inputs[-1])
    features = model.vfm(change_statistics(image, *model.statistics(), model.vfm.mean, model.vfm.std))
    rows = F.normalize(features[0].flatten(1).T, dim=1)
    c = rows @ rows.T
    z = 3.0 * (c - 1.2 * c.mean())
    weights = z.masked_fill(z < 0, float("-inf")).softmax(1)
    patches = v[:, 1:].transpose(1, 2).unflatten(2, grid)
    large = F.interpolate(patches, (8, 6), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    tokens = slow.finish(slow.out(slow.blocks[-1], [weights] * 4, large))
    expected = (F.normalize(tokens, dim=-1) @ model.text_embeddings.rows.T).T.unflatten(1, (8, 6))[None]
    got = model.row_logits(image, model.text_embeddings)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_batch_gives_what_its_images_give():
    model, images = proxyclip(), torch.randn(3, 3, 32, 40)
    text = model.text_embeddings
    single = torch.cat([model.row_logits(image[None], text) for image in images])
    torch.testing.assert_close(model.row_logits(images, text), single, atol=1e-5, rtol=1e-5)


def test_padding_is_zero_for_clip_and_not_for_the_vision_model():
    model = proxyclip(data_preprocessor=PREPROCESSOR)
    seen = model.vfm_image(torch.zeros(1, 3, 2, 2))[0, :, 0, 0]
    mean, std = torch.tensor(PREPROCESSOR["mean"]), torch.tensor(model.vfm.std)
    torch.testing.assert_close(seen, (mean - torch.tensor(model.vfm.mean)) / std, atol=1e-5, rtol=1e-5)


def test_vision_model_is_loaded_with_the_image_tower_and_once(tmp_path):
    source = build_source(VFM)
    path = tmp_path / "dino.pth"
    torch.save(source.trunk.state_dict(), path)
    model = build(ProxyCLIP, vfm={**VFM, "pretrained": str(path)})
    model.ensure_weights("visual")
    assert torch.equal(model.vfm.trunk.cls_token, source.trunk.cls_token)
    path.unlink()
    model.ensure_weights("visual")


def test_unknown_sources_and_towers_are_refused():
    with pytest.raises(KeyError, match="timm, clip"):
        build_source({"type": "radio", "model": "x"})
    numbers = {"embed_dim": 16, "image_resolution": 64, "vision_layers": (1, 1, 1, 1), "vision_width": 8}
    with pytest.raises(ValueError, match="ResNet"):
        build(ProxyCLIP, vfm=VFM, numbers={**numbers, "vision_heads": 4, "vision_patch_size": None})
