"""Shards in the structure of SSL4EO-S12 v1.1, for the tests of whatever reads them."""

from pathlib import Path

import numpy as np
import xarray
from rasters import S1_SCENES, S2_SCENES, fake_db, fake_dn, write_bands, write_tiff
from zarr.storage import ZipStore

from cromss.sensors import S1, S2

FOLDERS = {"s1": "S1GRD", "s2": "S2L1C"}
SCENES = {"s1": S1_SCENES, "s2": S2_SCENES}
BANDS = {"s1": ("vv", "vh"), "s2": tuple(b if b == "B8A" else f"B{int(b[1:]):02d}" for b in S2.bands)}


def draw(ids, seed: int = 0, size: int = 12) -> dict[str, np.ndarray]:
    """Modality -> `(N, T, C, H, W)` of the type in the shards; labels `(N, T, H, W)`."""
    rng, shape = np.random.default_rng(seed), (len(ids), len(S2_SCENES))
    images = {"s1": (fake_db, np.float16), "s2": (fake_dn, np.int16)}
    made = {m: np.array([[f(rng, size) for _ in S2_SCENES] for _ in ids]).astype(t) for m, (f, t) in images.items()}
    return made | {"labels": rng.integers(0, 9, (*shape, size, size), dtype=np.uint8)}


def dataset(modality: str, ids, pixels: np.ndarray, **changes) -> xarray.Dataset:
    """One shard; `changes` replace variables by name."""
    number, seasons, _, height, width = pixels.shape
    names = np.array([SCENES[modality][:seasons]] * number)
    places = 3e5 + 5000.0 * np.array([int(name) for name in ids])
    days = [scene[slice(8) if modality == "s2" else slice(17, 25)] for scene in SCENES[modality][:seasons]]
    times = np.array([[f"{d[:4]}-{d[4:6]}-{d[6:]}T05:46" for d in days]] * number, "datetime64[ns]")
    variables = {
        "bands": (("sample", "time", "band", "y", "x"), pixels),
        "center_lat": ("sample", np.linspace(10, 20, number)),
        "center_lon": ("sample", np.linspace(30, 40, number)),
        "crs": ("sample", np.full(number, 32643)),
        "x_": (("sample", "x"), places[:, None] + 10.0 * np.arange(width) + 5),
        "y_": (("sample", "y"), places[:, None] - 10.0 * np.arange(height) - 5),
        "file_id": (("sample", "time"), names),
        "sample_id": (("sample", "time"), np.array([[name] * seasons for name in ids])),
        "time_": (("sample", "time"), times),
    }
    if modality == "s2":
        clouds = np.zeros((number, seasons, height, width), np.uint8)
        variables["cloud_mask"] = (("sample", "time", "y", "x"), clouds)
    coordinates = {"sample": list(ids), "band": list(BANDS[modality]), "time": np.arange(seasons)}
    return xarray.Dataset(variables, coordinates).assign(changes)


def save(path: Path, shard: xarray.Dataset) -> Path:
    """Zip it as Zarr of format 2, one season of one sample a chunk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = {}
    if "bands" in shard and shard.bands.ndim == 5:
        encoding = {"bands": {"chunks": (1, 1, *shard.bands.shape[2:])}}
    store = ZipStore(path, mode="w")
    shard.to_zarr(store, zarr_format=2, encoding=encoding, consolidated=True)
    store.close()
    return path


def shard_path(root: Path, modality: str, number: int = 1, split: str = "train") -> Path:
    return root / split / FOLDERS[modality] / f"ssl4eos12_{split}_seasonal_data_{number:06d}.zarr.zip"


def write_shards(root: Path, ids, made: dict[str, np.ndarray], per_shard: int = 2, split: str = "train") -> None:
    """Shards of both sensors; those of Sentinel-2 hold their samples in reverse order."""
    for modality in FOLDERS:
        for number, first in enumerate(range(0, len(ids), per_shard), 1):
            rows = list(range(first, min(first + per_shard, len(ids))))[:: -1 if modality == "s2" else 1]
            shard = dataset(modality, [ids[row] for row in rows], made[modality][rows])
            save(shard_path(root, modality, number, split), shard)


def write_labels(root: Path, ids, labels: np.ndarray) -> None:
    """`<id>/<scene>/label.tif`."""
    for name, seasons in zip(ids, labels):
        for scene, image in zip(S2_SCENES, seasons):
            write_tiff(root / name / scene / "label.tif", image)


def write_folders(root: Path, ids, made: dict[str, np.ndarray]) -> None:
    """The same as a tree of GeoTIFFs."""
    for row, name in enumerate(ids):
        for time, (radar, optical) in enumerate(zip(S1_SCENES, S2_SCENES)):
            write_bands(root / "s1" / name / radar, made["s1"][row, time].astype(np.float32), S1.bands)
            write_bands(root / "s2c" / name / optical, made["s2"][row, time].astype(np.uint16), S2.bands)
    write_labels(root / "labels", ids, made["labels"])
