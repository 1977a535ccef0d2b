"""Write a set with exact labels into LMDB stores, train/ and test/ with images in raw values and class ids.

python data_prepare/write_downstream_lmdb.py --dataset DFC2020 --data_path DFC2020 --out lmdb/dfc2020
python data_prepare/write_downstream_lmdb.py --dataset DW --data_path SSL4EO-S12@DW --out lmdb/dw
python data_prepare/write_downstream_lmdb.py --dataset OSM --data_path SSL4EO-S12@OSM --out lmdb/osm
python data_prepare/write_downstream_lmdb.py --dataset NYC --data_path NYC --out lmdb/nyc --band_order R G B NIR
python data_prepare/write_downstream_lmdb.py --dataset OWN --data_path OWN --out lmdb/own --statistics statistics.yaml

OSCD has a script of its own, write_oscd_lmdb.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cromss import layouts, preparation
from cromss.aligned_stores import Prepared, refuse_changed_offsets
from cromss.config import run
from cromss.downstream_sets import DOWNSTREAM_SETS, OWN, DownstreamSet
from cromss.input_checks import refuse_offset
from cromss.legend_files import codes_checksum, read_legend
from cromss.offset import offsets_by_id
from cromss.sensors import MODALITIES, ORTHO, Modality
from cromss.settings.writing import Writing
from cromss.statistics import read_statistics
from cromss.store import StoreMeta
from cromss.tiles import tiled, tiles_text

DATED = ("DW", "OSM", OWN)
"""Sets whose Sentinel-2 may have the offset."""


@dataclass(frozen=True)
class DownstreamFolders(Writing):
    """Raw folders of a set with exact labels, and how to write it.

    Sentinel-1 float32 dB, Sentinel-2 uint16 DN, orthophotos uint8, class ids with 255 for ignored pixels. Tiles keep
    their size, but for --tile_size; test tiles always do, so that each of their pixels is scored once.
    """

    dataset: Literal["DFC2020", "DW", "OSM", "NYC", "OWN"]
    """The set."""
    data_path: Path
    """Folder of the raw set. DFC2020: <split>/{s1,s2,dfc}_<split>/ROIs0000_<split>_*_0_p<i>.tif; DW and OSM:
    {dw,osm}_{train,test}/{image_s1,image_s2,label_dw,label_osm}/<word>_<lon>_<lat>-<date>.tif;
    NYC: {train,test}/{image,label}/<id>.tif, 4 bands and codes 1..8;
    OWN: {train,test}/{s1,s2,ortho,labels}/<id>/<YYYYMMDD>.tif, one season, and legend.yaml; no id is in both
    parts."""
    out: Path
    """Folder for train/ and test/, with a store for each modality and labels.lmdb."""
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    """What to write."""
    s2_offset: Literal["auto", "0", "1000"] = "auto"
    """DW, OSM, OWN: DN to subtract from Sentinel-2; auto follows metadata, pixels and date of each scene."""
    s2_offset_ids: tuple[str, ...] = ()
    """DW, OSM, OWN: offset of single locations, as ID=0 ID=1000; hide a leading minus by a space:
    " -3.5_4.5-20230101=0"."""
    band_order: tuple[Literal["NIR", "R", "G", "B"], ...] = ()
    """NYC, OWN: order of the bands in the files, e.g. R G B NIR; NIR R G B for none, if the files tell nothing else."""
    statistics: Path | None = None
    """File of means and standard deviations, see compute_statistics.py; the built-in ones without it."""


def main(settings: DownstreamFolders) -> None:
    """Write the splits one after the other; one that is finished is left as it is."""
    layouts.check_out(settings.out)
    refuse_contradictions(settings)
    task = set_of(settings)
    if task.name == OWN:
        layouts.refuse_shared_ids(settings.data_path)
    order, sensors = settings.band_order or None, read_statistics(settings.statistics)
    locations = {
        split: layouts.list_downstream(settings.data_path, task.name, split, order) for split in settings.splits
    }
    told_by_id = offsets_by_id(settings.s2_offset_ids, {place.id for part in locations.values() for place in part})
    for split in settings.splits:
        refuse_changed_offsets(settings.out / split, told_by_id)
    wanted = {split: store_metas(settings, task, split, sensors) for split in settings.splits}
    chosen = {split: locations[split][: settings.limit] for split in settings.splits}
    unfinished = {
        split: stores for split, stores in wanted.items() if not preparation.is_finished(stores, chosen[split])
    }
    for split in unfinished if task.name == OWN else ():
        if far := layouts.far_in_time(chosen[split]):
            print(f"warning: {far}")
    prepare = partial(prepare_tile, task=task, s2_offset=settings.s2_offset, told_by_id=told_by_id)
    sizes = {"train": settings.tile_size, "test": 0}
    jobs = {
        split: tiled(chosen[split], prepare, layouts.location_shape, sizes[split], settings.stride)
        for split in unfinished
    }
    for split, stores in unfinished.items():
        preparation.check_listing(stores, jobs[split][0], settings.on_error)
    for split, stores in unfinished.items():
        preparation.run(stores, *jobs[split], size=sizes[split] or None, **settings.options)


def set_of(settings: DownstreamFolders) -> DownstreamSet:
    """What the set consists of; one's own has the legend in its folder, and the images of its training part."""
    if settings.dataset != OWN:
        return DOWNSTREAM_SETS[settings.dataset]
    legend = read_legend(str(settings.data_path / "legend.yaml"), "data_path")
    found = {part: layouts.own_modalities(layouts.own_part(settings.data_path, part)) for part in settings.splits}
    images, *others = [tuple(name for name in names if name in MODALITIES) for names in found.values()]
    for part, names in found.items():
        if "labels" not in names or "exact" in names or not images:
            there = " ".join(names) or "none"
            raise ValueError(f"{settings.data_path / part}: {there}: images and labels/ are wanted, and no exact/")
    if any(images != other for other in others):
        raise ValueError(
            f"--data_path {settings.data_path}: train/ has {' '.join(images)}, test/ {' '.join(others[0])}"
        )
    return DownstreamSet(OWN, legend, images)


