"""Crops, flips and rotations, one by one and together."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cromss.placements import Placement, cut, cut_together, rotate


@pytest.fixture(scope="module")
def published(reference):
    arrays = np.load(reference / "j_augment.npz")
    image, mask = torch.from_numpy(arrays["img_hwc"]).permute(2, 0, 1), torch.from_numpy(arrays["mask"])[None]
    return arrays, image, mask


def keys(reference, pattern):
    names = np.load(reference / "j_augment.npz").files
    return [match for match in (re.fullmatch(pattern, name) for name in names) if match]


def test_rotations_match_published(reference, published):
    arrays, image, mask = published
    for match in keys(reference, r"rotate_(.+)__img"):
        degrees = float(match[1])
        turned = rotate(image, degrees).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(turned, arrays[match[0]], atol=0.03, err_msg=match[0])
        turned = rotate(mask, degrees, "nearest")[0].numpy()
        assert (turned != arrays[f"rotate_{match[1]}__mask"]).mean() <= 0.005, match[0]


def test_flips_match_published(published):
    arrays, image, mask = published
    for name, axes in (("0", (-2,)), ("1", (-1,)), ("-1", (-2, -1))):
        at = [Placement(64, 64, flip=axes)]
        np.testing.assert_array_equal(cut(image[None], at)[0].permute(1, 2, 0), arrays[f"flip_d{name}__img"])
        np.testing.assert_array_equal(cut(mask[None], at, "nearest")[0, 0], arrays[f"flip_d{name}__mask"])


def test_crops_match_published(reference, published):
    arrays, image, _ = published
    for match in keys(reference, r"(crop48_.+)__img"):
        left, top, right, bottom = arrays[f"{match[1]}__coords"].tolist()
        piece = cut(image[None], [Placement(bottom - top, right - left, top, left)])[0]
        np.testing.assert_array_equal(piece.permute(1, 2, 0), arrays[match[0]])


@pytest.mark.parametrize("size", [(40, 40), (31, 40), (40, 17)])
@pytest.mark.parametrize("channels", [1, 8, 13])
@pytest.mark.parametrize("degrees", [30.0, -77.3, 90.0])
def test_rotation_equals_grid_sampling(size, channels, degrees):
    height, width = size
    image = torch.rand(channels, height, width, generator=torch.manual_seed(0))
    cos, sin, aspect = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), (height - 1) / (width - 1)
    turn = torch.tensor([[[cos, -sin * aspect, 0], [sin / aspect, cos, 0]]], dtype=torch.float32)
    grid = F.affine_grid(turn, [1, 1, height, width], align_corners=True)
    expected = F.grid_sample(image[None], grid, padding_mode="reflection", align_corners=True)[0]
    torch.testing.assert_close(rotate(image, degrees), expected, atol=2e-5, rtol=0)


def some_placements(count, side):
    rng = np.random.default_rng(0)
    flips, degrees = ((), (-2,), (-1,), (-2, -1)), (0.0, 0.0, 33.0, -90.0, 71.5)
    return [
        Placement(side, side - 3, *rng.integers(0, 5, 2).tolist(), flips[i % len(flips)], degrees[i % len(degrees)])
        for i in range(count)
    ]


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_samples_cut_together_are_those_cut_one_by_one(channels):
    image = torch.randint(0, 256, (20, channels, 40, 37), dtype=torch.uint8, generator=torch.manual_seed(0))
    at = some_placements(20, 32)
    for mode, divisor, tolerance in (("bilinear", 255, 1e-5), ("nearest", 1, 0)):
        one_by_one = torch.stack([cut(image[i : i + 1], at[i : i + 1], mode, divisor)[0] for i in range(20)])
        together = cut_together(image, at, mode, divisor)
        assert together.dtype == torch.float32
        torch.testing.assert_close(together, one_by_one, atol=tolerance, rtol=0)
    unturned = [i for i, one in enumerate(at) if not one.degrees]
    assert torch.equal(cut_together(image, at, divisor=255)[unturned], cut(image, at, divisor=255)[unturned])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_both_ways_give_single_precision(dtype):
    image = torch.arange(2 * 36).view(2, 1, 6, 6).to(dtype)
    at = [Placement(4, 4, 1, 2), Placement(4, 4, flip=(-1,))]
    for way in (cut, cut_together):
        assert way(image, at).dtype == torch.float32
        assert torch.equal(way(image, at)[0, 0], image[0, 0, 1:5, 2:6].float())
