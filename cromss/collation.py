"""Samples to batches, in memory that is used again.

New memory is dear: the system clears every page when it is first written to and, where a loader process shares it, maps
it once more in the process that reads. Together that takes longer than reading the samples.
"""

import itertools
import math
import multiprocessing
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from cromss.datasets import fill_of, pad_to


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples -> batch: arrays stacked to tensors (padded to the largest), season a tensor, the rest lists."""
    arrays, rest = _columns(samples)
    return rest | {name: torch.from_numpy(np.stack(column)) for name, column in arrays.items()}


class BatchSlots:
    """`collate` for one loader, to slots of memory, which loader processes share with the training process.

    A slot is written to again when the training process holds neither the batch that was in it nor a view of it. Where
    all are held, a batch has memory of its own.

    Args:
        most_slots: Slots of each process that collates, at most.
    """

    def __init__(self, most_slots: int = 4) -> None:
        self.most_slots = most_slots
        self._loader = next(_numbers)
        self._slots: list[Tensor] = []
        self._mapped: dict[tuple[int, int], np.ndarray] = {}
        _loaders[self._loader] = self

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_slots": [], "_mapped": {}}

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> "dict[str, Any] | _Parcel":
        """The batch; in a loader process, what the training process unpickles as the batch."""
        arrays, rest = _columns(samples)
        places, size = _places(arrays)
        slot, memory, is_new = self._slot(size)
        memory[0] = 1
        for name, place in places.items():
            np.stack(arrays[name], out=place.view(memory).numpy())
        parcel = _Parcel(self._loader, (os.getpid(), slot), memory if is_new else None, places, rest)
        return parcel if get_worker_info() else _unpacked(*parcel)

    def unpack(self, key: tuple[int, int], memory: Tensor | None, places: "Mapping[str, _Place]") -> dict[str, Tensor]:
        """Tensors in a slot, which may be written to again once they are gone.

        Args:
            key: The process that wrote them, and its slot.
            memory: The slot's, where it is new.
            places: Name -> where a tensor is.
        """
        if memory is not None:
            alive = {os.getpid(), *(process.pid for process in multiprocessing.active_children())}
            self._mapped = {other: kept for other, kept in self._mapped.items() if other[0] in alive}
            self._mapped[key] = memory.numpy()
        held = self._mapped[key][:]
        weakref.finalize(held, self._mapped[key].__setitem__, 0, 0).atexit = False
        whole = torch.from_numpy(held)
        return {name: place.view(whole) for name, place in places.items()}

    def _slot(self, size: int) -> tuple[int, Tensor, bool]:
        """Number and memory of a slot that is not held, -1 for memory that is no slot's, and whether it is new."""
        free = [number for number, memory in enumerate(self._slots) if not memory[0]]
        for number in free:
            if len(self._slots[number]) >= size:
                return number, self._slots[number], False
        memory = torch.zeros(size, dtype=torch.uint8)
        if get_worker_info():
            memory.share_memory_()
        if len(self._slots) < self.most_slots:
            self._slots.append(memory)
            return len(self._slots) - 1, memory, True
        if not free:
            return -1, memory, True
        self._slots[free[0]] = memory
        return free[0], memory, True


_numbers = itertools.count()
_loaders: weakref.WeakValueDictionary[int, BatchSlots] = weakref.WeakValueDictionary()


class _Place(NamedTuple):
    """Where a tensor is in the memory of a slot."""

    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        return self.begin + math.prod(self.shape) * self.dtype.itemsize

    def view(self, memory: Tensor) -> Tensor:
        return memory[self.begin : self.end].view(self.dtype).view(self.shape)


class _Parcel(NamedTuple):
    """What a loader process hands over: it is unpickled as a batch."""

    loader: int
    key: tuple[int, int]
    memory: Tensor | None
    places: dict[str, _Place]
    rest: dict[str, Any]

    def __reduce__(self) -> tuple[Callable[..., dict[str, Any]], tuple]:
        return _unpacked, tuple(self)


def _unpacked(
    loader: int, key: tuple[int, int], memory: Tensor | None, places: dict[str, _Place], rest: dict[str, Any]
) -> dict[str, Any]:
    return rest | _loaders[loader].unpack(key, memory, places)


def _columns(samples: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[np.ndarray]], dict[str, list]]:
    """Arrays of all samples by name, padded to the largest, and what stays a list."""
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    arrays = {name: _padded(name, column) for name, column in columns.items() if isinstance(column[0], np.ndarray)}
    if "season" in columns:
        arrays["season"] = [np.asarray(season) for season in columns["season"]]
    return arrays, {name: column for name, column in columns.items() if name not in arrays}


def _padded(name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    height, width = (max(array.shape[axis] for array in arrays) for axis in (-2, -1))
    return [pad_to(array, height, width, fill_of(name)) for array in arrays]


def _places(arrays: Mapping[str, Sequence[np.ndarray]]) -> tuple[dict[str, _Place], int]:
    """Where each stack of arrays goes, behind what says whether the slot is held, and the bytes of all."""
    places, end = {}, 1
    for name, column in arrays.items():
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        places[name] = _Place(begin, (len(column), *column[0].shape), torch.from_numpy(column[0]).dtype)
        end = places[name].end
    return places, end


_ALIGNMENT = 64
