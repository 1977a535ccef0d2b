"""ScaleMAE: its tokens by hand, and those of torchgeo's module."""

import pytest
import torch
from vits import CONTRACT, TINY, check_contract, fill, noise

from cromss.models.positions import grid_sincos
from cromss.models.scalemae import ScaleMAE

pytestmark = pytest.mark.usefixtures("one_thread")


def build(**changes) -> ScaleMAE:
    return ScaleMAE(**TINY | {"img_size": 48, "patch_size": 16, "in_chans": 3} | changes)


@torch.no_grad()
def test_tokens_of_a_non_square_image_by_hand():
    vit, images = fill(build(resolution=2.5)), noise(3, 32, 48)
    tokens = vit._pos_embed(vit.patch_embed(images))
    assert tokens.shape == (1, 1 + 2 * 3, 64)
    torch.testing.assert_close(tokens[:, 0], vit.cls_token[:, 0])
    kernel, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
    positions = grid_sincos((2, 3), 64, 2.5)
    for i in range(2):
        for j in range(3):
            patch = images[0, :, 16 * i : 16 * (i + 1), 16 * j : 16 * (j + 1)]
            by_hand = (kernel * patch).sum((1, 2, 3)) + bias + positions[3 * i + j]
            torch.testing.assert_close(tokens[0, 1 + 3 * i + j], by_hand, atol=2e-5, rtol=0)


TORCHGEO = {
    1.0: {
        0: [0.433662, 1.48785, 0.228053, 1.111986],
        1: [-1.692009, 1.087922, 0.036207, 1.962928],
        -1: [1.259048, -0.229649, -0.64117, 0.105507],
    },
    10.0: {
        0: [0.421612, 1.488678, 0.239042, 1.154021],
        1: [-1.703241, 1.060518, 0.03705, 1.977877],
        -1: [1.267428, -0.860147, -0.749512, -0.152366],
    },
}
"""Resolution -> token -> first channels of the output of torchgeo 0.8.1's ScaleMAE, weights and image as here."""


@pytest.mark.parametrize("resolution", TORCHGEO)
@torch.no_grad()
def test_output_is_that_of_torchgeo(resolution):
    tokens = fill(build(resolution=resolution)).forward_features(noise(3, 48, 48))
    for index, expected in TORCHGEO[resolution].items():
        torch.testing.assert_close(tokens[0, index, :4], torch.tensor(expected), atol=1e-5, rtol=0)


def test_contract_of_encoders():
    check_contract(build(), num_groups=1)


def test_files_fit_without_position_embeddings():
    vit = build()
    assert vit.pos_embed is None
    timm_keys = {"cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    assert {key for key in vit.state_dict() if not key.startswith("blocks.")} == timm_keys


@torch.no_grad()
def test_half_precision_has_full_precision_positions():
    vit = fill(build(resolution=10.0))
    images = noise(3, 48, 48)
    with torch.autocast("cpu", torch.bfloat16):
        half = vit._pos_embed(vit.patch_embed(images))
    torch.testing.assert_close(half.float(), vit._pos_embed(vit.patch_embed(images)), atol=0.05, rtol=0)


def without_patches(**changes) -> ScaleMAE:
    vit = build(**changes).eval()
    torch.nn.init.zeros_(vit.patch_embed.proj.weight)
    torch.nn.init.zeros_(vit.patch_embed.proj.bias)
    return vit


@torch.no_grad()
def test_positions_are_not_rounded_in_mixed_precision():
    vit = without_patches(resolution=10.0)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = vit.patch_embed(noise(3, 48, 80))
        tokens = vit._pos_embed(embedded)
    assert embedded.dtype == torch.bfloat16
    assert torch.equal(tokens[0, 1:], grid_sincos((3, 5), 64, 10.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_a_network_of_another_precision_keeps_it(dtype):
    vit, images = without_patches().to(dtype), noise(3, 48, 80).to(dtype)
    tokens = vit._pos_embed(vit.patch_embed(images))
    torch.testing.assert_close(tokens[0, 1:], grid_sincos((3, 5), 64).to(dtype))
    assert vit(images).dtype == dtype


@pytest.mark.parametrize("resolution", [0, -1.0, float("nan"), float("inf")])
def test_bad_resolution_is_refused_in_one_line(resolution):
    with pytest.raises(ValueError, match="scalemae: the resolution must be positive, in metres a pixel") as caught:
        build(resolution=resolution)
    assert "\n" not in str(caught.value)


def test_images_may_have_any_size_whatever_is_asked_for():
    assert build(**CONTRACT | {"dynamic_img_size": False}).dynamic_img_size
