import pytest
import torch
import torch.nn.functional as F

from mmseg_plugins.towers.attention import gaussian_neighbourhood
from mmseg_plugins.towers.config import VisionConfig
from mmseg_plugins.towers.dense import DenseOptions, Steering
from mmseg_plugins.towers.position import resize_positions
from mmseg_plugins.towers.vit import DenseViT
from tests.towers.slow_vit import SlowViT, softmax_rows

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def image():
    return torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def slow(small_vit):
    config = small_vit.config
    return SlowViT(
        dict(small_vit.state_dict()), heads=config.heads, layers=config.layers, patch=config.patch, act=config.act
    )


def start(slow, vit, image, mode="size"):
    """Input of the first block, image by image."""
    grid = (image.shape[-2] // vit.stride, image.shape[-1] // vit.stride)
    positions = resize_positions(vit.positional_embedding, vit.grid, grid, mode)
    return [slow.embed(one, positions) for one in image]


def until_last(slow, x):
    for block in range(slow.layers - 1):
        x = slow.ordinary(x, block)
    return x


def tokens_of(vit, image, **options):
    return vit.forward_dense(image, DenseOptions(taps=("tokens",), **options)).extras["tokens"]


def value(q, k, v, _):
    return [torch.eye(len(rows)) for rows in v]


def pairs(*names):
    def rule(q, k, v, bias):
        members = {"q": q, "k": k, "v": v}
        scale = q[0].shape[1] ** -0.5
        total = [torch.zeros(len(q[0]), len(q[0])) for _ in q]
        for first, second in names:
            for head, (a, b) in enumerate(zip(members[first], members[second], strict=True)):
                scores = a @ b.T * scale + (0 if bias is None else bias)
                total[head] = total[head] + softmax_rows(scores)
        return total

    return rule


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"rule": "value"}, value),
        ({"rule": "qk"}, pairs("qk")),
        ({"rule": "qq"}, pairs("qq")),
        ({"rule": "kk"}, pairs("kk")),
        ({"rule": "vv"}, pairs("vv")),
        ({"rule": "qq+kk"}, pairs("qq", "kk")),
        ({"rule": "qq+kk+vv"}, pairs("qq", "kk", "vv")),
        ({"rule": "value", "residual": False, "mlp": False}, value),
        ({"rule": "qq", "residual": False, "mlp": False}, pairs("qq")),
        ({"rule": "qq+kk", "mlp": False}, pairs("qq", "kk")),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_replaced_attention_equals_the_slow_block(small_vit, slow, image, options, rule):
    switches = {name: options[name] for name in ("residual", "mlp") if name in options}
    wanted = []
    for x in start(slow, small_vit, image):
        x = until_last(slow, x)
        wanted.append(slow.tail(slow.changed(x, slow.layers - 1, rule, **switches)))
    torch.testing.assert_close(tokens_of(small_vit, image, **options), torch.stack(wanted), **CLOSE)


