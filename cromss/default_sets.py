"""The synthetic sets that scripts use when no data path is given: raw GeoTIFFs, then LMDB, made once."""

import fcntl
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rasterio.errors import NotGeoreferencedWarning

from cromss import layouts, oscd, preparation, synthetic
from cromss.aligned_stores import Prepared, write_stores
from cromss.downstream_sets import DownstreamSet
from cromss.legends import NOL, NYC_LIDAR, NYC_MERGED, Legend
from cromss.settings import PretrainData
from cromss.store import LmdbWriter, StoreMeta, open_store
from cromss.synthetic.location import NOISE, stream
from cromss.tiles import TileReader, cut

_SOURCE = f"synthetic world {synthetic.WORLD_VERSION} ({synthetic.WORLD_HASH})"
_PATIENCE_S = 1800
_CITY_TILE = 128
_OTHER_CITY = 6
"""Seed of the city with noisy labels; that of the downstream set is another."""
_DOWNSTREAM_WRITERS = {
    "DFC2020": synthetic.write_dfc2020,
    "DW": synthetic.write_dw,
    "OSM": synthetic.write_osm,
    "OSCD": synthetic.write_oscd,
    "NYC": synthetic.write_nyc,
}


def pretraining_set(folder: Path, names: PretrainData, modalities: Sequence[str]) -> Path:
    """Folder of the LMDB environments of a synthetic set with noisy labels, made if it is not there.

    Args:
        folder: Where raw files and environments go.
        names: Environment names and number of locations.
        modalities: What will be read: `("ortho",)` asks for the city, others for the land of both Sentinels.
    """
    return _city_set(folder, names) if "ortho" in modalities else _land_set(folder, names)


def _land_set(folder: Path, names: PretrainData) -> Path:
    home = folder / f"nol_v{synthetic.WORLD_VERSION}_{names.synthetic_locations}"
    files = {"s1": names.data_name_s1, "s2": names.data_name_s2, "labels": names.data_name_label}
    noisy = {modality: home / "lmdb" / name for modality, name in files.items()}
    exact = {"labels": home / "lmdb" / names.data_name_gt}

    def make(stores: Mapping[str, Path], folders: Mapping[str, str]) -> None:
        synthetic.write_nol(home / "raw", names.synthetic_locations)
        locations = layouts.list_ssl4eo(home / "raw", folders, home / "raw" / "dw_complete_ids.csv")
        num_seasons = layouts.most_seasons(locations)
        metas = {path: _quantised_meta(modality, num_seasons, NOL) for modality, path in stores.items()}
        write_stores(metas, locations, partial(_quantised, num_seasons=num_seasons))

    _once(home, noisy, partial(make, folders={"s1": "s1", "s2": "s2c", "labels": "labels"}))
    _once(home, exact, partial(make, folders={"labels": "exact"}))
    if not names.has_usual_noise:
        _once(home, {"labels": home / "lmdb" / names.noisy_name}, partial(_spoil, exact["labels"], names))
    return home / "lmdb"


def _spoil(exact: Path, names: PretrainData, stores: Mapping[str, Path]) -> None:
    """Write labels with the noise asked for beside the exact ones."""
    masks, model = open_store(exact), synthetic.NOISE_PRESETS[names.synthetic_noise][names.synthetic_noise_level - 1]
    with LmdbWriter(stores["labels"], _quantised_meta("labels", masks.num_seasons, NOL)) as writer:
        for index in range(len(writer.location_ids), len(masks)):
            seasons = enumerate(masks.read_seasons(index))
            spoilt = [synthetic.noisy_labels(mask, s, stream([0, index], NOISE), model) for s, mask in seasons]
            writer.write(masks.location_id(index), spoilt)
        writer.finish()


def _city_set(folder: Path, names: PretrainData) -> Path:
    home = folder / f"nyc_noisy_v{synthetic.WORLD_VERSION}_{names.synthetic_locations}"
    files = {"ortho": names.data_name_ortho, "labels": names.data_name_label, "exact": names.data_name_gt}
    stores = {modality: home / "lmdb" / name for modality, name in files.items()}

    def make(stores: Mapping[str, Path]) -> None:
        synthetic.write_nyc(home / "raw", names.synthetic_locations, num_test=1, seed=_OTHER_CITY)
        metas = {path: _quantised_meta(modality, 1, NYC_LIDAR) for modality, path in stores.items()}
        write_stores(metas, layouts.list_nyc_triples(home / "raw", "train"), _triple)

    _once(home, stores, make)
    return home / "lmdb"


