"""Write the world as GeoTIFFs in the folder layouts of SSL4EO-S12@NoL and DFC2020.

Each location is a pure function of (seed, index), is written aside and moved into place, so that a killed run
goes on where it stopped and a second run with the same settings writes nothing.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cromss.legends import DFC2020, NOL
from cromss.sensors import S1
from cromss.synthetic.backscatter import radar
from cromss.synthetic.ground import NUM_SEASONS
from cromss.synthetic.land import SNOW
from cromss.synthetic.location import NOISE, OPTICAL, RADAR, draw_location, draw_place, s1_scene, s2_scene, stream
from cromss.synthetic.noise import NoiseModel, noisy_labels
from cromss.synthetic.optics import RESOLUTION, native_bands, optical
from cromss.synthetic.rasters import Plan, Raster, check_range, claim, install, world, write_splits, write_text

DFC2020_SEASON, DFC2020_HAZE, DFC2020_DECIBELS = 1.5, 1.5, -0.8
DFC2020_GAIN = np.linspace(1.05, 0.95, 13)[:, None, None]
"""How the downstream world differs from the pretraining world: late summer, more haze, another calibration."""


def write_nol(
    root: str | Path,
    num_locations: int,
    size: int = 264,
    seed: int = 0,
    noise: NoiseModel | None = None,
    num_seasons: int = NUM_SEASONS,
    progress: bool = True,
) -> None:
    """Write a pretraining set in the layout of SSL4EO-S12, with noisy and with exact labels.

    `s1/<id>/<scene>/{VV,VH}.tif`, `s2c/<id>/<scene>/{B1..B12}.tif` on native grids, `labels` (noisy) and
    `exact` with `<id>/<scene>/label.tif`, `dw_complete_ids.csv`, and `world.json` with all settings.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        num_locations: Number of locations.
        size: Side of a location in px of 10 m.
        seed: Seed of the world.
        noise: How labels go wrong; the default `NoiseModel` for `None`.
        num_seasons: Scenes a location, 1 to 4.
        progress: Show a progress bar.

    Raises:
        ValueError: A setting out of range, or `root` holds something else.
    """
    noise = noise or NoiseModel()
    check_range("num_seasons", num_seasons, 1, NUM_SEASONS)
    settings = {
        **world("NoL", NOL.classes, seed, size, num_locations=num_locations, num_seasons=num_seasons),
        "noise": asdict(noise),
        "confusion_matrix": noise.confusion_matrix().tolist(),
    }
    root = claim(root, settings)
    for index in tqdm(range(num_locations), desc="NoL", unit="location", disable=None if progress else True):
        units = [f"{kind}/{index:07d}" for kind in ("s1", "s2c", "labels", "exact")]
        install(root, units, _nol_rasters(index, size, seed, noise, num_seasons))
    write_text(root / "dw_complete_ids.csv", _ids(num_locations, num_seasons, seed))


def write_dfc2020(
    root: str | Path, num_train: int, num_test: int, size: int = 256, seed: int = 1, progress: bool = True
) -> None:
    """Write a downstream set in the layout of DFC2020, with its raw codes and exact labels.

    `<split>/{s1,s2,dfc}_<split>/ROIs0000_<split>_{s1,s2,dfc}_0_p<i>.tif`: split `validation` trains and `test`
    tests, as published. Seen in another season, through more haze, with another calibration than `write_nol`.

    Args:
        root: Folder; new, empty, or written before with the same settings.
        num_train: Patches in `validation`.
        num_test: Patches in `test`, from other areas.
        size: Side of a patch in px of 10 m.
        seed: Seed of the world; choose another than the pretraining set's.
        progress: Show a progress bar.

    Raises:
        ValueError: A setting out of range, or `root` holds something else.
    """
    settings = world("DFC2020", NOL.classes, seed, size, num_train=num_train, num_test=num_test)

    def plan(split: str, key: list[int]) -> Plan:
        paths = [f"{split}/{kind}_{split}/ROIs0000_{split}_{kind}_0_p{key[-1]}.tif" for kind in ("s1", "s2", "dfc")]
        return paths, _dfc2020_rasters(paths, key, size)

    write_splits(root, settings, {"validation": num_train, "test": num_test}, plan, progress)


def _nol_rasters(index: int, size: int, seed: int, noise: NoiseModel, num_seasons: int) -> Iterator[Raster]:
    key = [seed, index]
    (labels, ground), place = draw_location(key, size), draw_place(key)
    for season in range(num_seasons):
        s1, s2 = (f"{index:07d}/{scene(place, season)}" for scene in (s1_scene, s2_scene))
        for band, image in native_bands(labels, season, stream(key, OPTICAL, season), ground).items():
            yield Raster(f"s2c/{s2}/{band}.tif", image, place.grid(RESOLUTION[band]))
        for band, image in zip(S1.bands, radar(labels, season, stream(key, RADAR, season), ground)):
            yield Raster(f"s1/{s1}/{band}.tif", image, place.grid())
        noisy = noisy_labels(labels, season, stream(key, NOISE), noise)
        yield Raster(f"labels/{s2}/label.tif", noisy, place.grid())
        yield Raster(f"exact/{s2}/label.tif", labels, place.grid())


def dfc2020_patch(key: list[int], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One patch of `write_dfc2020`: `(2, H, W)` float64 dB, `(13, H, W)` uint16 DN, `(H, W)` uint8 raw codes."""
    labels, ground = draw_location(key, size)
    s1 = radar(labels, DFC2020_SEASON, stream(key, RADAR), ground).astype(np.float64) + DFC2020_DECIBELS
    s2 = optical(labels, DFC2020_SEASON, stream(key, OPTICAL), ground, DFC2020_HAZE) * DFC2020_GAIN
    codes = np.zeros(NOL.num_classes, np.uint8)
    for code, class_id in DFC2020.codes.items():
        codes[class_id] = code
    codes[SNOW] = 8
    return s1, np.clip(s2, 1, 65535).astype(np.uint16), codes[labels]


def _dfc2020_rasters(paths: list[str], key: list[int], size: int) -> Iterator[Raster]:
    for path, image in zip(paths, dfc2020_patch(key, size)):
        yield Raster(path, image, draw_place(key).grid())


def _ids(num_locations: int, num_seasons: int, seed: int) -> str:
    rows = [["id", *(f"season{number + 1}" for number in range(num_seasons))]]
    for index in range(num_locations):
        place = draw_place([seed, index])
        rows.append([f"{index:07d}", *(s2_scene(place, season) for season in range(num_seasons))])
    return "".join(",".join(row) + "\n" for row in rows)