def test_neighbourhood_prior_is_added_to_the_scores_of_the_patches(small_vit, slow, image):
    rows, columns = 5, 3
    prior = torch.zeros(16, 16)
    for a in range(15):
        for b in range(15):
            distance = (a // columns - b // columns) ** 2 + (a % columns - b % columns) ** 2
            prior[1 + a, 1 + b] = torch.exp(torch.tensor(-distance / (2 * 1.5**2)))
    torch.testing.assert_close(gaussian_neighbourhood((rows, columns), 1.5)[0], prior, **CLOSE)
    wanted = [
        slow.tail(slow.changed(until_last(slow, x), 3, pairs("kk"), bias=prior, residual=False, mlp=False))
        for x in start(slow, small_vit, image)
    ]
    got = tokens_of(small_vit, image, rule="kk", gaussian_std=1.5, residual=False, mlp=False)
    torch.testing.assert_close(got, torch.stack(wanted), **CLOSE)


def test_distance_alone_takes_its_strength_from_the_lengths_of_q_and_k(small_vit, slow, image):
    prior = gaussian_neighbourhood((5, 3), 2.0)[0]

    def rule(q, k, v, _):
        size = q[0].shape[1]
        lengths = [(a.norm(dim=1)[:, None] * b.norm(dim=1)[None]).mean() for a, b in zip(q, k, strict=True)]
        return [softmax_rows(sum(lengths) / len(lengths) * size**-0.5 * prior)] * len(q)

    wanted = [slow.tail(slow.changed(until_last(slow, x), 3, rule)) for x in start(slow, small_vit, image)]
    got = tokens_of(small_vit, image, rule="neighbourhood", gaussian_std=2.0)
    torch.testing.assert_close(got, torch.stack(wanted), **CLOSE)


def test_gem_runs_a_second_path_with_normalised_self_similarities(small_vit, slow, image):
    def rule(q, k, v, normed):
        inverse = q[0].shape[1] ** -0.5 * normed.norm(dim=1).mean()
        weights = []
        for members in zip(v, k, q, strict=True):
            total = 0
            for z in members:
                for _ in range(2):
                    unit = z / z.norm(dim=1, keepdim=True)
                    z = softmax_rows(inverse * unit @ unit.T) @ unit
                unit = z / z.norm(dim=1, keepdim=True)
                total = total + softmax_rows(inverse * unit @ unit.T)
            weights.append(total / 3)
        return weights

    wanted = []
    for x in start(slow, small_vit, image, "antialias"):
        stream, _ = slow.two_paths(slow.ordinary(x, 0), 1, rule, keep_class_token=False)
        wanted.append(slow.tail(stream))
    got = tokens_of(
        small_vit,
        image,
        rule="vv+kk+qq",
        combine="mean",
        stream="parallel",
        first_block=-3,
        unit_rows=True,
        temperature="norm",
        iterations=2,
        keep_class_token=False,
        position_resize="antialias",
    )
    torch.testing.assert_close(got, torch.stack(wanted), **CLOSE)


def test_a_number_as_temperature_is_the_factor_of_the_scores(small_vit, slow, image):
    def rule(q, k, v, _):
        return [softmax_rows(7.5 * F.normalize(a, dim=1) @ F.normalize(a, dim=1).T) for a in k]

    wanted = [slow.tail(slow.changed(until_last(slow, x), 3, rule)) for x in start(slow, small_vit, image)]
    got = tokens_of(small_vit, image, rule="kk", unit_rows=True, temperature=7.5)
    torch.testing.assert_close(got, torch.stack(wanted), **CLOSE)


def test_surgery_path_takes_the_class_token_of_the_ordinary_path(small_vit, slow, image):
    def rule(q, k, v, _):
        return pairs("vv")(q, k, v, None)

    wanted, ordinary = [], []
    for x in start(slow, small_vit, image, "bilinear"):
        stream, unchanged = slow.two_paths(slow.ordinary(x, 0), 1, rule)
        wanted.append(slow.tail(stream))
        ordinary.append(slow.tail(unchanged))
    options = DenseOptions(
        rule="vv", stream="parallel", first_block=1, position_resize="bilinear", taps=("tokens", "tokens_ordinary")
    )
    features = small_vit.forward_dense(image, options)
    torch.testing.assert_close(features.extras["tokens"], torch.stack(wanted), **CLOSE)
    torch.testing.assert_close(features.extras["tokens_ordinary"], torch.stack(ordinary), **CLOSE)
    torch.testing.assert_close(features.cls, torch.stack(ordinary)[:, 0], **CLOSE)


def test_excel_sums_the_weights_over_heads_after_what_is_added_to_each(small_vit, slow, image):
    added = torch.rand(15, 15, generator=torch.Generator().manual_seed(2))
    padded = F.pad(added, (1, 0, 1, 0))

    def rule(q, k, v, _):
        weights = [w / 3 + padded for w in pairs("qq", "kk", "vv")(q, k, v, None)]
        return [sum(weights)] * len(weights)

    wanted = [
        slow.tail(slow.two_paths(slow.ordinary(slow.ordinary(x, 0), 1), 2, rule)[0])
        for x in start(slow, small_vit, image)
    ]
    options = DenseOptions(
        rule="qq+kk+vv", combine="mean", heads="sum", stream="parallel", first_block=2, taps=("tokens",)
    )
    steering = Steering(modify_weights=lambda weights, _: weights + padded)
    got = small_vit.forward_dense(image, options, steering=steering).extras["tokens"]
    torch.testing.assert_close(got, torch.stack(wanted), **CLOSE)


def test_mean_attention_of_earlier_blocks_and_changed_scores_reach_the_last_block(small_vit, slow, image):
    label = torch.rand(16, 16, generator=torch.Generator().manual_seed(3))
    wanted = []
    for x in start(slow, small_vit, image):
        collected = []
        for block in range(3):
            if block in (1, 2):
                collected.append(slow.ordinary_weights(x, block))
            x = slow.ordinary(x, block)
        mean = [sum(heads) / 2 for heads in zip(*collected, strict=True)]

        def rule(q, k, v, _, mean=mean):
            scale = q[0].shape[1] ** -0.5
            weights = [softmax_rows(1.5 * (0.7 * a @ a.T * scale + 0.3 * label)) for a in q]
            return [2.0 * (0.6 * w + 0.4 * m) for w, m in zip(weights, mean, strict=True)]

        wanted.append(slow.tail(slow.changed(x, 3, rule, residual=False, mlp=False)))
    steering = Steering(
        modify_scores=lambda scores, _: 1.5 * (0.7 * scores + 0.3 * label),
        modify_weights=lambda weights, context: 2.0 * (0.6 * weights + 0.4 * context.mean_attention),
    )
    options = DenseOptions(rule="qq", residual=False, mlp=False, mean_blocks=(1, 2), taps=("tokens",))
    got = small_vit.forward_dense(image, options, steering=steering).extras["tokens"]
    torch.testing.assert_close(got, torch.stack(wanted), **CLOSE)


def test_an_affinity_moves_the_values_to_its_grid(small_vit, slow, image):
    affinity = torch.rand(2, 60, 60, generator=torch.Generator().manual_seed(4))
    wanted = []
    for x, weights in zip(start(slow, small_vit, image), affinity, strict=True):
        _, _, v = slow.qkv(until_last(slow, x), 3)
        context = []
        for head in v:
            grid = head[1:].T.reshape(1, -1, 5, 3)
            enlarged = F.interpolate(grid, (10, 6), mode="bilinear", align_corners=False)
            context.append(weights @ enlarged[0].flatten(1).T)
        wanted.append(slow.tail(slow.output(context, 3)))
    features = small_vit.forward_dense(
        image,
        DenseOptions(residual=False, mlp=False),
        steering=Steering(affinity=affinity, affinity_grid=(10, 6)),
    )
    assert features.grid == (10, 6)
    torch.testing.assert_close(features.pixels.flatten(2).transpose(1, 2), torch.stack(wanted), **CLOSE)


def test_handed_over_query_key_value_go_through_the_output_projection(small_vit, slow, image):
    features = small_vit.forward_dense(image, DenseOptions(qkv=True))
    for index, x in enumerate(start(slow, small_vit, image)):
        for got, part in zip(
            (features.query, features.key, features.value), slow.qkv(until_last(slow, x), 3), strict=True
        ):
            torch.testing.assert_close(got[index], slow.output(part, 3)[1:], **CLOSE)


def test_taps_give_the_tokens_inside_the_blocks(small_vit, slow, image):
    taps = ("block/0", "middle/1", "ln_2/-3", "attention/2", "block/-1")
    features = small_vit.forward_dense(image, DenseOptions(taps=taps))
    assert set(features.extras) == set(taps)
    for index, x in enumerate(start(slow, small_vit, image)):
        first = slow.ordinary(x, 0)
        second = slow.ordinary(first, 1)
        torch.testing.assert_close(features.extras["block/0"][index], first, **CLOSE)
        middle = features.extras["middle/1"][index]
        torch.testing.assert_close(middle + slow.mlp(slow.norm(middle, 1, 2), 1), second, **CLOSE)
        torch.testing.assert_close(features.extras["ln_2/-3"][index], slow.norm(middle, 1, 2), **CLOSE)
        weights = torch.stack(slow.ordinary_weights(second, 2))
        torch.testing.assert_close(features.extras["attention/2"][index], weights, **CLOSE)
        last = slow.ordinary(slow.ordinary(second, 2), 3)
        torch.testing.assert_close(features.extras["block/-1"][index], last, **CLOSE)


def test_attention_tap_multiplies_v_as_the_fused_path_does(small_vit, image):
    for options in ({"rule": "qq+kk"}, {"rule": "kk", "gaussian_std": 3.0}, {"rule": "vv+kk", "combine": "mean"}):
        plain = small_vit.forward_dense(image, DenseOptions(**options))
        tapped = small_vit.forward_dense(image, DenseOptions(taps=("attention",), **options))
        torch.testing.assert_close(plain.pixels, tapped.pixels, **CLOSE)
        rows = tapped.extras["attention"].sum(-1)
        torch.testing.assert_close(rows, torch.full_like(rows, 2.0 if options["rule"] == "qq+kk" else 1.0), **CLOSE)


def test_ordinary_attention_in_the_last_block_is_the_unchanged_tower(small_vit, image):
    features = small_vit.forward_dense(image, DenseOptions(rule="qk", ordinary=True))
    torch.testing.assert_close(features.trunk, features.patch_tokens, **CLOSE)
    torch.testing.assert_close(features.cls, small_vit.encode_image(image), **CLOSE)


def test_unchanged_tower_is_run_only_when_asked_for(small_vit, image):
    features = small_vit.forward_dense(image)
    assert features.cls is None
    assert features.patch_tokens is None
    assert features.query is None


def test_a_batch_is_its_images_one_by_one(small_vit, image):
    options = DenseOptions(rule="vv+kk+qq", unit_rows=True, temperature="norm", stream="parallel", first_block=1)
    together = small_vit.forward_dense(image, options).pixels
    single = torch.cat([small_vit.forward_dense(one[None], options).pixels for one in image])
    torch.testing.assert_close(together, single, **CLOSE)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 50), (64, 7)])
