"""SatMAE: its tokens by hand, and those of the published code."""

import pytest
import torch
from vits import TINY, check_contract, fill, noise

from cromss.models.positions import grid_sincos, sincos
from cromss.models.satmae import BANDS, GROUPS, SatMAE

pytestmark = pytest.mark.usefixtures("one_thread")


def build(**changes) -> SatMAE:
    return SatMAE(**TINY | {"channel_embed_dim": 16, "img_size": 32, "patch_size": 8} | changes)


def test_groups_are_those_of_the_paper():
    named = [[BANDS[index] for index in group] for group in GROUPS]
    assert named == [["B2", "B3", "B4", "B8"], ["B5", "B6", "B7", "B8A"], ["B11", "B12"]]


@torch.no_grad()
def test_tokens_by_hand():
    vit, images = fill(build()), noise(10, 32, 32)
    tokens = vit._pos_embed(vit.patch_embed(images))
    assert tokens.shape == (1, 1 + 3 * 16, 64)
    state = vit.state_dict()
    of_class = torch.cat([state["pos_embed"][0, 0], state["channel_cls_embed"][0, 0]])
    torch.testing.assert_close(tokens[0, 0], state["cls_token"][0, 0] + of_class)
    for index, group in enumerate(GROUPS):
        kernel, bias = (state[f"patch_embed.{index}.proj.{name}"] for name in ("weight", "bias"))
        for i in range(4):
            for j in range(4):
                patch = torch.stack([images[0, band, 8 * i : 8 * (i + 1), 8 * j : 8 * (j + 1)] for band in group])
                told = torch.cat([state["pos_embed"][0, 1 + 4 * i + j], state["channel_embed"][0, index]])
                by_hand = (kernel * patch).sum((1, 2, 3)) + bias + told
                torch.testing.assert_close(tokens[0, 1 + 16 * index + 4 * i + j], by_hand, atol=2e-5, rtol=0)


@pytest.mark.parametrize("band", range(10))
@torch.no_grad()
def test_a_band_reaches_its_own_group_and_no_other(band):
    vit, images = fill(build()), noise(10, 32, 32)
    before = vit.patch_embed(images)
    images[:, band] += 1
    changed = [not torch.equal(old, new) for old, new in zip(before[0], vit.patch_embed(images)[0], strict=True)]
    assert changed == [band in group for group in GROUPS]


PUBLISHED = {
    0: [0.353341, 1.064503, -0.276853, 1.919406],
    1: [-0.121146, 0.548036, 0.920238, 0.802847],
    -1: [-1.205339, 0.339018, 0.770082, 0.589172],
}
"""Token -> first channels of the output of the published network, weights and image as here.

`models_vit_group_channels.py` of sustainlab-group/SatMAE (b182634); that of techmn/satmae_pp (2fb9fbe) is the same
network. Ran under timm 1.0.31, all normalised tokens of the last block.
"""


@torch.no_grad()
def test_output_is_the_published_one():
    tokens = fill(build()).forward_features(noise(10, 32, 32))
    for index, expected in PUBLISHED.items():
        torch.testing.assert_close(tokens[0, index, :4], torch.tensor(expected), atol=1e-5, rtol=0)


@torch.no_grad()
def test_position_embeddings_follow_the_grid_and_group_embeddings_do_not():
    vit = build().eval()
    for embed in vit.patch_embed:
        embed.proj.weight.zero_()
        embed.proj.bias.zero_()
    told = vit._pos_embed(vit.patch_embed(noise(10, 64, 24)))[0, 1:].unflatten(0, (3, 8, 3))
    for index in range(3):
        torch.testing.assert_close(told[index, ..., 48:], vit.channel_embed[0, index].expand(8, 3, 16))
        torch.testing.assert_close(told[index, ..., :48], told[0, ..., :48])
    known = vit.pos_embed[0, 1:].T.reshape(1, 48, 4, 4)
    expected = torch.nn.functional.interpolate(known, size=(8, 3), mode="bicubic", antialias=True)
    torch.testing.assert_close(told[0, ..., :48], expected[0].permute(1, 2, 0))


def test_embeddings_start_as_sines_and_cosines():
    vit = build()
    torch.testing.assert_close(vit.pos_embed[0, 1:], grid_sincos((4, 4), 48))
    torch.testing.assert_close(vit.channel_embed[0], sincos(torch.arange(3), 16))
    assert not vit.pos_embed[0, 0].any()
    assert not vit.channel_cls_embed.any()


def test_contract_of_encoders():
    check_contract(build(), num_groups=3)
    check_contract(build(groups=((1,), (0, 2)), in_chans=3), num_groups=2)


def test_shapes_of_the_published_files():
    with torch.device("meta"):
        vit = SatMAE(num_classes=0, global_pool="", depth=24, num_heads=16)
    shapes = {key: tuple(value.shape) for key, value in vit.state_dict().items() if not key.startswith("blocks.")}
    assert shapes == {
        "cls_token": (1, 1, 1024),
        "pos_embed": (1, 145, 768),
        "channel_embed": (1, 3, 256),
        "channel_cls_embed": (1, 1, 256),
        "patch_embed.0.proj.weight": (1024, 4, 8, 8),
        "patch_embed.0.proj.bias": (1024,),
        "patch_embed.1.proj.weight": (1024, 4, 8, 8),
        "patch_embed.1.proj.bias": (1024,),
        "patch_embed.2.proj.weight": (1024, 2, 8, 8),
        "patch_embed.2.proj.bias": (1024,),
        "norm.weight": (1024,),
        "norm.bias": (1024,),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_chans": 13}, r"satmae: takes the 10 bands B2 \.\.\. B12 \(--n_channels 10\), got 13"),
        ({"in_chans": 9}, r"\(--n_channels 10\), got 9"),
        ({"in_chans": 2}, r"\(--n_channels 10\), got 2"),
        ({"groups": ((0, 1), (2,)), "in_chans": 4}, "satmae: takes the 3 bands of its groups, got 4"),
        ({"groups": ((0, 1), (1, 2)), "in_chans": 3}, "satmae: groups must hold each band from 0 on once"),
        ({"groups": ((0, 1), (3,)), "in_chans": 3}, "groups must hold each band"),
        ({"groups": ((0, 1), ()), "in_chans": 2}, "groups must hold each band .* none be empty"),
        ({"groups": ((-1, 0),), "in_chans": 2}, "groups must hold each band"),
        ({"groups": (), "in_chans": 0}, "groups must hold each band"),
        ({"channel_embed_dim": 0}, "channel_embed_dim 0 must be even, and leave a multiple of 4 of the 64 channels"),
        ({"channel_embed_dim": 64}, "channel_embed_dim 64 must"),
        ({"channel_embed_dim": 256}, "channel_embed_dim 256 must"),
        ({"channel_embed_dim": 15}, "channel_embed_dim 15 must"),
        ({"channel_embed_dim": 14}, "channel_embed_dim 14 must"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)
