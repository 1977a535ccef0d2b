"""Small GeoTIFFs with plausible pixels, for the tests of whatever reads them."""

from pathlib import Path

import numpy as np
import rasterio

from cromss.sensors import S1, S2

S2_SCENES = ("20190704T054639_20190704T054831_T43RCP", "20200301T054639_20200301T054831_T43RCP")
S1_SCENES = (
    "S1B_IW_GRDH_1SDV_20190702T165746_20190702T165811_016958_01FE7F_34A1",
    "S1A_IW_GRDH_1SDV_20200305T165746_20200305T165811_031534_03A1C2_9B01",
)


def write_tiff(path: Path, pixels: np.ndarray, descriptions=(), nodata=None, **tags) -> Path:
    """`(C, H, W)` or `(H, W)` -> GeoTIFF."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype, "count": count, "height": height, "width": width}
    with rasterio.open(path, "w", nodata=nodata, **profile) as dataset:
        dataset.write(pixels)
        dataset.update_tags(**tags)
        for band, description in enumerate(descriptions, 1):
            dataset.set_band_description(band, description)
    return path


def fake_dn(rng: np.random.Generator, size: int = 12) -> np.ndarray:
    """`(13, size, size)` uint16 of plausible reflectances, without offset (a dark cirrus band)."""
    dn = rng.integers(200, 4000, (13, size, size), dtype=np.uint16)
    dn[10] = rng.integers(2, 30, (size, size))
    return dn


def fake_db(rng: np.random.Generator, size: int = 12) -> np.ndarray:
    """`(2, size, size)` float32 of plausible backscatter in dB."""
    return rng.normal([[[-12]], [[-20]]], 4, (2, size, size)).astype(np.float32)


def write_bands(folder: Path, image: np.ndarray, names) -> Path:
    """One single-band file a band."""
    for name, band in zip(names, image):
        write_tiff(folder / f"{name}.tif", band)
    return folder


def write_ssl4eo(root: Path, ids, seed: int = 0, size: int = 12) -> None:
    """A small SSL4EO-S12 tree with two seasons and labels 0..8."""
    rng = np.random.default_rng(seed)
    for name in ids:
        for s1_scene, s2_scene in zip(S1_SCENES, S2_SCENES):
            write_bands(root / "s1" / name / s1_scene, fake_db(rng, size), S1.bands)
            write_bands(root / "s2c" / name / s2_scene, fake_dn(rng, size), S2.bands)
            labels = rng.integers(0, 9, (size, size), dtype=np.uint8)
            write_tiff(root / "labels" / name / s2_scene / "label.tif", labels)


def write_dfc2020(root: Path, numbers=(2, 10)) -> dict[tuple[str, int], tuple]:
    """A small DFC2020 tree; returns `(split, number)` -> images of Sentinel-1, Sentinel-2 and raw codes."""
    rng, made = np.random.default_rng(5), {}
    for split in ("validation", "test"):
        for number in numbers:
            images = (fake_db(rng, 8).astype(np.float64), fake_dn(rng, 8), rng.integers(1, 11, (8, 8), np.uint8))
            for word, image in zip(("s1", "s2", "dfc"), images):
                name = f"ROIs0000_{split}_{word}_0_p{number}.tif"
                write_tiff(root / split / f"{word}_{split}" / name, image)
            made[split, number] = images
    return made