def refuse_contradictions(settings: DownstreamFolders) -> None:
    """Raise ValueError for flags that do not go together."""
    name, order = settings.dataset, settings.band_order
    if not settings.splits or len(set(settings.splits)) < len(settings.splits):
        raise ValueError(f"--splits {' '.join(settings.splits)}: train, test, or both")
    if order and (name not in ("NYC", OWN) or sorted(order) != sorted(ORTHO.bands)):
        raise ValueError(
            f"--band_order {' '.join(order)}: {' '.join(ORTHO.bands)} in any order, with --dataset NYC or {OWN}"
        )
    if name not in DATED and (settings.s2_offset == "1000" or settings.s2_offset_ids):
        raise ValueError(f"--s2_offset, --s2_offset_ids: nothing to subtract with --dataset {name}; leave them out")


def prepare_tile(
    location: layouts.Location, task: DownstreamSet, s2_offset: str, told_by_id: dict[str, int]
) -> Prepared:
    """Read a tile; raw values stay but for the offset of `DATED` sets, labels become class ids."""
    seasons = layouts.read_location(location, 1, task.legend)
    if task.name not in DATED:
        for image, source in zip(seasons.get("s2", ()), location.scenes.get("s2", ())):
            refuse_offset(image, str(source))
        return preparation.to_raw(seasons)
    told = None if s2_offset == "auto" else int(s2_offset)
    by_date = task.name != OWN
    decided = preparation.without_offset(seasons, location, told, by_date=by_date, told_by_id=told_by_id)
    return Prepared(preparation.to_raw(decided.seasons).seasons, decided.offsets)


def store_metas(
    settings: DownstreamFolders, task: DownstreamSet, split: str, sensors: Mapping[str, Modality]
) -> dict[Path, StoreMeta]:
    """Path of each store of a split and its description.

    It names offset, order of bands and limit, so that a run with others neither resumes the stores nor takes them for
    its own; offsets of single locations are in the ledger beside them.
    """
    out = settings.out / split
    source = preparation.source_text(
        f"{task.name} {split} split",
        f"s2_offset {settings.s2_offset}" if task.name in DATED else "",
        f"codes {codes_checksum(task.legend)}" if task.name == OWN else "",
        f"bands from {' '.join(settings.band_order)}" if settings.band_order else "",
        tiles_text(settings.tile_size, settings.stride) if split == "train" else "",
        limit=settings.limit,
    )
    stores = {
        out / f"{modality}.lmdb": preparation.image_meta(
            modality, preparation.RAW_TYPES[modality], 1, source, settings.compression, sensors
        )
        for modality in task.modalities
    }
    return stores | {
        out / "labels.lmdb": preparation.label_meta(task.legend, 1, source, compression=settings.compression)
    }


if __name__ == "__main__":
    run(main, DownstreamFolders)
