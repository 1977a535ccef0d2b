"""DOFA: its kernels and tokens by hand, and those of torchgeo's module."""

import math

import pytest
import torch
from vits import TINY, check_contract, fill, noise

from cromss.models.dofa import Dofa, wavelengths_of
from cromss.models.positions import grid_sincos
from cromss.sensors import S1, S2, S2_SUBSETS

pytestmark = pytest.mark.usefixtures("one_thread")

S2_UM = (0.665, 0.56, 0.49, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19)


def build(wavelengths=S2_UM, **changes) -> Dofa:
    shape = {"img_size": 48, "patch_size": 16, "in_chans": len(wavelengths)}
    return Dofa(wavelengths=wavelengths, **TINY | shape | changes)


@torch.no_grad()
def test_kernels_by_hand():
    """The generator written out: sines, residual layer, one post-norm transformer layer, linear maps."""
    wavelengths = (0.49, 2.19)
    embed = fill(build(wavelengths, patch_size=4)).patch_embed
    state = embed.state_dict()

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        unit = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return unit * state[f"{name}.weight"] + state[f"{name}.bias"]

    angles = [[1000 * um / 10000 ** (k / 64) for k in range(64)] for um in wavelengths]
    waves = torch.tensor([[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles])
    waves = waves + linear(linear(waves, "fclayer.w1").relu(), "fclayer.w2").relu()
    tokens = torch.cat([state["weight_generator.weight_tokens"], waves, state["weight_generator.bias_token"]])
    layer = "weight_generator.transformer_encoder.layers.0"
    projection = tokens @ state[f"{layer}.self_attn.in_proj_weight"].T + state[f"{layer}.self_attn.in_proj_bias"]
    query, key, value = (part.reshape(-1, 4, 32).transpose(0, 1) for part in projection.split(128, dim=1))
    mixed = (query @ key.mT / math.sqrt(32)).softmax(-1) @ value
    tokens = norm(
        tokens + linear(mixed.transpose(0, 1).reshape(-1, 128), f"{layer}.self_attn.out_proj"), f"{layer}.norm1"
    )
    hidden = torch.nn.functional.gelu(linear(tokens, f"{layer}.linear1"))
    tokens = norm(tokens + linear(hidden, f"{layer}.linear2"), f"{layer}.norm2")
    by_hand = linear(tokens[128:130] + waves, "weight_generator.fc_weight").reshape(2, 4, 4, 64)
    kernels, bias = embed.kernels()
    assert kernels.shape == (64, 2, 4, 4)
    torch.testing.assert_close(kernels, by_hand.permute(3, 0, 1, 2) / 100, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(bias, linear(tokens[130], "weight_generator.fc_bias") / 100, atol=2e-6, rtol=1e-4)


@torch.no_grad()
def test_tokens_of_a_non_square_image_by_hand():
    """The convolution pads by one, so patches start a pixel up and left."""
    vit, images = fill(build((5.405, 5.405))), noise(2, 32, 48)
    embedded = vit.patch_embed(images)
    assert embedded.shape == (1, 2, 3, 64)
    kernels, bias = vit.patch_embed.kernels()
    padded = torch.zeros(2, 34, 50)
    padded[:, 1:33, 1:49] = images[0]
    for i in range(2):
        for j in range(3):
            patch = padded[:, 16 * i : 16 * (i + 1), 16 * j : 16 * (j + 1)]
            by_hand = (kernels * patch).sum((1, 2, 3)) + bias
            torch.testing.assert_close(embedded[0, i, j], by_hand, atol=1e-5, rtol=0)


TORCHGEO = {
    S2_UM: {
        0: [0.26238, 0.009579, 0.968663, 1.400023],
        1: [-0.179793, -0.91903, 1.253916, 2.791981],
        -1: [0.000264, -1.169592, 3.619311, 3.737773],
    },
    (5.405, 5.405): {
        0: [0.336222, 0.215654, 0.195879, 2.60291],
        1: [-1.922739, 0.049738, 0.480931, 1.330832],
        -1: [-0.330872, 0.231468, 0.036774, 1.357289],
    },
}
"""Wavelengths -> token -> first channels after the last block of torchgeo 0.8.1's DOFA, weights and image as here."""


def last_tokens(vit: Dofa, images: torch.Tensor) -> torch.Tensor:
    """Class token and patches after the last block, not normalised."""
    ((patches, class_token),) = vit.forward_intermediates(
        images, indices=1, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )
    return torch.cat([class_token, patches], dim=1)


@pytest.mark.parametrize("wavelengths", TORCHGEO)
@torch.no_grad()
def test_output_is_that_of_torchgeo(wavelengths):
    tokens = last_tokens(fill(build(wavelengths)), noise(len(wavelengths), 48, 48))
    for index, expected in TORCHGEO[wavelengths].items():
        torch.testing.assert_close(tokens[0, index, :4], torch.tensor(expected), atol=1e-5, rtol=0)


@torch.no_grad()
def test_tokens_are_normalised_at_last():
    vit, images = fill(build()), noise(9, 48, 48)
    tokens = last_tokens(vit, images)
    unit = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(vit.forward_features(images), unit * vit.norm.weight + vit.norm.bias)


@torch.no_grad()
def test_bands_may_come_in_any_order_with_their_wavelengths():
    order = [4, 0, 8, 2, 1, 7, 3, 6, 5]
    images = noise(9, 32, 32)
    expected = fill(build()).forward_features(images)
    shuffled = fill(build([S2_UM[index] for index in order])).forward_features(images[:, order])
    torch.testing.assert_close(shuffled, expected, atol=1e-4, rtol=1e-4)
    told_wrong = fill(build()).forward_features(images[:, order])
    assert not torch.allclose(told_wrong, expected, atol=1e-2)


@pytest.mark.parametrize("num_bands", [1, 2, 13])
def test_contract_of_encoders(num_bands):
    check_contract(build(S2.wavelengths[:num_bands]), num_groups=1)


def test_the_same_weights_for_any_bands():
    shapes = [{key: tuple(value.shape) for key, value in build(um).state_dict().items()} for um in (S2_UM, (5.405,))]
    assert shapes[0] == shapes[1]
    own = {key.removeprefix("patch_embed.") for key in shapes[0] if key.startswith("patch_embed.")}
    generator = "weight_generator"
    expected = {f"{generator}.weight_tokens", f"{generator}.bias_token"}
    for module in (f"{generator}.fc_weight", f"{generator}.fc_bias", "fclayer.w1", "fclayer.w2"):
        expected |= {f"{module}.weight", f"{module}.bias"}
    assert {key for key in own if "transformer_encoder" not in key} == expected
    assert {key for key in shapes[0] if "." not in key} == {"cls_token", "pos_embed"}
    assert {key for key in shapes[0] if key.startswith("norm")} == {"norm.weight", "norm.bias"}
    assert shapes[0]["patch_embed.weight_generator.fc_weight.weight"] == (16 * 16 * 64, 128)


def test_starts_as_published():
    torch.manual_seed(0)
    vit = build()
    torch.testing.assert_close(vit.pos_embed[0, 1:], grid_sincos((3, 3), 64))
    assert not vit.pos_embed[0, 0].any()
    embed = vit.patch_embed
    for name in ("weight_generator.fc_weight", "weight_generator.fc_bias", "fclayer.w1", "fclayer.w2"):
        layer = embed.get_submodule(name)
        assert (layer.bias == 0.01).all()
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.9 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("modality", "bands", "expected"),
    [
        ("s1", None, (3.75, 3.75)),
        ("s1", S1.bands, (3.75, 3.75)),
        ("s1", ("VH",), (3.75,)),
        ("s2", None, S2.wavelengths),
        ("s2", S2_SUBSETS[92], S2_UM),
        ("s2", ("B12", "B02"), (2.19, 0.49)),
        ("ortho", ("R", "G", "B"), None),
        ("ortho", None, None),
        ("landsat", None, None),
    ],
)
def test_wavelengths_of_bands(modality, bands, expected):
    assert wavelengths_of(modality, bands) == expected


def test_wavelengths_of_an_unknown_band():
    with pytest.raises(ValueError, match="Sentinel-2 has no band 'B13'"):
        wavelengths_of("s2", ("B13",))


@pytest.mark.parametrize(
    ("wavelengths", "message"),
    [
        (None, r"dofa: wavelengths of the 4 bands are needed in um \(--wavelengths\), got none"),
        ((), "the 4 bands .* got 0"),
        ((0.5,), "the 4 bands .* got 1"),
        ((0.4, 0.5, 0.6, 0.7, 0.8), "the 4 bands .* got 5"),
        ((0.4, 0.5, 0.0, 0.7), "0 to 100, got 0.4 0.5 0.0 0.7"),
        ((0.4, 0.5, -0.6, 0.7), "0 to 100, got 0.4 0.5 -0.6 0.7"),
        ((0.4, float("nan"), 0.6, 0.7), "0 to 100, got 0.4 nan 0.6 0.7"),
        ((400.0, 500.0, 600.0, 700.0), "0 to 100, got 400.0 500.0 600.0 700.0"),
        ((0.4, float("inf"), 0.6, 0.7), "0 to 100, got 0.4 inf 0.6 0.7"),
    ],
)
def test_bad_wavelengths_are_refused_in_one_line(wavelengths, message):
    with pytest.raises(ValueError, match=message) as caught:
        Dofa(wavelengths=wavelengths, **TINY | {"img_size": 32, "patch_size": 16, "in_chans": 4})
    assert "\n" not in str(caught.value)
