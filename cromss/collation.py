"""Samples to batches, which loader processes hand over in shared memory that is used again.

New shared memory is slow: the system clears every page when it is first written to, and maps it once more in the
process that reads. Together that takes longer than reading the samples.
"""

import itertools
import math
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from cromss.datasets import fill_of, pad_to
from cromss.store import views

Sample = Mapping[str, Any]
LateSample = Callable[[], Sample]


class LateSamples(Dataset):
    """Samples of a dataset that are read when a batch is made of them: they go there from LMDB's pages by one copy.

    Args:
        samples: The dataset; an array that it reads is an entry of its sample, nothing within one, and is not kept.
    """

    def __init__(self, samples: Dataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[LateSample]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, draw: Any) -> LateSample:
        return partial(self.samples.__getitem__, draw)


def collate(samples: Sequence[Sample | LateSample]) -> dict[str, Any]:
    """Samples -> batch: arrays stacked to tensors (padded to the largest), season a tensor, the rest lists."""
    with views():
        arrays, rest = _columns(samples)
        return rest | {name: torch.from_numpy(np.stack(column)) for name, column in arrays.items()}


@contextmanager
def enough_shared_memory() -> Iterator[None]:
    """Within, too little shared memory for the batches of loader processes is a foreseen error.

    Raises:
        ValueError: There was too little.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"shared memory ?\(shm\)|out of shared memory", str(error)):
            raise
        raise ValueError(
            "/dev/shm is too small for the batches of the loader processes; make it larger (of Docker: --shm-size 8g), "
            "or lower --num_workers or --batch_size"
        ) from None


class BatchSlots:
    """`collate` for one loader, whose processes write batches to slots of memory that the training process reads.

    The first byte of a slot says whether it is held. The training process clears it when the last tensor of the batch
    is gone, and then the slot is written to again; a tensor, however small, holds all of it. Where all slots are held,
    a batch has memory of its own.

    Args:
        max_slots: Slots of a loader process, each as large as a batch, which stay while the process does; 0 for none.
    """

    def __init__(self, max_slots: int = 4) -> None:
        self.max_slots = max_slots
        self._number = next(_numbers)
        self._slots: list[Tensor] = []
        self._mapped: dict[tuple[int, int], np.ndarray] = {}
        _all_slots[self._number] = self

    def __deepcopy__(self, memo: dict[int, Any]) -> "BatchSlots":
        return BatchSlots(self.max_slots)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_mapped": {}}

    def __call__(self, samples: Sequence[Sample | LateSample]) -> "dict[str, Any] | _Parcel":
        """The batch; in a loader process, what the training process unpickles as the batch."""
        if get_worker_info() is None:
            return collate(samples)
        with views():
            arrays, rest = _columns(samples)
            places, size = _places(arrays)
            slot, is_new = self._free_slot(size)
            memory = torch.zeros(size, dtype=torch.uint8).share_memory_() if is_new else self._slots[slot]
            for name, place in places.items():
                np.stack(arrays[name], out=place.of(memory.numpy()).numpy())
        memory[0] = _HELD
        if is_new and slot != _NO_SLOT:
            self._slots[slot : slot + 1] = [memory]
        return _Parcel(self._number, (os.getpid(), slot), memory if is_new else None, places, rest)

    def unpack(self, parcel: "_Parcel") -> dict[str, Any]:
        """The batch, whose slot is free again once its tensors are gone."""
        key, memory = parcel.key, parcel.memory
        whole = self._mapped[key] if memory is None else memory.numpy()
        if memory is not None and key[1] != _NO_SLOT:
            self._mapped = {other: kept for other, kept in self._mapped.items() if _is_alive(other[0])} | {key: whole}
        held = whole[:]
        weakref.finalize(held, _free, whole, os.getpid()).atexit = False
        return parcel.rest | {name: place.of(held) for name, place in parcel.places.items()}

    def _free_slot(self, size: int) -> tuple[int, bool]:
        """A slot that nothing holds, and whether it is new."""
        free = [slot for slot, memory in enumerate(self._slots) if memory[0] == _FREE]
        for slot in free:
            if len(self._slots[slot]) >= size:
                return slot, False
        return (len(self._slots) if len(self._slots) < self.max_slots else next(iter(free), _NO_SLOT)), True


_FREE, _HELD = 0, 1
_NO_SLOT = -1

_numbers = itertools.count()
_all_slots: weakref.WeakValueDictionary[int, BatchSlots] = weakref.WeakValueDictionary()


def _free(memory: np.ndarray, reader: int) -> None:
    """Let a slot be written to again; a fork of the process that reads it has no say."""
    if os.getpid() == reader:
        memory[0] = _FREE


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class _Place(NamedTuple):
    """Where a tensor is in the memory of a slot."""

    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.begin + math.prod(self.shape) * self.dtype.itemsize

    def of(self, memory: np.ndarray) -> Tensor:
        """The tensor, which holds the object `memory` itself; an array made of it would hold what that is a view of."""
        count = math.prod(self.shape)
        return torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.begin).view(self.shape)


class _Parcel(NamedTuple):
    """What a loader process hands over: it is unpickled as a batch.

    Attributes:
        number: Of the `BatchSlots` that wrote it.
        key: The process that wrote it, and its slot.
        memory: The slot's, where it is new.
        places: Name -> where a tensor is.
        rest: What is no tensor.
    """

    number: int
    key: tuple[int, int]
    memory: Tensor | None
    places: dict[str, _Place]
    rest: dict[str, Any]

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple]:
        return _unpacked, tuple(self)


def _unpacked(*parts: Any) -> dict[str, Any]:
    parcel = _Parcel(*parts)
    slots = _all_slots.get(parcel.number)
    return slots.unpack(parcel) if slots else parcel.rest  # of a loader that is gone, nobody waits for it


def _columns(samples: Sequence[Sample | LateSample]) -> tuple[dict[str, list[np.ndarray]], dict[str, list]]:
    """Arrays of all samples by name, padded to the largest, and what stays a list."""
    samples = [sample() if callable(sample) else sample for sample in samples]
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    arrays = {name: _padded(name, column) for name, column in columns.items() if isinstance(column[0], np.ndarray)}
    if "season" in columns:
        arrays["season"] = [np.asarray(season) for season in columns["season"]]
    return arrays, {name: column for name, column in columns.items() if name not in arrays}


def _padded(name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    height, width = (max(array.shape[axis] for array in arrays) for axis in (-2, -1))
    return [pad_to(array, height, width, fill_of(name)) for array in arrays]


def _places(arrays: Mapping[str, Sequence[np.ndarray]]) -> tuple[dict[str, _Place], int]:
    """Where each stack of arrays goes, after the byte that says whether the slot is held, and the bytes of all."""
    places, end = {}, 1
    for name, column in arrays.items():
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        empty = torch.from_numpy(np.empty(0, np.result_type(*column)))
        places[name] = _Place(begin, (len(column), *column[0].shape), empty.dtype)
        end = places[name].end
    return places, end


_ALIGNMENT = 64
