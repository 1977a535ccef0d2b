"""Where samples are cut and how they are turned: images, labels and prior of one alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cromss.opencv import cv2


@dataclass(frozen=True)
class Placement:
    """Where one sample is cut and how it is turned.

    Attributes:
        height: Rows of the crop.
        width: Columns of the crop.
        top: First row of the crop.
        left: First column of the crop.
        flip: Axes that are mirrored, `()`, `(-2,)` up-down, `(-1,)` left-right, or both.
        degrees: Rotation, counter-clockwise as displayed; 0 for none.
    """

    height: int
    width: int
    top: int = 0
    left: int = 0
    flip: tuple[int, ...] = ()
    degrees: float = 0.0

    @property
    def crop(self) -> tuple[slice, slice]:
        """Rows and columns of the crop."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def near_crops(
    samples: Mapping[str, Tensor], placements: Sequence[Placement], margin: int
) -> tuple[dict[str, Tensor], list[Placement]]:
    """Samples without what is further than a margin from what will be cut out of them.

    Args:
        samples: Name -> `(B, C, H, W)`, all of one size and on one device.
        placements: That of each sample.
        margin: Pixels.

    Returns:
        Samples, all of one size, and their placements within that.
    """
    height, width = next(iter(samples.values())).shape[-2:]
    rows, columns = min(placements[0].height + 2 * margin, height), min(placements[0].width + 2 * margin, width)
    if (rows, columns) == (height, width):
        return dict(samples), list(placements)
    tops = np.clip([at.top - margin for at in placements], 0, height - rows).tolist()
    lefts = np.clip([at.left - margin for at in placements], 0, width - columns).tolist()
    windows = [Placement(rows, columns, *begin) for begin in zip(tops, lefts)]
    moved = [replace(at, top=at.top - w.top, left=at.left - w.left) for at, w in zip(placements, windows)]
    pieces = _gathered if any(map(are_cut_together, samples.values())) else _stacked
    return {name: pieces(values, windows) for name, values in samples.items()}, moved


def cut(images: Mapping[str, Tensor], placements: Sequence[Placement]) -> dict[str, Tensor]:
    """Crop, flip and rotate what is known of the samples of a batch alike, all to one size.

    Args:
        images: Name -> `(B, C, H, W)`, all of one size and on one device.
        placements: That of each sample.

    Returns:
        Name -> `(B, C, h, w)` float32: uint8 is scaled to [0, 1], see `full_scale`.
    """
    if any(map(are_cut_together, images.values())):
        return {name: cut_together(image, placements) for name, image in images.items()}
    size = placements[0].height, placements[0].width  # NumPy takes large pages, which are mapped faster
    ready = {name: torch.from_numpy(np.empty((*x.shape[:2], *size), np.float32)) for name, x in images.items()}
    for sample, at in enumerate(placements):
        pieces = [(ready[name][sample], image[sample]) for name, image in images.items()]
        for out, image in pieces:
            out.copy_(_cropped(image, at))
            if (scale := full_scale(image)) != 1:
                out.div_(scale)
        if at.degrees:
            rotate([plane for out, _ in pieces for plane in out.numpy()], at.degrees)
    return ready


def cut_masks(masks: Tensor, placements: Sequence[Placement]) -> Tensor:
    """The same of masks `(B, H, W)`, which keep their values and their type: `(B, h, w)`."""
    if are_cut_together(masks):
        return cut_together(masks.unsqueeze(1), placements, "nearest").squeeze(1).to(masks.dtype)
    pieces = zip((_cropped(mask, at) for mask, at in zip(masks, placements)), placements)
    return torch.stack([rotated_mask(piece, at.degrees) if at.degrees else piece for piece, at in pieces])


def full_scale(image: Tensor) -> int:
    """What values are divided by for networks: 255 where they are quantised, 1 where they are normalised already."""
    return 255 if image.dtype == torch.uint8 else 1


def are_cut_together(samples: Tensor) -> bool:
    """Whether all samples of a batch are cut at once, as suits GPUs."""
    return samples.device.type != "cpu"


def cut_together(image: Tensor, placements: Sequence[Placement], mode: str = "bilinear") -> Tensor:
    """One of `(B, C, H, W)`, all samples at once, by as many operations whatever their number, none waited for."""
    height, width, device = placements[0].height, placements[0].width, image.device
    ready = _gathered(image, placements)
    scale = full_scale(image) if mode == "bilinear" else 1
    ready = ready.float() if scale == 1 else ready.float().div_(scale)
    rotated = {i: at.degrees for i, at in enumerate(placements) if at.degrees}
    if rotated:
        which, turns = torch.tensor(list(rotated)), [_turn(height, width, degrees) for degrees in rotated.values()]
        which, turns = _sent(which, device), _sent(torch.tensor(turns), device)
        ready.index_copy_(0, which, _resampled(ready[which], turns, mode))
    return ready


