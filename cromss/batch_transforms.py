"""Batches made ready on the training device: scale, prior over the full tile, one paired augmentation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cromss.noisy_labels.smoothing import label_prior, reach
from cromss.placements import Placement, cut, cut_masks, full_scale, near_crops
from cromss.sensors import MODALITIES


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
        samples = {name: batch[name] for name in (*MODALITIES, *_MASKS) if name in batch}
        if self.prior_kind:
            samples, placements = near_crops(samples, placements, reach(self.prior_sigma))
        images = {name: values for name, values in samples.items() if name not in _MASKS}
        ready = cut(images | self._prior(samples["labels"], season), placements)
        return {
            "images": {modality: ready[modality] for modality in images},
            "prior": ready.get("prior"),
            **{name: _drawn_mask(samples[name], season, placements) for name in _MASKS if name in samples},
        }

    def _prior(self, labels: Tensor, season: Tensor) -> dict[str, Tensor]:
        if self.prior_kind is None:
            return {}
        return {"prior": label_prior(labels, season, self.num_classes, self.prior_kind, self.prior_sigma)}

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
    return image.float() / full_scale(image)


def _drawn_mask(labels: Tensor, season: Tensor, placements: Sequence[Placement]) -> Tensor:
    return cut_masks(labels[torch.arange(len(labels), device=labels.device), season], placements).long()


_MASKS = ("labels", "exact")
_AUGMENTATION_STREAM = 1
_FLIPS = ((-2,), (-1,), (-2, -1))
