"""Crops, flips and rotations, one by one and together."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cromss.placements import Placement, cut, cut_masks, cut_together, near_crops, rotate, rotated_mask


@pytest.fixture(scope="module")
def published(reference):
    arrays = np.load(reference / "j_augment.npz")
    image, mask = torch.from_numpy(arrays["img_hwc"]).permute(2, 0, 1), torch.from_numpy(arrays["mask"])
    return arrays, image, mask


def keys(reference, pattern):
    names = np.load(reference / "j_augment.npz").files
    return [match for match in (re.fullmatch(pattern, name) for name in names) if match]


def rotated(image, degrees):
    planes = list(image.float().numpy().copy())
    rotate(planes, degrees)
    return torch.from_numpy(np.stack(planes))


def cut_one(image, at):
    return cut({"image": image[None]}, [at])["image"][0]


def test_rotations_match_published(reference, published):
    arrays, image, mask = published
    for match in keys(reference, r"rotate_(.+)__img"):
        degrees = float(match[1])
        turned = rotated(image, degrees).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(turned, arrays[match[0]], atol=0.03, err_msg=match[0])
        turned = rotated_mask(mask, degrees).numpy()
        assert (turned != arrays[f"rotate_{match[1]}__mask"]).mean() <= 0.005, match[0]


def test_flips_match_published(published):
    arrays, image, mask = published
    for name, axes in (("0", (-2,)), ("1", (-1,)), ("-1", (-2, -1))):
        at = Placement(64, 64, flip=axes)
        np.testing.assert_array_equal(cut_one(image, at).permute(1, 2, 0), arrays[f"flip_d{name}__img"])
        np.testing.assert_array_equal(cut_masks(mask[None], [at])[0], arrays[f"flip_d{name}__mask"])


def test_crops_match_published(reference, published):
    arrays, image, _ = published
    for match in keys(reference, r"(crop48_.+)__img"):
        left, top, right, bottom = arrays[f"{match[1]}__coords"].tolist()
        piece = cut_one(image, Placement(bottom - top, right - left, top, left))
        np.testing.assert_array_equal(piece.permute(1, 2, 0), arrays[match[0]])


@pytest.mark.parametrize("size", [(40, 40), (31, 40), (40, 17)])
@pytest.mark.parametrize("channels", [1, 8, 35])
@pytest.mark.parametrize("degrees", [30.0, -77.3, 90.0])
def test_rotation_equals_grid_sampling(size, channels, degrees):
    height, width = size
    image = torch.rand(channels, height, width, generator=torch.manual_seed(0))
    cos, sin, aspect = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), (height - 1) / (width - 1)
    turn = torch.tensor([[[cos, -sin * aspect, 0], [sin / aspect, cos, 0]]], dtype=torch.float32)
    grid = F.affine_grid(turn, [1, 1, height, width], align_corners=True)
    expected = F.grid_sample(image[None], grid, padding_mode="reflection", align_corners=True)[0]
    torch.testing.assert_close(rotated(image, degrees), expected, atol=2e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid")
@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_lines_of_pixels_rotate_along_themselves(size):
    image = torch.arange(5.0)[: max(size)].reshape(1, 1, *size)
    at = [Placement(*size, degrees=60.0)]
    turned = cut({"image": image}, at)["image"]
    expected = torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]) if max(size) > 1 else torch.zeros(1)
    torch.testing.assert_close(turned.flatten(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(cut_together(image, at), turned, atol=1e-5, rtol=0)
    assert cut_masks(image[:, 0].long(), at).shape == (1, *size)


def some_placements(count, side):
    """Sides are even: at 90 degrees, pixels of others come from between two, and which is taken is not told."""
    rng = np.random.default_rng(0)
    flips, degrees = ((), (-2,), (-1,), (-2, -1)), (0.0, 0.0, 33.0, -90.0, 71.5)
    return [
        Placement(side, side - 4, *rng.integers(0, 5, 2).tolist(), flips[i % len(flips)], degrees[i % len(degrees)])
        for i in range(count)
    ]


def test_masks_are_rotated_to_the_nearest_pixel():
    mask = torch.randint(0, 9, (40, 33), generator=torch.manual_seed(0))
    for degrees in (17.0, -41.3, 88.8):
        at = cut_together(mask[None, None].float(), [Placement(40, 33, degrees=degrees)], "nearest")
        assert (rotated_mask(mask, degrees) != at[0, 0]).float().mean() < 1e-2


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_samples_cut_together_are_those_cut_one_by_one(channels):
    images = {
        "quantised": torch.randint(0, 256, (20, channels, 40, 37), dtype=torch.uint8, generator=torch.manual_seed(0)),
        "normalised": torch.rand(20, 2, 40, 37, generator=torch.manual_seed(1)),
    }
    at = some_placements(20, 32)
    unturned = [i for i, one in enumerate(at) if not one.degrees]
    for name, one_by_one in cut(images, at).items():
        together = cut_together(images[name], at)
        assert together.dtype == torch.float32
        torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=0)
        assert torch.equal(together[unturned], one_by_one[unturned])
        assert torch.equal(one_by_one[7], cut({name: images[name][7:8]}, at[7:8])[name][0])
    masks = images["quantised"][:, 0]
    other = cut_together(masks[:, None], at, "nearest")[:, 0] != cut_masks(masks, at)
    assert not other[unturned].any()
    assert other.float().mean() < 1e-3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_both_ways_give_single_precision(dtype):
    image = torch.arange(2 * 36).view(2, 1, 6, 6).to(dtype)
    at, scale = [Placement(4, 4, 1, 2), Placement(4, 4, flip=(-1,))], 255 if dtype == torch.uint8 else 1
    for found in (cut({"image": image}, at)["image"], cut_together(image, at)):
        assert found.dtype == torch.float32
        assert torch.equal(found[0, 0], image[0, 0, 1:5, 2:6].float() / scale)


def test_cutting_leaves_its_input_alone():
    image = torch.rand(2, 3, 20, 20, generator=torch.manual_seed(0))
    before = image.clone()
    cut({"image": image}, [Placement(20, 20, degrees=30.0), Placement(20, 20)])
    assert torch.equal(image, before)


@pytest.mark.parametrize("together", [False, True])
def test_what_is_near_the_crops_is_cut_like_the_whole(monkeypatch, together):
    monkeypatch.setattr("cromss.placements.are_cut_together", lambda samples: together)
    samples = {"a": torch.rand(20, 2, 90, 70), "b": torch.randint(0, 9, (20, 3, 90, 70), dtype=torch.uint8)}
    corners = [(0, 0), (58, 42), (3, 40), (30, 20), (57, 1)]
    at = [Placement(32, 28, *corners[i % 5], some.flip, some.degrees) for i, some in enumerate(some_placements(20, 32))]
    near, moved = near_crops(samples, at, 5)
    assert {name: values.shape for name, values in near.items()} == {"a": (20, 2, 42, 38), "b": (20, 3, 42, 38)}
    assert near["b"].dtype == torch.uint8
    for name, values in cut(near, moved).items():
        assert torch.equal(values, cut(samples, at)[name])
    for sample in (0, 3, 4):  # at a corner, within, at an edge
        top, left = (int(min(max(c - 5, 0), last)) for c, last in zip(corners[sample], (90 - 42, 70 - 38)))
        assert torch.equal(near["a"][sample], samples["a"][sample, :, top : top + 42, left : left + 38])


@pytest.mark.parametrize("margin", [29, 100])
def test_all_of_a_tile_is_near_a_crop_of_most_of_it(margin):
    image, at = torch.rand(2, 1, 90, 86), [Placement(32, 28, 3, 4)] * 2
    near, moved = near_crops({"image": image}, at, margin)
    assert near["image"] is image
    assert moved == at
