"""Splits, samplers and loaders: batch order is a pure function of seed and epoch."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from cromss.collation import BatchSlots, LateSamples
from cromss.datasets import Draw, SeasonStacks
from cromss.signals import ignore


def hold_out(places: Sequence[Hashable], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split locations into training and validation by place, at least one place in each.

    Places are drawn one after the other; one is held out where that brings the number of locations nearer to the share.

    Args:
        places: Place of each location; locations of one place stay together.
        share: Share of the locations to hold out.
        seed: Seed of the draw.

    Returns:
        Positions of the locations to train on, and of those held out.

    Raises:
        ValueError: Fewer than two places.
    """
    sizes = Counter(places)
    if len(sizes) < 2:
        raise ValueError(
            f"{len(sizes)} place(s) of {len(places)} locations cannot be split into training and validation; "
            "more places are wanted, or a --place_pattern that tells them apart"
        )
    distinct = list(sizes)
    order = [distinct[i] for i in np.random.default_rng([seed, len(distinct)]).permutation(len(distinct))]
    wanted, size, held = max(1, round(share * len(places))), 0, set()
    for place in order:
        if len(held) + 1 < len(order) and abs(size + sizes[place] - wanted) < abs(size - wanted):
            held.add(place)
            size += sizes[place]
    held = held or {min(order, key=sizes.__getitem__)}
    positions = range(len(places))
    return [i for i in positions if places[i] not in held], [i for i in positions if places[i] in held]


class EpochSampler(Sampler[Draw]):
    """Draws of one process: shuffled by (seed, epoch) for training, in order for scoring.

    Attributes:
        indices: Locations to draw.
        shuffle: New order every epoch; uneven ends are filled with repeated draws, so that every
            process gets equally many. Without, the filling draws do not count, and every location
            counts exactly once over all processes.
        seed: Seed of the order.
        position: Tells the current epoch, and how many of its draws this process has had already.
        rank: This process.
        num_processes: Number of processes.
        drop_last: Uneven ends are left out instead of filled.
    """

    def __init__(
        self,
        indices: Sequence[int],
        shuffle: bool,
        seed: int = 0,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        rank: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.indices, self.shuffle, self.seed, self.position = list(indices), shuffle, seed, position
        self.rank, self.num_processes, self.drop_last = rank, num_processes, drop_last

    def __len__(self) -> int:
        each, rest = divmod(len(self.indices), self.num_processes)
        return each + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Draw]:
        (epoch, had), order = self.position(), self.indices
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order).tolist()
        places = range(self.rank, len(self) * self.num_processes, self.num_processes)[had:]
        return (Draw(epoch, order[i % len(order)], counted=self.shuffle or i < len(order)) for i in places)


class StacksData(L.LightningDataModule):
    """Loaders of a training, a validation and a test set.

    Args:
        train: Training samples.
        val: Validation samples, or `None`.
        test: Test samples, or `None`.
        train_indices: Locations to train on.
        val_indices: Locations to validate on.
        batch_size: Samples a step and process.
        test_batch_size: Samples a step in validation and test.
        num_workers: Loader processes.
        seed: Seed of the order.
    """

    def __init__(
        self,
        train: SeasonStacks,
        val: SeasonStacks | None,
        test: SeasonStacks | None,
        train_indices: Sequence[int],
        val_indices: Sequence[int],
        batch_size: int,
        test_batch_size: int = 0,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val, self.test = train, val, test
        self.train_indices, self.val_indices = list(train_indices), list(val_indices)
        self.batch_size, self.test_batch_size = batch_size, test_batch_size or batch_size
        self.num_workers, self.seed = num_workers, seed

    def train_dataloader(self) -> DataLoader:
        """Shuffled by (seed, epoch); the last batch that is incomplete is left out when there is a full one.

        That is as many batches, and no location twice, as one process would have with the batches of all.
        """
        sampler = self._sampler(self.train_indices, shuffle=True)
        return self._loader(self.train, sampler, self._train_batch_size(), is_training=True)

    def val_dataloader(self) -> DataLoader | list:
        """Every validation location once."""
        if self.val is None or not self.val_indices:
            return []
        return self._loader(self.val, self._sampler(self.val_indices), self.test_batch_size)

    def test_dataloader(self) -> DataLoader:
        """Every test location once, but for those left out of use."""
        return self._loader(self.test, self._sampler(self.test.in_use()), self.test_batch_size)

    def _train_batch_size(self) -> int:
        return min(self.batch_size, -(-len(self.train_indices) // self.trainer.world_size))

    def _sampler(self, indices: Sequence[int], shuffle: bool = False) -> EpochSampler:
        trainer, position = self.trainer, self._position if shuffle else lambda: (0, 0)
        drop_last = shuffle and len(indices) >= self.batch_size * trainer.world_size
        return EpochSampler(indices, shuffle, self.seed, position, trainer.global_rank, trainer.world_size, drop_last)

    def _position(self) -> tuple[int, int]:
        """Epoch, and samples that this process has had of it, as the loops of the trainer count them.

        `current_epoch` is one behind while loaders are made from a checkpoint at the end of an epoch.
        """
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        is_within = epochs.ready > epochs.processed
        return epochs.processed, is_within * batches.ready * self._train_batch_size()

    def _loader(
        self, stacks: SeasonStacks, sampler: EpochSampler, batch_size: int, is_training: bool = False
    ) -> DataLoader:
        return DataLoader(
            LateSamples(stacks),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=ignore,
            collate_fn=BatchSlots() if is_training else BatchSlots(max_slots=0),  # no memory is kept between scorings
            drop_last=is_training,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )
