"""Tiles with exact labels that two pretraining runs held out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cromss.batch_transforms import BatchTransform
from cromss.collation import collate
from cromss.datamodule import StacksData
from cromss.datasets import SeasonStacks
from cromss.legends import Legend
from cromss.panels import picture
from cromss.settings import PretrainSettings
from cromss.training.pretrained import Pretrained
from cromss.training.pretraining import legend_of, locations_checksum, pretraining_bands, pretraining_data


class Batch(NamedTuple):
    """Tiles with exact labels.

    Attributes:
        images: What the branch sees, `(B, C, H, W)` in [0, 1].
        labels: Exact class ids `(B, H, W)`.
        pictures: The same images for people, `(H, W, 3)` each.
        ids: Ids of the locations.
    """

    images: Tensor
    labels: Tensor
    pictures: list[np.ndarray]
    ids: list[str]


@dataclass(frozen=True)
class Tiles:
    """Centre crops of held-out locations, as in validation, with exact labels.

    Attributes:
        stacks: Samples.
        indices: Locations to look at.
        branch: Branch whose images are made.
        bands: Modality -> band names.
        transform: Makes batches ready.
        device: Where they go.
    """

    stacks: SeasonStacks
    indices: Sequence[int]
    branch: str
    bands: Mapping[str, Sequence[str]]
    transform: BatchTransform
    device: torch.device

    @property
    def legend(self) -> Legend:
        """Classes of the exact labels."""
        return legend_of(self.stacks.exact, self.stacks.num_classes)

    def first(self, count: int) -> "Tiles":
        """The first so many of these."""
        return replace(self, indices=self.indices[:count])

    def batches(self, size: int) -> Iterator[Batch]:
        """All tiles, `size` at once."""
        for start in range(0, len(self.indices), size):
            yield self._batch([self.stacks[index] for index in self.indices[start : start + size]])

    def _batch(self, samples: Sequence[Mapping]) -> Batch:
        """One batch; every sample is cut by itself, so that its crop does not depend on its neighbours' sizes."""
        ready = [self.transform(collate([sample])) for sample in samples]
        images = {modality: torch.cat([one["images"][modality] for one in ready]) for modality in self.bands}
        labels = torch.cat([one["exact"] for one in ready])
        seen = images[self.branch] if self.branch in images else torch.cat(list(images.values()), 1)
        shown = self.branch if self.branch in images else list(images)[-1]
        pictures = [picture(image.numpy(), shown, self.bands[shown]) for image in images[shown]]
        return Batch(seen.to(self.device), labels.to(self.device), pictures, [sample["id"] for sample in samples])


def held_out_tiles(
    noisy: Pretrained,
    exact: Pretrained,
    branch: str,
    stride: int,
    data_path: str,
    device: torch.device,
) -> Tiles:
    """Validation tiles of the noisy run that the exact one was not trained on.

    They are as large as the training crops, down to what the encoder divides.

    Args:
        noisy: The run whose set is opened.
        exact: The other run.
        branch: Branch whose images are wanted.
        stride: What its encoder divides, in pixels.
        data_path: Folder of the LMDB environments; empty for those of the runs.
        device: Where batches go.

    Raises:
        ValueError: No such set, no exact labels in it, or no such tiles.
    """
    crop = max(stride, noisy.settings.data.crop_size // stride * stride)
    data, other = (pretraining_data(looking(run, data_path, crop)) for run in (noisy, exact))
    _refuse_other_set(noisy, data)
    _refuse_other_set(exact, other)
    held = _held_out(data, other)
    if not held:
        raise ValueError(
            f"{noisy.name} and {exact.name}: no location was held out by both; "
            "train them with the same --seed, --validation and set"
        )
    transform = BatchTransform(noisy.settings.data.n_classes, crop, augment=False)
    bands = pretraining_bands(noisy.settings)
    return Tiles(data.val, held, branch, bands, transform, device)


def looking(run: Pretrained, data_path: str, crop: int, exact: bool = True) -> PretrainSettings:
    """Settings of a run for looking at its set: tiles of another size, and exact labels beside those learned.

    Args:
        run: The run.
        data_path: Folder of the LMDB environments; empty for that of the run.
        crop: Side of the tiles, in pixels.
        exact: Open the exact labels.

    Raises:
        ValueError: The set of the run is no longer where it was.
    """
    names = run.settings.data
    if names.data_path and not data_path and not Path(names.data_path).is_dir():
        raise ValueError(f"{run.name}: its set was in {names.data_path}, which is not there; say --data_path")
    changed = replace(names, gt_available=exact, crop_size=crop, data_path=data_path or names.data_path)
    return replace(run.settings, data=changed)


def _held_out(data: StacksData, other: StacksData) -> list[int]:
    """Validation locations of a set that another run did not train on."""
    trained_on = {other.val.labels.location_id(index) for index in other.train_indices}
    return [index for index in data.val_indices if data.val.labels.location_id(index) not in trained_on]


def _refuse_other_set(run: Pretrained, data: StacksData) -> None:
    """Raise ValueError where the set is not the one that the run was trained on, as far as its checkpoint tells."""
    if run.locations and run.locations != locations_checksum(data.val.labels):
        raise ValueError(
            f"{run.name}: was trained on other locations than {data.val.labels.path} holds now, so that nobody knows "
            "what it held out; say --data_path of the set as it was"
        )