def _gathered(image: Tensor, placements: Sequence[Placement]) -> Tensor:
    """The samples of `(B, C, H, W)`, cropped and flipped, all at once."""
    told = torch.tensor([(at.top, at.left, -2 in at.flip, -1 in at.flip) for at in placements], dtype=torch.long)
    top, left, down, right = _sent(told, image.device).T.unsqueeze(-1)
    rows, columns = _line(top, down, placements[0].height), _line(left, right, placements[0].width)
    sample, channel = (torch.arange(size, device=image.device) for size in image.shape[:2])
    return image[sample.view(-1, 1, 1, 1), channel.view(-1, 1, 1), rows[:, None, :, None], columns[:, None, None]]


def _line(first: Tensor, is_flipped: Tensor, size: int) -> Tensor:
    """Pixels of each sample along one axis, `(B, size)`, from its first one and whether they are flipped, `(B, 1)`."""
    line = torch.arange(size, device=first.device)
    return first + torch.where(is_flipped > 0, line.flip(0), line)


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device, for which nobody waits."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def _stacked(image: Tensor, placements: Sequence[Placement]) -> Tensor:
    """The same one by one."""
    return torch.stack([_cropped(sample, at) for sample, at in zip(image, placements)])


def _cropped(sample: Tensor, at: Placement) -> Tensor:
    """A sample `(..., H, W)`, cropped and flipped."""
    piece = sample[..., *at.crop]
    return piece.flip(at.flip) if at.flip else piece


def rotate(planes: Sequence[np.ndarray], degrees: float) -> None:
    """Rotate planes `(H, W)` float32 of one image in place, about the centre of the pixel grid, bilinearly.

    Planes are gathered together: several times as fast as one by one. The border is mirrored without repeating the edge
    pixel.

    Args:
        planes: What is rotated; writable, the pixels of a row side by side.
        degrees: Angle, counter-clockwise as displayed.
    """
    height, width = planes[0].shape
    corners, shares = map(torch.from_numpy, _bilinear_corners(height, width, degrees))
    for first in range(0, len(planes), _PLANES):
        some = list(planes[first : first + _PLANES])
        some += [np.empty_like(planes[0])] * (-len(some) % 8)
        pixels = torch.from_numpy(cv2.merge(some)).view(height * width, -1)
        turned = F.embedding_bag(corners, pixels, mode="sum", per_sample_weights=shares)
        cv2.split(turned.view(height, width, -1).numpy(), some)


def rotated_mask(mask: Tensor, degrees: float) -> Tensor:
    """A mask `(H, W)`, rotated as by `rotate` to the nearest pixel."""
    y, x = (np.rint(at).astype(np.int32) for at in _sources(*mask.shape, degrees))
    return torch.from_numpy(mask.numpy().take(y * mask.shape[1] + x))


def _resampled(images: Tensor, turns: Tensor, mode: str) -> Tensor:
    """Images `(B, C, H, W)` at the positions that matrices `(B, 2, 3)` send theirs to, the border mirrored."""
    grid = F.affine_grid(turns, [len(images), 1, *images.shape[-2:]], align_corners=True)
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=True)


def _bilinear_corners(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The four pixels that every pixel of a rotated image is mixed from, and their shares, `(H W, 4)` both."""
    rows, columns = _sources(height, width, degrees)
    down, down_shares = _neighbours(rows, height)
    right, right_shares = _neighbours(columns, width)
    down = [y * width for y in down]
    corners = cv2.merge([y + x for y in down for x in right])
    shares = cv2.merge([y * x for y in down_shares for x in right_shares])
    return corners.reshape(-1, 4), shares.reshape(-1, 4)


def _sources(height: int, width: int, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column `(H, W)` float32 in the image that each pixel of the rotated one comes from."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    down, right = (height - 1) / 2, (width - 1) / 2
    y = np.arange(height, dtype=np.float32)[:, np.newaxis] - down
    x = np.arange(width, dtype=np.float32) - right
    return _reflected(down + cos * y + sin * x, height), _reflected(right - sin * y + cos * x, width)


def _reflected(at: np.ndarray, size: int) -> np.ndarray:
    """Positions on a line that is mirrored at both ends, within it."""
    last, at = size - 1, np.abs(at)
    while at.max() > last > 0:
        at = np.abs(np.minimum(at, 2 * last - at))
    return np.minimum(at, last)


def _neighbours(at: np.ndarray, size: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The two pixels of a line around each position, int32, and their shares."""
    floor = np.floor(at)
    before, share = floor.astype(np.int32), at - floor
    return (before, np.minimum(before + 1, size - 1)), (1 - share, share)


def _turn(height: int, width: int, degrees: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Matrix from positions in a rotated image to those in its source, both from -1 to 1."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    aspect = max(height - 1, 1) / max(width - 1, 1)
    return (cos, -sin * aspect, 0.0), (sin / aspect, cos, 0.0)


_PLANES = 32
"""Planes that are rotated at a time."""