def test_any_size_is_taken_and_padded_at_the_corner(small_vit, size):
    features = small_vit.forward_dense(torch.zeros(1, 3, *size))
    grid = (-(-size[0] // 8), -(-size[1] // 8))
    assert features.grid == grid
    assert features.pixels.shape == (1, 10, *grid)
    assert features.trunk.shape == (1, 24, *grid)


def test_floor_padding_drops_the_remainder(small_vit):
    image = torch.randn(1, 3, 37, 30)
    floor = small_vit.forward_dense(image, DenseOptions(padding="floor"))
    torch.testing.assert_close(floor.pixels, small_vit.forward_dense(image[..., :32, :24]).pixels)
    with pytest.raises(ValueError, match="smaller than one patch of 8"):
        small_vit.forward_dense(image[..., :5], DenseOptions(padding="floor"))


def test_mean_pooled_tower_embeds_the_mean_of_its_patches(small_config, draw, image):
    from dataclasses import replace

    for after in (False, True):
        config = replace(small_config, pool="avg", norm_after_pool=after)
        vit = draw(DenseViT(config, embed_dim=10)).eval()
        last = vit.forward_dense(image, DenseOptions(taps=("block/-1",))).extras["block/-1"][:, 1:]
        wanted = vit.ln_post(last.mean(1)) if after else vit.ln_post(last).mean(1)
        torch.testing.assert_close(vit.encode_image(image), wanted @ vit.proj, **CLOSE)


def test_tower_without_projection_gives_its_trunk(small_config, draw, image):
    vit = draw(DenseViT(small_config, embed_dim=0)).eval()
    features = vit.forward_dense(image)
    assert vit.embed_dim == 24
    torch.testing.assert_close(features.pixels, features.trunk)


@torch.enable_grad()
def test_gradients_flow_through_dense_features(small_config, draw, image):
    vit = draw(DenseViT(small_config, embed_dim=10))
    vit.forward_dense(image).pixels.square().sum().backward()
    without = {name for name, value in vit.named_parameters() if value.grad is None}
    assert without == set()
    assert vit.positional_embedding.grad.abs().sum() > 0


@torch.enable_grad()
def test_a_frozen_tower_can_carry_gradients_of_its_input(small_vit, image):
    small_vit.requires_grad_(False)
    image.requires_grad_(True)
    small_vit.forward_dense(image).pixels.sum().backward()
    assert image.grad.abs().sum() > 0


def test_half_precision_is_finite(small_vit, image):
    features = small_vit.to(torch.bfloat16).forward_dense(image.bfloat16(), DenseOptions(rule="qq+kk", qkv=True))
    assert features.pixels.dtype == torch.bfloat16
    assert features.pixels.isfinite().all()


def test_resized_positions_follow_new_weights(small_vit, image):
    before = small_vit.forward_dense(image).pixels
    torch.testing.assert_close(before, small_vit.forward_dense(image).pixels, atol=0, rtol=0)
    small_vit.positional_embedding.mul_(-1)
    assert not torch.allclose(before, small_vit.forward_dense(image).pixels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "qz"}, "Unknown attention rule 'qz'"),
        ({"stream": "beside"}, "`stream`"),
        ({"heads": "max"}, "`heads`"),
        ({"combine": "product"}, "`combine`"),
        ({"position_resize": "nearest"}, "`position_resize`"),
        ({"padding": "reflect"}, "`padding`"),
        ({"temperature": "warm"}, "`temperature`"),
        ({"gaussian_std": 0}, "`gaussian_std`"),
        ({"iterations": -1}, "`iterations`"),
    ],
)
def test_wrong_switches_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        DenseOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_block": 4}, "first_block 4 lies outside this tower of 4 blocks"),
        ({"mean_blocks": (9,)}, "mean_blocks 9 lies outside"),
        ({"taps": ("ln_3/1",)}, "Unknown tap 'ln_3/1'"),
        ({"taps": ("block/7",)}, "lies outside this tower"),
        ({"rule": "neighbourhood"}, "set gaussian_std"),
        ({"rule": "qq", "mean_blocks": (3,), "heads": "sum"}, "before the first changed block"),
    ],
)
def test_switches_that_do_not_fit_the_tower_are_refused(small_vit, image, options, message):
    with pytest.raises(ValueError, match=message):
        small_vit.forward_dense(image, DenseOptions(**options))


def test_an_affinity_that_does_not_fit_is_refused(small_vit, image):
    with pytest.raises(ValueError, match=r"\(B, M, M\)"):
        Steering(affinity=torch.rand(1, 9, 9), affinity_grid=(2, 4))
    steering = Steering(affinity=torch.rand(2, 4, 4), affinity_grid=(2, 2))
    with pytest.raises(ValueError, match="residual=False"):
        small_vit.forward_dense(image, DenseOptions(), steering=steering)
    with pytest.raises(ValueError, match="first_block=-1"):
        small_vit.forward_dense(image, DenseOptions(first_block=0, residual=False), steering=steering)


def test_a_patch_side_is_needed():
    with pytest.raises(ValueError, match=r"VisionConfig\.patch"):
        DenseViT(VisionConfig(), embed_dim=8)
