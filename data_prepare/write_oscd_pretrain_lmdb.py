"""Write the training cities of OSCD with land-cover labels as a pretraining set: the two dates are its seasons.

python data_prepare/write_oscd_pretrain_lmdb.py --data_path OSCD --labels_path oscd_dw --out lmdb/oscd_nol

The stores have the names and the quantisation of write_pretrain_lmdb.py; the test cities of the split are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cromss import oscd, preparation
from cromss.aligned_stores import Prepared
from cromss.config import run
from cromss.layouts import check_out
from cromss.legends import NOL
from cromss.store import StoreMeta


@dataclass(frozen=True)
class OscdPretrainFolders:
    """Raw folder of OSCD and a folder of noisy labels, and how to write them."""

    data_path: Path
    """Folder of the raw set, as for write_oscd_lmdb.py; its masks of change are not read."""
    labels_path: Path
    """Folder of <city>_<1 or 2>.tif on the grid of date 1's B02: class ids 0..8 of the NoL legend (Dynamic World), 255
    unknown; not the raw codes 1..9 of the DW set."""
    out: Path
    """Folder for the stores."""
    split: Literal["official", "development"] = "development"
    """Whose training cities to write: official 14, development 10."""
    train_cities: tuple[str, ...] = ()
    """Other cities to write; those of the split for none."""
    tile_size: int = 264
    """Side of the tiles in pixels; the last ones are shifted inwards, a smaller city makes smaller tiles."""
    stride: int = 0
    """Distance of neighbouring tiles in pixels; the tile size for 0."""
    data_name_s2: str = "0k_251k_uint8_s2c.lmdb"
    """Store of Sentinel-2 under out."""
    data_name_label: str = "dw_labels.lmdb"
    """Store of the labels under out."""
    on_error: Literal["stop", "skip"] = "stop"
    """Stop at the first bad tile, or list it in skipped.csv and go on."""
    workers: int = 4
    """Reading threads."""
    limit: int | None = None
    """Write only the first tiles."""
    dry_run: bool = False
    """Only list the tiles and estimate the disk space."""


def main(settings: OscdPretrainFolders) -> None:
    """List, cut, check, estimate, write, report; stores that are finished are left as they are."""
    check_out(settings.out)
    names = (settings.data_name_s2, settings.data_name_label)
    if len(set(names)) < 2 or not all(names) or any("/" in name for name in names):
        raise ValueError(f"--data_name_s2, _label {' '.join(names)}: two different names in --out are wanted")
    trained = oscd.split_cities(settings.data_path, settings.split, settings.train_cities)["train"]
    stores = store_metas(settings, trained)
    if preparation.is_finished(stores):
        return
    cities = oscd.list_cities(settings.data_path, trained, settings.labels_path)
    preparation.run(
        stores,
        preparation.first(oscd.cut_cities(cities, settings.tile_size, settings.stride), settings.limit),
        partial(prepare_tile, reader=oscd.CityReader(NOL)),
        size=settings.tile_size,
        on_error=settings.on_error,
        workers=settings.workers,
        dry_run=settings.dry_run,
    )


def prepare_tile(tile: oscd.Tile, reader: oscd.CityReader) -> Prepared:
    """Read a tile and quantise it; the scenes of 2015 to 2018 have no DN offset."""
    return preparation.to_pretraining(reader(tile), tile, told=0)


def store_metas(settings: OscdPretrainFolders, cities: Sequence[str]) -> dict[Path, StoreMeta]:
    """Path of each store and its description; it names cities, tiles, labels and limit, see `is_finished`."""
    source = preparation.source_text(
        f"OSCD with labels {settings.labels_path.name}",
        f"cities {' '.join(cities)}",
        oscd.tiles_text(settings.tile_size, settings.stride),
        limit=settings.limit,
    )
    return {
        settings.out / settings.data_name_s2: preparation.image_meta("s2", "uint8", 2, source),
        settings.out / settings.data_name_label: preparation.label_meta(NOL.name, 2, source),
    }


if __name__ == "__main__":
    run(main, OscdPretrainFolders)