def downstream_set(folder: Path, task: DownstreamSet, num_train: int, num_test: int, size: int) -> Path:
    """Folder with train/ and test/ environments of a synthetic downstream set, made if it is not there.

    Args:
        folder: Where raw files and environments go.
        task: Which set.
        num_train: Training tiles; cities for OSCD, which are cut into tiles.
        num_test: Test tiles; cities for OSCD.
        size: Side of a tile in pixels; of a city, about.
    """
    home = folder / f"{task.name.lower()}_v{synthetic.WORLD_VERSION}_{num_train}_{num_test}_{size}"

    def make(stores: Mapping[str, Path], part: str) -> None:
        _DOWNSTREAM_WRITERS[task.name](home / "raw", num_train, num_test, size)
        cities = synthetic.city_names(num_train, num_test)[part] if task.is_change else ()
        locations, prepare = _downstream_locations(home / "raw", task, part, cities)
        metas = {path: _raw_meta(modality, task) for modality, path in stores.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            write_stores(metas, locations, prepare)

    for part in ("train", "test"):
        stores = {modality: home / "lmdb" / part / f"{modality}.lmdb" for modality in (*task.modalities, "labels")}
        _once(home, stores, partial(make, part=part))
    return home / "lmdb"


def _downstream_locations(
    raw: Path, task: DownstreamSet, part: str, cities: Sequence[str]
) -> tuple[Sequence[layouts.Location], Callable[[layouts.Location], Prepared]]:
    """Locations of a part, and what prepares one: training cities in tiles, test cities and tiles whole."""
    if not task.is_change:
        return layouts.list_downstream(raw, task.name, part), partial(_raw_tile, legend=task.legend)
    listed = oscd.list_cities(raw, cities)
    return (cut(listed, oscd.city_shape, _CITY_TILE), TileReader(_raw_city)) if part == "train" else (listed, _raw_city)


def _raw_tile(location: layouts.Location, legend: Legend) -> Prepared:
    return preparation.to_raw(layouts.read_location(location, 1, legend))


def _raw_city(city: layouts.Location) -> Prepared:
    return preparation.to_raw(oscd.read_city(city))


def _once(home: Path, stores: Mapping[str, Path], make: Callable[[Mapping[str, Path]], None]) -> None:
    """Make what is missing in the first process of a run; others of it, and of other runs, wait for it."""
    deadline = time.monotonic() + _PATIENCE_S
    while missing := [path for path in stores.values() if not path.exists()]:
        if rank_zero_only.rank == 0:
            with _alone(home):
                if not all(path.exists() for path in stores.values()):
                    make(stores)
        elif time.monotonic() > deadline:
            raise ValueError(f"{missing[0]}: the first process has not made it; do all nodes share this folder?")
        else:
            time.sleep(1)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Wait until no other run is writing into the folder."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _quantised_meta(modality: str, num_seasons: int, legend: Legend) -> StoreMeta:
    if modality in ("labels", "exact"):
        return preparation.label_meta(legend, num_seasons, _SOURCE, modality)
    return preparation.image_meta(modality, "uint8", num_seasons, _SOURCE)


def _quantised(location: layouts.Location, num_seasons: int) -> Prepared:
    return preparation.to_pretraining(layouts.read_location(location, num_seasons, NOL, 264), location, told=0)


def _triple(location: layouts.Location) -> Prepared:
    return preparation.to_pretraining(
        layouts.read_location(location, 1, NYC_LIDAR, exact_legend=NYC_MERGED), location, None
    )


def _raw_meta(modality: str, task: DownstreamSet) -> StoreMeta:
    if modality == "labels":
        return preparation.label_meta(task.legend.name, 1, _SOURCE)
    return preparation.image_meta(modality, preparation.RAW_TYPES[modality], task.num_dates, _SOURCE)
