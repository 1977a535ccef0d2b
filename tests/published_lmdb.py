"""Writers of the published pickled layouts, as the published scripts write them, and values that attack a reader."""

import pickle
from pathlib import Path

import lmdb
import numpy as np

STACK = (4, 13, 6, 5)
"""Shape of a small pretraining record."""


def make_images(num_locations, shape=STACK, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_locations, *shape), dtype=np.uint8)


def write_published(path, images, ids=None, keys=None, protocol=4) -> Path:
    """Pretraining layout: key `str(index)`, value `(bytes, shape, id)`."""
    ids = [f"{i:07d}" for i in range(len(images))] if ids is None else ids
    values = [pickle.dumps((a.tobytes(), a.shape, i), protocol) for a, i in zip(images, ids, strict=True)]
    return write_raw(path, zip(map(str, keys or range(len(images))), values, strict=True))


def write_transfer(path, arrays, ids=None, protocol=4) -> Path:
    """Transfer layout: key `<key>_<i>`, value `(bytes, shape)`, or with ids `(bytes, shape, <key>_<id>)`."""
    pairs = []
    for key, values in arrays.items():
        for i, array in enumerate(values):
            name = () if ids is None else (f"{key}_{ids[i]}",)
            pairs.append((f"{key}_{i}", pickle.dumps((array.tobytes(), array.shape, *name), protocol)))
    return write_raw(path, pairs)


def write_raw(path, pairs) -> Path:
    """Keys and values as they are; what else the LMDB holds stays."""
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for key, value in pairs:
            txn.delete(key.encode()) if value is None else txn.put(key.encode(), value)
    return path


def record(payload=bytes(24), shape=(2, 3, 4), location_id="0000007", protocol=4) -> bytes:
    """One value of the pretraining layout."""
    return pickle.dumps((payload, shape, location_id), protocol)


class Evil:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call
