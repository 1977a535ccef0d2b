"""Write a set with exact labels into LMDB stores, train/ and test/ with images in raw values and class ids.

python data_prepare/write_downstream_lmdb.py --dataset DFC2020 --data_path DFC2020 --out lmdb/dfc2020
python data_prepare/write_downstream_lmdb.py --dataset DW --data_path SSL4EO-S12@DW --out lmdb/dw
python data_prepare/write_downstream_lmdb.py --dataset OSM --data_path SSL4EO-S12@OSM --out lmdb/osm
python data_prepare/write_downstream_lmdb.py --dataset NYC --data_path NYC --out lmdb/nyc --band_order R G B NIR

OSCD has a script of its own, write_oscd_lmdb.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cromss import layouts, preparation
from cromss.aligned_stores import Prepared, refuse_changed_offsets
from cromss.config import run
from cromss.downstream_sets import DOWNSTREAM_SETS, DownstreamSet
from cromss.input_checks import refuse_offset
from cromss.offset import offsets_by_id
from cromss.sensors import ORTHO
from cromss.settings.writing import Writing
from cromss.store import StoreMeta
from cromss.tiles import tiled, tiles_text


@dataclass(frozen=True)
class DownstreamFolders(Writing):
    """Raw folders of a set with exact labels, and how to write it.

    Sentinel-1 float32 dB, Sentinel-2 uint16 DN, orthophotos uint8, class ids with 255 for ignored pixels. Tiles keep
    their size, but for --tile_size; test tiles always do, so that each of their pixels is scored once.
    """

    dataset: Literal["DFC2020", "DW", "OSM", "NYC"]
    """The set."""
    data_path: Path
    """Folder of the raw set. DFC2020: <split>/{s1,s2,dfc}_<split>/ROIs0000_<split>_*_0_p<i>.tif; DW and OSM:
    {dw,osm}_{train,test}/{image_s1,image_s2,label_dw,label_osm}/<word>_<lon>_<lat>-<date>.tif;
    NYC: {train,test}/{image,label}/<id>.tif, 4 bands and codes 1..8."""
    out: Path
    """Folder for train/ and test/, with a store for each modality and labels.lmdb."""
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    """What to write."""
    s2_offset: Literal["auto", "0", "1000"] = "auto"
    """DW, OSM: DN to subtract from Sentinel-2; auto follows metadata, pixels and date of each scene."""
    s2_offset_ids: tuple[str, ...] = ()
    """DW, OSM: offset of single locations, as ID=0 ID=1000; hide a leading minus by a space: " -3.5_4.5-20230101=0"."""
    band_order: tuple[Literal["NIR", "R", "G", "B"], ...] = ()
    """NYC: order of the bands in the files, e.g. R G B NIR; NIR R G B for none, if the files tell nothing else."""


def main(settings: DownstreamFolders) -> None:
    """Write the splits one after the other; one that is finished is left as it is."""
    layouts.check_out(settings.out)
    refuse_contradictions(settings)
    task = DOWNSTREAM_SETS[settings.dataset]
    order = settings.band_order or None
    locations = {
        split: layouts.list_downstream(settings.data_path, task.name, split, order) for split in settings.splits
    }
    told_by_id = offsets_by_id(settings.s2_offset_ids, {place.id for part in locations.values() for place in part})
    for split in settings.splits:
        refuse_changed_offsets(settings.out / split, told_by_id)
    wanted = {split: store_metas(settings, task, split) for split in settings.splits}
    unfinished = {split: stores for split, stores in wanted.items() if not preparation.is_finished(stores)}
    prepare = partial(prepare_tile, task=task, s2_offset=settings.s2_offset, told_by_id=told_by_id)
    sizes = {"train": settings.tile_size, "test": 0}
    jobs = {
        split: tiled(locations[split][: settings.limit], prepare, layouts.location_shape, sizes[split], settings.stride)
        for split in unfinished
    }
    for split, stores in unfinished.items():
        preparation.check_listing(stores, jobs[split][0], settings.on_error)
    for split, stores in unfinished.items():
        preparation.run(stores, *jobs[split], size=sizes[split] or None, **settings.options)


def refuse_contradictions(settings: DownstreamFolders) -> None:
    """Raise ValueError for flags that do not go together."""
    name, order = settings.dataset, settings.band_order
    if not settings.splits or len(set(settings.splits)) < len(settings.splits):
        raise ValueError(f"--splits {' '.join(settings.splits)}: train, test, or both")
    if order and (name != "NYC" or sorted(order) != sorted(ORTHO.bands)):
        raise ValueError(f"--band_order {' '.join(order)}: {' '.join(ORTHO.bands)} in any order, with --dataset NYC")
    if name not in ("DW", "OSM") and (settings.s2_offset == "1000" or settings.s2_offset_ids):
        raise ValueError(f"--s2_offset, --s2_offset_ids: nothing to subtract with --dataset {name}; leave them out")


def prepare_tile(
    location: layouts.Location, task: DownstreamSet, s2_offset: str, told_by_id: dict[str, int]
) -> Prepared:
    """Read a tile; raw values stay but for the offset of DW and OSM, labels become class ids."""
    seasons = layouts.read_location(location, 1, task.legend)
    if task.name not in ("DW", "OSM"):
        for image, source in zip(seasons.get("s2", ()), location.scenes.get("s2", ())):
            refuse_offset(image, str(source))
        return preparation.to_raw(seasons)
    told = None if s2_offset == "auto" else int(s2_offset)
    decided = preparation.without_offset(seasons, location, told, by_date=True, told_by_id=told_by_id)
    return Prepared(preparation.to_raw(decided.seasons).seasons, decided.offsets)


def store_metas(settings: DownstreamFolders, task: DownstreamSet, split: str) -> dict[Path, StoreMeta]:
    """Path of each store of a split and its description.

    It names offset, order of bands and limit, so that a run with others neither resumes the stores nor takes them for
    its own; offsets of single locations are in the ledger beside them.
    """
    out = settings.out / split
    source = preparation.source_text(
        f"{task.name} {split} split",
        f"s2_offset {settings.s2_offset}" if task.name in ("DW", "OSM") else "",
        f"bands from {' '.join(settings.band_order)}" if settings.band_order else "",
        tiles_text(settings.tile_size, settings.stride) if split == "train" else "",
        limit=settings.limit,
    )
    stores = {
        out / f"{modality}.lmdb": preparation.image_meta(
            modality, preparation.RAW_TYPES[modality], 1, source, settings.compression
        )
        for modality in task.modalities
    }
    return stores | {
        out / "labels.lmdb": preparation.label_meta(task.legend.name, 1, source, compression=settings.compression)
    }


if __name__ == "__main__":
    run(main, DownstreamFolders)
