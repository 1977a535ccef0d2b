"""Write OSCD (change between two Sentinel-2 dates) into LMDB stores: training cities in tiles, test cities whole.

python data_prepare/write_oscd_lmdb.py --data_path OSCD --out lmdb/oscd
python data_prepare/write_oscd_lmdb.py --data_path OSCD --out lmdb/oscd_dev --split development --stride 64

All bands of both dates are put on the grid of date 1's B02 (bicubic); where date 2 ends a pixel or two earlier, its
edge is repeated. Each store folder holds s2.lmdb (two dates, uint16 DN) and labels.lmdb (0 no change, 1 change, 255
unknown).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cromss import oscd, preparation
from cromss.aligned_stores import Prepared
from cromss.config import run
from cromss.layouts import Location, check_out
from cromss.legends import OSCD
from cromss.settings.common import require
from cromss.settings.writing import Writing
from cromss.store import StoreMeta
from cromss.tiles import TileReader, cut, tiles_text


@dataclass(frozen=True)
class OscdFolders(Writing):
    """Raw folder of OSCD, and how to write it."""

    data_path: Path
    """Folder with "Onera Satellite Change Detection dataset - Images", "... - Train Labels" and "... - Test Labels", or
    with images and labels; the native bands are read."""
    out: Path
    """Folder for train/ and test/ with s2.lmdb and labels.lmdb."""
    split: Literal["official", "development"] = "official"
    """official: train.txt and test.txt of the set (14 and 10 cities); development: 4 of the 14 test (bordeaux hongkong
    mumbai pisa)."""
    train_cities: tuple[str, ...] = ()
    """Other training cities; those of train.txt that are not tested for none."""
    test_cities: tuple[str, ...] = ()
    """Other test cities; those of the split for none."""
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    """What to write."""
    tile_size: int = field(default=128, kw_only=True)
    """Side of the training tiles in pixels; the last ones are shifted inwards, so that a city is covered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tile_size >= 1, "tile_size", self.tile_size, "at least 1")


def main(settings: OscdFolders) -> None:
    """Write the splits one after the other; one that is finished is left as it is."""
    check_out(settings.out)
    cities = oscd.split_cities(settings.data_path, settings.split, settings.train_cities, settings.test_cities)
    if not settings.splits or len(set(settings.splits)) < len(settings.splits):
        raise ValueError(f"--splits {' '.join(settings.splits)}: train, test, or both")
    wanted = {split: store_metas(settings, split, cities[split]) for split in settings.splits}
    unfinished = {split: stores for split, stores in wanted.items() if not preparation.is_finished(stores)}
    chosen = {split: list_locations(settings, split, cities[split]) for split in unfinished}
    for split, stores in unfinished.items():
        preparation.check_listing(stores, chosen[split], settings.on_error)
    for split, stores in unfinished.items():
        preparation.run(
            stores,
            chosen[split],
            TileReader(prepare) if split == "train" else prepare,
            size=settings.tile_size if split == "train" else None,
            **settings.options,
        )


def list_locations(settings: OscdFolders, split: str, cities: Sequence[str]) -> Sequence[Location]:
    """Tiles of the training cities, test cities whole."""
    locations = oscd.list_cities(settings.data_path, cities)
    if split == "train":
        locations = cut(locations, oscd.city_shape, settings.tile_size, settings.stride)
    return locations[: settings.limit]


def prepare(city: Location) -> Prepared:
    """Read a city; raw values stay (the scenes of 2015 to 2018 have no DN offset)."""
    return preparation.to_raw(oscd.read_city(city))


def store_metas(settings: OscdFolders, split: str, cities: Sequence[str]) -> dict[Path, StoreMeta]:
    """Path of each store of a split and its description.

    It names cities, tiles and limit, so that a run with others neither resumes the stores nor takes them for its own.
    """
    tiles = tiles_text(settings.tile_size, settings.stride) if split == "train" else "whole"
    source = preparation.source_text(f"OSCD {split}", f"cities {' '.join(cities)}", tiles, limit=settings.limit)
    images = preparation.image_meta("s2", preparation.RAW_TYPES["s2"], 2, source, settings.compression)
    labels = preparation.label_meta(OSCD.name, 1, source, compression=settings.compression)
    return {settings.out / split / "s2.lmdb": images, settings.out / split / "labels.lmdb": labels}


if __name__ == "__main__":
    run(main, OscdFolders)
