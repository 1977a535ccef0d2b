"""A small store, and its raw entries."""

import json

import lmdb
import numpy as np

from cromss.store import LmdbWriter, StoreMeta

META = StoreMeta("s1", ("VV", "VH"), "uint8", 4, "uint8 of mean +- 2 std", statistics={"mean": [-12.5, -20.0]})


def make_images(num_locations, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_locations, 4, 2, 5, 7), dtype=np.uint8)


def make_ids(num_locations):
    return [f"{3 * i:07d}" for i in range(num_locations)]


def write_store(path, images, meta=META, **options):
    with LmdbWriter(path, meta, **options) as writer:
        for location_id, image in zip(make_ids(len(images)), images, strict=True):
            writer.write(location_id, list(image))
        writer.finish()
    return path


def raw_put(path, key, value):
    with lmdb.open(str(path), lock=False) as env, env.begin(write=True) as txn:
        txn.delete(key) if value is None else txn.put(key, value)


def raw_get(path, key):
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return txn.get(key)


def manifest_of(path):
    return json.loads((path / "manifest.json").read_text())
