"""Write a pretraining set (images, noisy labels, and exact ones where there are any) from raw folders into LMDB stores.

python data_prepare/write_pretrain_lmdb.py --data_path SSL4EO-S12 --out lmdb --ids_csv dw_complete_ids.csv
python data_prepare/write_pretrain_lmdb.py --data_path SSL4EO-S12-v1.1 --out lmdb --layout zarr --split val \\
    --labels_path labels.tar
python data_prepare/write_pretrain_lmdb.py --data_path NYC --out lmdb/nyc --layout nyc --band_order R G B NIR \\
    --data_name_label noisy_labels.lmdb
python data_prepare/write_pretrain_lmdb.py --data_path tiles --out lmdb --layout tiles --s2_offset_ids p7=1000
python data_prepare/write_pretrain_lmdb.py --data_path tiles --out lmdb --layout tiles --modalities ortho labels \\
    --labels_path noisy --label_pattern noisy.tif --label_codes noisy/legend.yaml
python data_prepare/write_pretrain_lmdb.py --data_path OWN --out lmdb --layout own --statistics statistics.yaml
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cromss import layouts, preparation
from cromss.aligned_stores import Prepared, refuse_changed_offsets
from cromss.config import run
from cromss.legend_files import NAMED, codes_checksum, read_legend
from cromss.legends import Legend
from cromss.offset import offsets_by_id
from cromss.sensors import Modality
from cromss.settings.pretraining_set import PretrainSet
from cromss.statistics import read_statistics
from cromss.store import StoreMeta
from cromss.tiles import tiled, tiles_text

RESAMPLED = ("ssl4eo", "zarr")
"""Layouts of several seasons, resampled to one size."""


def main(settings: PretrainSet) -> None:
    """List, check, estimate, write, report; a finished set is left as it is."""
    layouts.check_out(settings.out)
    legends = read_legends(settings)
    locations = list_locations(settings)[: settings.limit]
    if settings.layout == "own" and (far := layouts.far_in_time(locations)):
        print(f"warning: {far}")
    resampled = settings.layout in RESAMPLED
    seasonal = resampled or settings.layout == "own"
    num_seasons = settings.num_seasons or (layouts.most_seasons(locations) if seasonal else 1)
    size = settings.size if resampled else None
    sensors = read_statistics(settings.statistics)
    told_by_id = offsets_by_id(settings.s2_offset_ids, {location.id for location in locations})
    refuse_changed_offsets(settings.out, told_by_id)
    stores = store_metas(settings, legends, num_seasons, sensors)
    if preparation.is_finished(stores, locations):
        return
    prepare = partial(
        prepare_location,
        num_seasons=num_seasons,
        legends=legends,
        size=size,
        told=None if settings.s2_offset == "auto" else int(settings.s2_offset),
        told_by_id=told_by_id,
        sensors=sensors,
    )
    shape = (lambda _: (size, size)) if size else layouts.location_shape
    job = tiled(locations, prepare, shape, settings.tile_size, settings.stride)
    preparation.run(stores, *job, size=settings.tile_size or size, **settings.options)


def read_legends(settings: PretrainSet) -> dict[str, Legend]:
    """Legends of noisy and exact labels, which have the same classes."""
    noisy, exact = default_codes(settings)
    label_codes = settings.label_codes or noisy
    exact_codes = settings.exact_codes or exact or label_codes
    legends = {"labels": read_legend(label_codes, "label_codes"), "exact": read_legend(exact_codes, "exact_codes")}
    ours, others = legends["exact"].classes, legends["labels"].classes
    if ours != others and legends.keys() <= set(settings.written):
        shown = f"{', '.join(ours)}, where --label_codes {label_codes} has {', '.join(others)}"
        raise ValueError(f"--exact_codes {exact_codes}: its classes are {shown}; both must have the same")
    return legends


def default_codes(settings: PretrainSet) -> tuple[str, str]:
    """Codes of noisy and exact labels where none are told; empty where the exact have those of the noisy."""
    if settings.layout == "own":
        if not settings.label_codes and not (settings.data_path / "legend.yaml").is_file():
            raise ValueError(f"--data_path {settings.data_path}: no legend.yaml there; it names classes and codes")
        exact = settings.data_path / "legend_exact.yaml"
        return str(settings.data_path / "legend.yaml"), str(exact) if exact.is_file() else ""
    return ("NYC_LIDAR", "NYC_MERGED") if settings.layout == "nyc" else ("NoL", "")


def list_locations(settings: PretrainSet) -> list[layouts.Location]:
    """Locations of the chosen layout and modalities."""
    order = settings.band_order or None
    if settings.layout == "nyc":
        return layouts.list_nyc_triples(settings.data_path, "train", order, settings.written)
    if settings.layout == "ssl4eo":
        return layouts.list_ssl4eo(settings.data_path, places(settings), settings.ids_csv)
    if settings.layout == "own":
        return layouts.list_own(settings.data_path, settings.written, order)
    if settings.layout == "zarr":
        images = [modality for modality in settings.written if modality != "labels"]
        labels = settings.labels_path if "labels" in settings.written else None
        return layouts.list_zarr(settings.data_path, settings.split, images, labels)
    return layouts.list_tiles(settings.data_path, places(settings), roots(settings), order)


def places(settings: PretrainSet) -> dict[str, str]:
    """Modality -> its folder (ssl4eo) or file pattern (tiles)."""
    folders = {"s1": settings.s1_dir, "s2": settings.s2_dir, "labels": settings.label_dir}
    patterns = {
        "s1": settings.s1_pattern,
        "s2": settings.s2_pattern,
        "ortho": settings.ortho_pattern,
        "labels": settings.label_pattern,
        "exact": settings.exact_pattern,
    }
    known = {"ssl4eo": folders, "tiles": patterns}.get(settings.layout, {})
    return {modality: known[modality] for modality in settings.written if modality in known}


def roots(settings: PretrainSet) -> dict[str, Path]:
    """Modality -> its folder of tiles, where that is not data_path."""
    told = {"labels": settings.labels_path, "exact": settings.exact_path}
    return {modality: path for modality, path in told.items() if path is not None}


def prepare_location(
    location: layouts.Location,
    num_seasons: int,
    legends: Mapping[str, Legend],
    size: int | None,
    told: int | None,
    told_by_id: Mapping[str, int],
    sensors: Mapping[str, Modality],
) -> Prepared:
    """Read a location and convert it to what is stored."""
    seasons = layouts.read_location(location, num_seasons, legends["labels"], size, legends["exact"])
    return preparation.to_pretraining(seasons, location, told, told_by_id, sensors)


def store_metas(
    settings: PretrainSet, legends: Mapping[str, Legend], num_seasons: int, sensors: Mapping[str, Modality]
) -> dict[Path, StoreMeta]:
    """Path of each store and its description; it names the settings, so that a run with others refuses the store."""
    stores = {}
    for modality, name in settings.stores.items():
        source = source_of(settings, modality, legends.get(modality))
        if modality in legends:
            meta = preparation.label_meta(legends[modality], num_seasons, source, modality, settings.compression)
        else:
            meta = preparation.image_meta(modality, "uint8", num_seasons, source, settings.compression, sensors)
        stores[settings.out / name] = meta
    return stores


def source_of(settings: PretrainSet, modality: str, legend: Legend | None) -> str:
    """What a store says of its source, with the meaning of codes that a user's file gives."""
    seasonal, root = settings.layout in RESAMPLED, roots(settings).get(modality)
    return preparation.source_text(
        f"{settings.layout} layout",
        settings.split if settings.layout == "zarr" else "",
        places(settings).get(modality, ""),
        f"from {root.name}" if root else "",
        f"codes {codes_checksum(legend)}" if legend and legend not in NAMED.values() else "",
        f"ids of {settings.ids_csv.name}" if settings.ids_csv else "",
        f"resampled to {settings.size} px" if seasonal else "",
        tiles_text(settings.tile_size, settings.stride),
        f"s2_offset {settings.s2_offset}" if modality == "s2" else "",
        f"bands from {' '.join(settings.band_order)}" if modality == "ortho" and settings.band_order else "",
        limit=settings.limit,
    )


if __name__ == "__main__":
    run(main, PretrainSet)
