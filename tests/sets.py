"""Tiny sets whose classes both sensors can tell apart, written in our layout and in the published ones."""

import pickle

import lmdb
import numpy as np

from cromss.sensors import ORTHO, S1, S2
from cromss.store import LmdbReader, LmdbWriter, StoreMeta

NAMES = {"s1": "0k_251k_uint8_s1.lmdb", "s2": "0k_251k_uint8_s2c.lmdb", "labels": "dw_labels.lmdb"}
BANDS = {"s1": S1.bands, "s2": S2.bands, "ortho": ORTHO.bands, "labels": (), "exact": ()}
COUNT, SEASONS, SIZE = 8, 4, 64


def season_arrays():
    """Blocks of classes that both sensors can tell apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (COUNT, SEASONS, SIZE // 16, SIZE // 16)).repeat(16, 2).repeat(16, 3).astype(np.uint8)
    arrays = {"labels": labels}
    for modality in ("s1", "s2"):
        levels = np.arange(len(BANDS[modality]))[:, None, None] * 5 + labels[:, :, None] * 20
        arrays[modality] = np.clip(levels + rng.normal(0, 10, levels.shape), 0, 255).astype(np.uint8)
    return arrays


def write_ours(folder, arrays, names, ids=None):
    """Stores of arrays `(N, T, ...)`, or of lists of arrays `(T, ...)` of differing sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for modality, name in names.items():
        first = arrays[modality][0]
        meta = StoreMeta(modality, BANDS[modality], first.dtype.name, len(first), "x")
        with LmdbWriter(folder / name, meta) as writer:
            for index, seasons in enumerate(arrays[modality]):
                writer.write(ids[index] if ids else f"{index:07d}", list(seasons))
            writer.finish()


def write_published(folder, arrays):
    for modality, name in NAMES.items():
        with lmdb.open(str(folder / name), map_size=1 << 28) as environment, environment.begin(write=True) as txn:
            for index, stack in enumerate(arrays[modality]):
                txn.put(str(index).encode(), pickle.dumps((stack.tobytes(), stack.shape, f"{index:07d}")))


PART = {"s1": "s1.lmdb", "s2": "s2.lmdb", "labels": "labels.lmdb"}


def raw_arrays(count, rng, num_classes=8):
    """Raw values of 64 x 64 px by class, three rows unlabelled."""
    labels = rng.integers(0, num_classes, (count, 1, 4, 4)).repeat(16, 2).repeat(16, 3).astype(np.uint8)
    labels[:, :, :3] = 255
    level = labels[:, :, None] % num_classes
    s2 = (level * 300.0 + rng.normal(1000, 60, (count, 1, 13, 64, 64))).clip(0).astype(np.uint16)
    s1 = (level * 2.0 - 25 + rng.normal(0, 1, (count, 1, 2, 64, 64))).astype(np.float32)
    return {"s1": s1, "s2": s2, "labels": labels}


def written_labels(path):
    """Id -> labels `(H, W)` of a store."""
    reader = LmdbReader(path)
    return {reader.location_id(i): reader.read(i, 0) for i in range(len(reader))}
