"""Small GeoTIFFs with plausible pixels, for the tests of whatever reads them."""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_bounds

from cromss.sensors import ORTHO, S1, S2

S2_SCENES = ("20190704T054639_20190704T054831_T43RCP", "20200301T054639_20200301T054831_T43RCP")
S1_SCENES = (
    "S1B_IW_GRDH_1SDV_20190702T165746_20190702T165811_016958_01FE7F_34A1",
    "S1A_IW_GRDH_1SDV_20200305T165746_20200305T165811_031534_03A1C2_9B01",
)


OSCD_FOLDERS = {
    name: f"Onera Satellite Change Detection dataset - {words}"
    for name, words in (("images", "Images"), ("train", "Train Labels"), ("test", "Test Labels"))
}
OSCD_SCENES = ("S2A_OPER_MSI_L1C_TL_SGS__20160927T081713_A006607_T49QHE", "T50QKK_20180323T024539")
NATIVE_STEPS = dict(zip(S2.bands, (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 6, 2, 2)))
BOX = (114.0, 22.0, 114.006, 22.005)
"""West, south, east and north of every small city."""


def write_tiff(path: Path, pixels: np.ndarray, descriptions=(), nodata=None, box=None, colours=None, **tags) -> Path:
    """`(C, H, W)` or `(H, W)` -> GeoTIFF, in degrees if there is a `box` (west, south, east, north)."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "dtype": pixels.dtype, "count": count, "height": height, "width": width}
    if box:
        profile |= {"crs": "EPSG:4326", "transform": from_bounds(*box, width, height)}
    with rasterio.open(path, "w", nodata=nodata, **profile) as dataset:
        if colours:
            dataset.colorinterp = colours
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


def write_dwosm(root: Path, kind: str, split: str, names, seed: int = 6, size: int = 10, s1_names=None, bands=1):
    """A small split of SSL4EO-S12@DW or @OSM; returns name -> images of both sensors and raw codes."""
    rng, made = np.random.default_rng(seed), {}
    for name, s1_name in zip(names, s1_names or names):
        codes = rng.integers(0, 11, (bands, size, size), dtype=np.uint8)
        made[name] = (fake_db(rng, size), fake_dn(rng, size), codes)
        for folder, file, image in zip(
            ("image_s1", "image_s2", f"label_{kind}"), (f"s1_{s1_name}", f"s2_{name}", f"{kind}_{name}"), made[name]
        ):
            write_tiff(root / f"{kind}_{split}" / folder / f"{file}.tif", image)
    return made


def write_nyc(root: Path, names=("tile_2", "tile_10"), order=ORTHO.bands, **options):
    """A small set of orthophotos; returns (split, name) -> image in the order NIR R G B, and raw codes."""
    rng, made = np.random.default_rng(7), {}
    for split in ("train", "test"):
        for name in names:
            image, codes = rng.integers(0, 256, (4, 9, 9), np.uint8), rng.integers(0, 9, (9, 9), np.uint8)
            stored = image[[ORTHO.index(band) for band in order]]
            write_tiff(root / split / "image" / f"{name}.tif", stored, **options)
            write_tiff(root / split / "label" / f"{name}.tif", codes)
            made[split, name] = image, codes
    return made


def smooth_scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """`(height, width)` uint16 DN of waves longer than the coarsest pixels."""
    y, x = np.mgrid[0.5 / height : 1 : 1 / height, 0.5 / width : 1 : 1 / width]
    waves = [np.cos(np.pi * (a * y + b * x) + c) for a, b, c in rng.uniform(0, 2, (4, 3))]
    return (1500 + 200 * sum(waves)).astype(np.uint16)


def write_oscd(root: Path, cities, shape=(60, 66), second_shape=None, part: str = "train", seed: int = 8):
    """Small cities in the layout of OSCD, on native grids; returns city -> mask (True is change)."""
    made = {}
    for number, city in enumerate(cities):
        for date, (scene, (height, width)) in enumerate(zip(OSCD_SCENES, (shape, second_shape or shape)), 1):
            rng = np.random.default_rng([seed, number])
            for band, step in NATIVE_STEPS.items():
                name = band if band == "B8A" else f"B{int(band[1:]):02d}"
                image = smooth_scene(rng, -(-height // step), -(-width // step)) + np.uint16(100 * date)
                folder = root / OSCD_FOLDERS["images"] / city / f"imgs_{date}"
                write_tiff(folder / f"{scene}_{name}.tif", image, box=BOX)
        made[city] = np.random.default_rng([seed, number, 1]).random(shape) < 0.1
        write_mask(root, city, np.where(made[city], 2, 1).astype(np.uint8), part)
        write_grey(root, city, np.where(made[city], 255, 0).astype(np.uint8), part)
    return made


def write_mask(root: Path, city: str, codes: np.ndarray, part: str = "train") -> Path:
    """The GeoTIFF mask of a city."""
    return write_tiff(root / OSCD_FOLDERS[part] / city / "cm" / f"{city}-cm.tif", codes)


def write_grey(root: Path, city: str, grey: np.ndarray, part: str = "train") -> Path:
    """The PNG mask of a city, RGB."""
    path = root / OSCD_FOLDERS[part] / city / "cm" / "cm.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = grey.shape
    with rasterio.open(path, "w", driver="PNG", count=3, height=height, width=width, dtype="uint8") as dataset:
        dataset.write(np.stack([grey] * 3))
    return path
