import pytest
import torch

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from mmseg_plugins.towers.guidance import SamGuidance

SIZES = {"img_size": 64, "embed_dim": 24, "depth": 3, "num_heads": 2, "global_attn_indexes": (2,), "window_size": 2}


def guidance(**options):
    torch.manual_seed(0)
    model = SamGuidance(options=SIZES, **options).eval()
    for name, parameter in model.encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.data.normal_()  # zero after initialisation
    return model


@torch.no_grad()
def test_attention_times_values_is_what_the_block_computes():
    model, seen = guidance(), {}
    image = torch.randn(2, 3, 64, 64)
    last = model.encoder.blocks[-1].attn
    last.register_forward_hook(lambda _module, inputs, output: seen.update(output=output))
    model.encoder(image)
    found = model(image)
    assert found.grid == (4, 4)
    context = (found.attention @ found.values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(last.proj(context), seen["output"].flatten(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.attention.sum(-1), torch.ones(2, 2, 16), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_places_that_show_the_image_are_handed_over():
    found = guidance()(torch.randn(1, 3, 50, 100))  # comes to 32 x 64
    assert found.grid == (2, 4)
    assert found.values.shape == (1, 2, 8, 12)
    assert (found.attention.sum(-1) < 1).all()


def test_weights_come_out_of_a_whole_file(tmp_path):
    source, path = guidance(), tmp_path / "sam.pth"
    state = {f"image_encoder.{key}": value for key, value in source.encoder.state_dict().items()}
    torch.save({**state, "mask_decoder.iou_token.weight": torch.zeros(1, 4)}, path)
    target = SamGuidance(pretrained=str(path), options=SIZES)
    target.ensure_weights()
    assert torch.equal(target.encoder.pos_embed, source.encoder.pos_embed)
    torch.save({"mask_decoder.iou_token.weight": torch.zeros(1, 4)}, path)
    with pytest.raises(ValueError, match="image encoder"):
        SamGuidance(pretrained=str(path), options=SIZES).ensure_weights()
