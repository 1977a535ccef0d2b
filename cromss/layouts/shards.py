"""Listing of SSL4EO-S12 v1.1: shards of zipped Zarr, joined by sample, with labels from elsewhere."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from cromss.archives import TarPath, find_tree
from cromss.layouts.folders import children, id_folders, not_empty
from cromss.layouts.location import Location
from cromss.scene_names import scene_time
from cromss.scene_sources import Scene
from cromss.sensors import MODALITIES
from cromss.zarr_shards import ZarrScene, shard_scenes

FOLDERS = {"s1": "S1GRD", "s2": "S2L1C"}
"""Modality -> its folder in a split."""


def list_zarr(root: Path, split: str, modalities: Sequence[str], labels: Path | None = None) -> list[Location]:
    """Locations of `<root>/<split>/{S1GRD,S2L1C}/*.zarr.zip` (arXiv 2503.00168), in the order of their ids.

    Samples of two modalities are joined by id. Labels are those of the day of each Sentinel-2 scene; without
    Sentinel-2 all in time order.

    Args:
        root: Folder of the set.
        split: `train` or `val`.
        modalities: Some of `s1` and `s2`.
        labels: Folder or tar archive of `<id>/<scene>/label.tif`; no labels for `None`.

    Raises:
        ValueError: A folder or shard is missing or unreadable, or a sample is in two shards.
    """
    found = {modality: _samples(root / split / FOLDERS[modality], modality) for modality in modalities}
    marked = None if labels is None else id_folders(find_tree(labels.parent, labels.name))
    patterns = {modality: f"{split}/{FOLDERS[modality]}/*" for modality in found}
    if marked is not None:
        patterns["labels"] = f"{labels}/*/<scene>/label.tif"
    locations = []
    for key in sorted(set().union(*found.values()), key=lambda name: (len(name), name)):
        scenes: dict[str, tuple[Scene, ...]] = {modality: samples.get(key, ()) for modality, samples in found.items()}
        if marked is not None:
            scenes["labels"] = _labels(marked.get(key), scenes.get("s2"))
        name = f"{int(key):07d}" if key.isdecimal() else key
        locations.append(Location(name, scenes, patterns=patterns))
    return not_empty(locations, root, patterns)


def _samples(folder: Path, modality: str) -> dict[str, tuple[ZarrScene, ...]]:
    """Sample id, as a number -> its scenes, over all shards of a folder."""
    if not folder.is_dir() and modality == "s2" and (folder.parent / "S2L2A").is_dir():
        raise ValueError(f"{folder}: no such folder; S2L2A has no B10, level 1C is wanted")
    shards = [path for path in children(folder) if path.name.endswith(".zarr.zip")]
    if not shards:
        raise ValueError(f"{folder}: holds no *.zarr.zip")
    samples: dict[str, tuple[ZarrScene, ...]] = {}
    for shard in tqdm(shards, unit="shard", desc=f"listing {folder.name}", disable=None):
        for key, scenes in shard_scenes(shard, MODALITIES[modality]).items():
            if key in samples:
                raise ValueError(f"{shard}: sample {key} is in {samples[key][0].shard.name} too; keep one")
            samples[key] = scenes
    return samples


def _labels(folder: Path | TarPath | None, images: Sequence[Scene] | None) -> tuple[Scene, ...]:
    """Label files of a location, of the days of its Sentinel-2 scenes where it has any."""
    dated = {} if folder is None else {time: path for path in children(folder) if (time := scene_time(path.name))}
    if images is None:
        return tuple(dated[time] / "label.tif" for time in sorted(dated))
    days = {time[:8]: path for time, path in dated.items()}
    return tuple(days[day] / "label.tif" for image in images if (day := scene_time(image.name)[:8]) in days)
