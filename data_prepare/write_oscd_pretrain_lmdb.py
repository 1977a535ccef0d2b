"""Write the training cities of OSCD with land-cover labels as a pretraining set: the two dates are its seasons.

python data_prepare/write_oscd_pretrain_lmdb.py --data_path OSCD --labels_path oscd_dw --out lmdb/oscd_nol

The stores have the names and the quantisation of write_pretrain_lmdb.py; the test cities of the split are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cromss import oscd, preparation
from cromss.aligned_stores import Prepared
from cromss.config import run
from cromss.layouts import Location, check_out
from cromss.legends import NOL
from cromss.settings.common import require
from cromss.settings.writing import Writing
from cromss.store import StoreMeta
from cromss.tiles import TileReader, cut, tiles_text


@dataclass(frozen=True)
class OscdPretrainFolders(Writing):
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
    tile_size: int = field(default=264, kw_only=True)
    """Side of the tiles in pixels; the last ones are shifted inwards, a smaller city makes smaller tiles."""
    data_name_s2: str = "0k_251k_uint8_s2c.lmdb"
    """Store of Sentinel-2 under out."""
    data_name_label: str = "dw_labels.lmdb"
    """Store of the labels under out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tile_size >= 1, "tile_size", self.tile_size, "at least 1")


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
        cut(cities, oscd.city_shape, settings.tile_size, settings.stride)[: settings.limit],
        TileReader(prepare),
        size=settings.tile_size,
        **settings.options,
    )


def prepare(city: Location) -> Prepared:
    """Read a city and quantise it; the scenes of 2015 to 2018 have no DN offset."""
    return preparation.to_pretraining(oscd.read_city(city, NOL), city, told=0)


def store_metas(settings: OscdPretrainFolders, cities: Sequence[str]) -> dict[Path, StoreMeta]:
    """Path of each store and its description; it names cities, tiles, labels and limit, see `is_finished`."""
    source = preparation.source_text(
        f"OSCD with labels {settings.labels_path.name}",
        f"cities {' '.join(cities)}",
        tiles_text(settings.tile_size, settings.stride),
        limit=settings.limit,
    )
    images = preparation.image_meta("s2", "uint8", 2, source, settings.compression)
    labels = preparation.label_meta(NOL.name, 2, source, compression=settings.compression)
    return {settings.out / settings.data_name_s2: images, settings.out / settings.data_name_label: labels}


if __name__ == "__main__":
    run(main, OscdPretrainFolders)
