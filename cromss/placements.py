"""Where samples are cut and how they are turned: images, labels and prior of one alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


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


def cut(image: Tensor, placements: Sequence[Placement], mode: str = "bilinear", divisor: float = 1.0) -> Tensor:
    """Crop, flip and rotate each sample of a batch `(B, C, H, W)`, all to one size, and divide: float32."""
    if are_cut_together(image):
        return cut_together(image, placements, mode, divisor)
    shape = *image.shape[:2], placements[0].height, placements[0].width
    ready = torch.from_numpy(np.empty(shape, np.float32))  # NumPy takes large pages, which are mapped faster
    for out, sample, at in zip(ready, image, placements):
        out.copy_(turned(sample[:, *at.crop], at, mode))
        if divisor != 1:
            out.div_(divisor)
    return ready


def are_cut_together(samples: Tensor) -> bool:
    """Whether all samples of a batch are cut at once, as suits GPUs."""
    return samples.device.type != "cpu"


def cut_together(
    image: Tensor, placements: Sequence[Placement], mode: str = "bilinear", divisor: float = 1.0
) -> Tensor:
    """The same, all samples at once, by as many operations whatever their number, none of them waited for."""
    height, width, device = placements[0].height, placements[0].width, image.device
    told = torch.tensor([(at.top, at.left, -2 in at.flip, -1 in at.flip) for at in placements], dtype=torch.long)
    top, left, down, right = _sent(told, device).T.unsqueeze(-1)
    rows, columns = _line(top, down, height), _line(left, right, width)
    sample, channel = (torch.arange(size, device=device) for size in image.shape[:2])
    ready = image[sample.view(-1, 1, 1, 1), channel.view(-1, 1, 1), rows[:, None, :, None], columns[:, None, None]]
    ready = ready.float() if divisor == 1 else ready.float().div_(divisor)
    rotated = {i: at.degrees for i, at in enumerate(placements) if at.degrees}
    if rotated:
        which, turns = torch.tensor(list(rotated)), [_turn(height, width, degrees) for degrees in rotated.values()]
        which, turns = _sent(which, device), _sent(torch.stack(turns), device)
        ready.index_copy_(0, which, _resampled(ready[which], turns, mode))
    return ready


def _line(first: Tensor, is_flipped: Tensor, size: int) -> Tensor:
    """Pixels of each sample along one axis, `(B, size)`, from its first one and whether they are flipped, `(B, 1)`."""
    line = torch.arange(size, device=first.device)
    return first + torch.where(is_flipped > 0, line.flip(0), line)


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device, for which nobody waits."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def turned(piece: Tensor, at: Placement, mode: str = "bilinear") -> Tensor:
    """A crop `(C, H, W)` on the CPU, flipped and rotated."""
    piece = piece.flip(at.flip) if at.flip else piece
    return rotate(piece, at.degrees, mode) if at.degrees else piece


def rotate(image: Tensor, degrees: float, mode: str = "bilinear") -> Tensor:
    """Rotate counter-clockwise as displayed, about the centre of the pixel grid, on the CPU; float32.

    The border is mirrored without repeating the edge pixel.

    Args:
        image: `(C, H, W)`.
        degrees: Angle.
        mode: `"bilinear"`, or `"nearest"` for labels.
    """
    height, width = image.shape[-2:]
    if mode == "bilinear":
        pixels = F.pad(image.float().permute(1, 2, 0), (0, -len(image) % 8)).reshape(height * width, -1)
        corners, shares = bilinear_corners(height, width, degrees)
        turned = F.embedding_bag(corners, pixels, mode="sum", per_sample_weights=shares)
        return turned.T[: len(image)].view(image.shape)
    return _resampled(image[None].float(), _turn(height, width, degrees)[None], mode).squeeze(0)


def _resampled(images: Tensor, turns: Tensor, mode: str) -> Tensor:
    """Images `(B, C, H, W)` at the positions that matrices `(B, 2, 3)` send theirs to, the border mirrored."""
    grid = F.affine_grid(turns, [len(images), 1, *images.shape[-2:]], align_corners=True)
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=True)


@lru_cache(maxsize=16)
def bilinear_corners(height: int, width: int, degrees: float) -> tuple[Tensor, Tensor]:
    """The four pixels that every pixel of a rotated image is mixed from, and their shares, `(H W, 4)` both.

    By them all channels of a pixel are gathered at once, in eights: several times as fast as channel by channel.
    """
    (down, down_share), (right, right_share) = (
        _neighbours(at, size) for at, size in zip(_sources(height, width, degrees), (height, width))
    )
    corners = [y * width + x for y in down for x in right]
    shares = [y * x for y in down_share for x in right_share]
    return torch.stack(corners, -1).view(-1, 4), torch.stack(shares, -1).view(-1, 4)


def _sources(height: int, width: int, degrees: float) -> tuple[Tensor, Tensor]:
    """Row and column `(H, W)` in the image that each pixel of the rotated one comes from."""
    (xx, xy, _), (yx, yy, _) = _turn(height, width, degrees)
    x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height).unsqueeze(1)
    return (yx * x + yy * y + 1) * ((height - 1) / 2), (xx * x + xy * y + 1) * ((width - 1) / 2)


def _neighbours(at: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two pixels of a mirrored line around each position, int32, and their shares."""
    period = 2 * (size - 1)
    at = at.abs().remainder(period)
    at = torch.minimum(at, period - at)
    before = at.int()
    share = at - before
    return (before, (before + 1).clamp_max_(size - 1)), (1 - share, share)


def _turn(height: int, width: int, degrees: float) -> Tensor:
    """Matrix `(2, 3)` from positions in a rotated image to those in its source, both from -1 to 1."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    aspect = (height - 1) / (width - 1)
    return torch.tensor([[cos, -sin * aspect, 0], [sin / aspect, cos, 0]])
