"""Batches made ready on the training device: scale, prior over the full tile, one paired augmentation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cromss.noisy_labels.smoothing import label_prior
from cromss.sensors import MODALITIES


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


@dataclass(frozen=True)
class BatchTransform:
    """From a batch of uint8 tiles to what model and objective take.

    Attributes:
        num_classes: Number of classes `K`.
        crop_size: Side of the square crop, in pixels; `None` keeps whole tiles.
        prior_kind: Kind of `label_prior`, or `None` for no prior.
        prior_sigma: Its `sigma`, in pixels.
        augment: Random crop, flip and rotation; centre crops without.
        flip_share: Share of samples that are flipped.
        rotate_share: Share of samples that are rotated.
        max_degrees: Rotations are drawn from +- this angle.
        seed: With epoch and index of a sample, decides its augmentation and nothing else does.
    """

    num_classes: int
    crop_size: int | None = 256
    prior_kind: str | None = None
    prior_sigma: float = 3.0
    augment: bool = True
    flip_share: float = 0.5
    rotate_share: float = 0.2
    max_degrees: float = 90.0
    seed: int = 0

    @torch.no_grad()
    def __call__(self, batch: Mapping) -> dict:
        """Prepare a batch, in full precision whatever the step around it uses.

        Args:
            batch: `"s1"`, `"s2"`: `(B, C, H, W)` uint8; `"labels"`, and `"exact"` if there are any:
                `(B, T, H, W)` uint8; `"season"`: `(B,)`; `"epoch"`, `"index"`: lists of `B` numbers.

        Returns:
            `"images"`: modality -> `(B, C, S, S)` float32 in [0, 1]; `"labels"` (and `"exact"`):
            `(B, S, S)` int64; `"prior"`: `(B, K, S, S)` float32 or `None`.
        """
        with torch.autocast(batch["labels"].device.type, enabled=False):
            return self._prepare(batch)

    def _prepare(self, batch: Mapping) -> dict:
        season, tile = batch["season"].long(), batch["labels"].shape[-2:]
        placements = [self.place(e, i, tile) for e, i in zip(batch["epoch"], batch["index"])]
        images = {m: cut(batch[m], placements, divisor=_divisor(batch[m])) for m in MODALITIES if m in batch}
        prior = self._prior(batch["labels"], season, placements) if self.prior_kind else None
        masks = {name: _drawn_mask(batch[name], season, placements) for name in ("labels", "exact") if name in batch}
        return {"images": images, "prior": prior, **masks}

    def _prior(self, labels: Tensor, season: Tensor, placements: Sequence[Placement]) -> Tensor:
        crops = [at.crop for at in placements]
        prior = label_prior(labels, season, self.num_classes, self.prior_kind, self.prior_sigma, crops=crops)
        for one, at in zip(prior, placements):
            if at.flip or at.degrees:
                one.copy_(turned(one, at))
        return prior

    def place(self, epoch: int, index: int, tile: Sequence[int]) -> Placement:
        """The placement of sample `index` in `epoch`: centred, or a pure function of (seed, epoch, index).

        Raises:
            ValueError: The crop is larger than the `tile` of (H, W) pixels.
        """
        height, width = (self.crop_size, self.crop_size) if self.crop_size else tile
        if height > tile[0] or width > tile[1]:
            raise ValueError(f"--crop_size {self.crop_size} is larger than a tile of {tile[0]} x {tile[1]} pixels")
        room = tile[0] - height, tile[1] - width
        if not self.augment:
            return Placement(height, width, room[0] // 2, room[1] // 2)
        rng = np.random.default_rng([self.seed, epoch, index, _AUGMENTATION_STREAM])
        top, left = (int(rng.integers(r + 1)) for r in room)
        flip = _FLIPS[rng.integers(3)] if rng.random() < self.flip_share else ()
        degrees = rng.uniform(-self.max_degrees, self.max_degrees) if rng.random() < self.rotate_share else 0.0
        return Placement(height, width, top, left, flip, float(degrees))


def as_unit(image: Tensor) -> Tensor:
    """Quantised uint8 -> float32 in [0, 1]; other types are taken as normalised already."""
    return image.float() / _divisor(image)


def _divisor(image: Tensor) -> int:
    return 255 if image.dtype == torch.uint8 else 1


def cut(image: Tensor, placements: Sequence[Placement], mode: str = "bilinear", divisor: float = 1.0) -> Tensor:
    """Crop, flip and rotate each sample of a batch `(B, C, H, W)`, all to one size, and divide: float32."""
    shape = *image.shape[:2], placements[0].height, placements[0].width
    on_cpu = image.device.type == "cpu"  # where NumPy takes large pages, which are mapped several times as fast
    ready = torch.from_numpy(np.empty(shape, np.float32)) if on_cpu else torch.empty(shape, device=image.device)
    for out, sample, at in zip(ready, image, placements):
        out.copy_(turned(sample[:, *at.crop], at, mode))
        if divisor != 1:
            out.div_(divisor)
    return ready


def turned(piece: Tensor, at: Placement, mode: str = "bilinear") -> Tensor:
    """A crop `(C, H, W)`, flipped and rotated."""
    piece = piece.flip(at.flip) if at.flip else piece
    return rotate(piece, at.degrees, mode) if at.degrees else piece


def rotate(image: Tensor, degrees: float, mode: str = "bilinear") -> Tensor:
    """Rotate counter-clockwise as displayed, about the centre of the pixel grid; float32.

    The border is mirrored without repeating the edge pixel.

    Args:
        image: `(C, H, W)`.
        degrees: Angle.
        mode: `"bilinear"`, or `"nearest"` for labels.
    """
    height, width = image.shape[-2:]
    if image.device.type == "cpu" and mode == "bilinear":
        pixels = F.pad(image.float().permute(1, 2, 0), (0, -len(image) % 8)).reshape(height * width, -1)
        corners, shares = bilinear_corners(height, width, degrees)
        turned = F.embedding_bag(corners, pixels, mode="sum", per_sample_weights=shares)
        return turned.T[: len(image)].view(image.shape)
    grid = F.affine_grid(
        _turn(height, width, degrees).to(image.device)[None], [1, 1, height, width], align_corners=True
    )
    turned = F.grid_sample(image[None].float(), grid, mode=mode, padding_mode="reflection", align_corners=True)
    return turned.squeeze(0)


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


def _drawn_mask(labels: Tensor, season: Tensor, placements: Sequence[Placement]) -> Tensor:
    drawn = labels[torch.arange(len(labels), device=labels.device), season]
    return cut(drawn.unsqueeze(1), placements, mode="nearest").squeeze(1).long()


_AUGMENTATION_STREAM = 1
_FLIPS = ((-2,), (-1,), (-2, -1))
