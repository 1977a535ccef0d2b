"""Write a pretraining set (Sentinel-1, Sentinel-2, noisy labels) from raw folders into LMDB stores.

python data_prepare/write_pretrain_lmdb.py --data_path SSL4EO-S12 --out lmdb --ids_csv dw_complete_ids.csv
python data_prepare/write_pretrain_lmdb.py --data_path tiles --out lmdb --layout tiles --s2_offset_ids p7=1000
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cromss import layouts, preparation
from cromss.aligned_stores import Prepared, refuse_changed_offsets
from cromss.config import run
from cromss.legends import LEGENDS
from cromss.offset import offsets_by_id
from cromss.store import StoreMeta


@dataclass(frozen=True)
class PretrainSet:
    """Raw folders of a pretraining set, and how to write them."""

    data_path: Path
    """Folder of the raw set."""
    out: Path
    """Folder for the stores, skipped.csv and s2_offsets.csv."""
    layout: Literal["ssl4eo", "tiles"] = "ssl4eo"
    """ssl4eo: <modality>/<id>/<scene>/<band>.tif; tiles: <id>/<one multi-band file a modality>."""
    modalities: tuple[Literal["s1", "s2", "labels"], ...] = ("s1", "s2", "labels")
    """What to write."""
    ids_csv: Path | None = None
    """ssl4eo: ids and their Sentinel-2 scenes (id,season1,...,seasonT); all folders without it."""
    num_seasons: int | None = None
    """Seasons wanted of every location; by default what most locations have."""
    s1_dir: str = "s1"
    """ssl4eo: folder of Sentinel-1 under data_path."""
    s2_dir: str = "s2c"
    """ssl4eo: folder of Sentinel-2 level 1C under data_path."""
    label_dir: str = "labels"
    """ssl4eo: folder of the labels under data_path."""
    s1_pattern: str = "S1*.tif"
    """tiles: file of Sentinel-1 in a location's folder."""
    s2_pattern: str = "S2*.tif"
    """tiles: file of Sentinel-2 in a location's folder."""
    label_pattern: str = "DW.tif"
    """tiles: file of the labels in a location's folder."""
    label_codes: Literal["NoL", "DW", "OSM"] = "NoL"
    """Legend of the raw label codes: NoL 0..8 are the classes; DW and OSM 0 is unlabelled, classes from 1."""
    size: int = 264
    """ssl4eo: side to resample to, in pixels (images bicubic, labels nearest); tiles keep their size."""
    s2_offset: Literal["auto", "0", "1000"] = "auto"
    """DN to subtract from Sentinel-2; auto follows the metadata of each scene, else its pixels."""
    s2_offset_ids: tuple[str, ...] = ()
    """Offset of single locations, as ID=0 ID=1000."""
    data_name_s1: str = "0k_251k_uint8_s1.lmdb"
    """Store of Sentinel-1 under out."""
    data_name_s2: str = "0k_251k_uint8_s2c.lmdb"
    """Store of Sentinel-2 under out."""
    data_name_label: str = "dw_labels.lmdb"
    """Store of the labels under out."""
    on_error: Literal["stop", "skip"] = "stop"
    """Stop at the first bad location, or list it in skipped.csv and go on."""
    workers: int = 4
    """Reading threads."""
    limit: int | None = None
    """Write only the first locations."""
    dry_run: bool = False
    """Only list the locations and estimate the disk space."""


def main(settings: PretrainSet) -> None:
    """List, check, estimate, write, report."""
    refuse_contradictions(settings)
    locations = preparation.first(list_locations(settings), settings.limit)
    num_seasons = settings.num_seasons or (1 if settings.layout == "tiles" else layouts.most_seasons(locations))
    size = settings.size if settings.layout == "ssl4eo" else None
    told_by_id = offsets_by_id(settings.s2_offset_ids, {location.id for location in locations})
    refuse_changed_offsets(settings.out, told_by_id)
    prepare = partial(
        prepare_location,
        num_seasons=num_seasons,
        label_codes=settings.label_codes,
        size=size,
        told=None if settings.s2_offset == "auto" else int(settings.s2_offset),
        told_by_id=told_by_id,
    )
    preparation.run(
        store_metas(settings, num_seasons),
        locations,
        prepare,
        size=size,
        on_error=settings.on_error,
        workers=settings.workers,
        dry_run=settings.dry_run,
    )


def refuse_contradictions(settings: PretrainSet) -> None:
    """Raise ValueError for flags that do not go together."""
    names = [settings.data_name_s1, settings.data_name_s2, settings.data_name_label]
    if len(set(names)) < 3 or not all(names) or any("/" in name for name in names):
        raise ValueError(f"--data_name_s1, _s2, _label {' '.join(names)}: three different names in --out are wanted")
    if settings.layout == "tiles" and settings.ids_csv:
        raise ValueError("--ids_csv goes with --layout ssl4eo; tiles are listed from their folders")
    if settings.size < 1:
        raise ValueError(f"--size {settings.size}: must be at least 1")
    if not settings.modalities:
        raise ValueError("--modalities: name at least one of s1, s2, labels")


def list_locations(settings: PretrainSet) -> list[layouts.Location]:
    """Locations of the chosen layout and modalities."""
    folders = {"s1": settings.s1_dir, "s2": settings.s2_dir, "labels": settings.label_dir}
    patterns = {"s1": settings.s1_pattern, "s2": settings.s2_pattern, "labels": settings.label_pattern}
    if settings.layout == "tiles":
        return layouts.list_tiles(settings.data_path, {m: patterns[m] for m in settings.modalities})
    return layouts.list_ssl4eo(settings.data_path, {m: folders[m] for m in settings.modalities}, settings.ids_csv)


def prepare_location(
    location: layouts.Location,
    num_seasons: int,
    label_codes: str,
    size: int | None,
    told: int | None,
    told_by_id: dict[str, int],
) -> Prepared:
    """Read a location and convert it to what is stored."""
    seasons = layouts.read_location(location, num_seasons, LEGENDS[label_codes], size)
    return preparation.to_pretraining(seasons, location, told, told_by_id)


def store_metas(settings: PretrainSet, num_seasons: int) -> dict[Path, StoreMeta]:
    """Path of each store and its description; the settings are in it, so that no other run resumes it."""
    names = {"s1": settings.data_name_s1, "s2": settings.data_name_s2, "labels": settings.data_name_label}
    source = f"{settings.layout} layout"
    source += f", resampled to {settings.size} px" if settings.layout == "ssl4eo" else ""
    stores = {}
    for modality in settings.modalities:
        if modality == "labels":
            meta = preparation.label_meta(settings.label_codes, num_seasons, source)
        else:
            extra = f", s2_offset {settings.s2_offset}" if modality == "s2" else ""
            meta = preparation.image_meta(modality, "uint8", num_seasons, source + extra)
        stores[settings.out / names[modality]] = meta
    return stores


if __name__ == "__main__":
    run(main, PretrainSet)
