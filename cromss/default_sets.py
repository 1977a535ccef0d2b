"""The synthetic sets that scripts use when no data path is given: raw GeoTIFFs, then LMDB, made once."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from cromss import layouts, preparation, synthetic
from cromss.aligned_stores import Prepared, write_stores
from cromss.legends import DFC2020, NOL
from cromss.settings import PretrainData
from cromss.store import StoreMeta

_SOURCE = f"synthetic world {synthetic.WORLD_VERSION}"
_PATIENCE_S = 1800


def pretraining_set(folder: Path, names: PretrainData) -> Path:
    """Folder of the LMDB environments of a synthetic NoL set, made if it is not there.

    Args:
        folder: Where raw files and environments go.
        names: Environment names and number of locations.
    """
    home = folder / f"nol_v{synthetic.WORLD_VERSION}_{names.synthetic_locations}"
    files = {"s1": names.data_name_s1, "s2": names.data_name_s2, "labels": names.data_name_label}
    noisy = {modality: home / "lmdb" / name for modality, name in files.items()}
    exact = {"labels": home / "lmdb" / names.data_name_gt}

    def make(stores: Mapping[str, Path], folders: Mapping[str, str]) -> None:
        synthetic.write_nol(home / "raw", names.synthetic_locations)
        locations = layouts.list_ssl4eo(home / "raw", folders, home / "raw" / "dw_complete_ids.csv")
        num_seasons = layouts.most_seasons(locations)
        metas = {path: _quantised_meta(modality, num_seasons) for modality, path in stores.items()}
        write_stores(metas, locations, partial(_quantised, num_seasons=num_seasons))

    _once(noisy, partial(make, folders={"s1": "s1", "s2": "s2c", "labels": "labels"}))
    _once(exact, partial(make, folders={"labels": "exact"}))
    return home / "lmdb"


def dfc2020_set(folder: Path, num_train: int, num_test: int) -> Path:
    """Folder with train/ and test/ environments of a synthetic DFC2020-like set, made if it is not there."""
    home = folder / f"dfc2020_v{synthetic.WORLD_VERSION}_{num_train}_{num_test}"

    def make(stores: Mapping[str, Path], split: str) -> None:
        synthetic.write_dfc2020(home / "raw", num_train, num_test)
        metas = {
            stores["s1"]: preparation.image_meta("s1", "float32", 1, _SOURCE),
            stores["s2"]: preparation.image_meta("s2", "uint16", 1, _SOURCE),
            stores["labels"]: preparation.label_meta(DFC2020.name, 1, _SOURCE),
        }
        write_stores(metas, layouts.list_dfc2020(home / "raw", split), _raw)

    for split, part in (("validation", "train"), ("test", "test")):
        stores = {modality: home / "lmdb" / part / f"{modality}.lmdb" for modality in ("s1", "s2", "labels")}
        _once(stores, partial(make, split=split))
    return home / "lmdb"


def _once(stores: Mapping[str, Path], make: Callable[[Mapping[str, Path]], None]) -> None:
    """Make what is missing in the first of several processes; the others wait for it."""
    deadline = time.monotonic() + _PATIENCE_S
    while missing := [path for path in stores.values() if not path.exists()]:
        if rank_zero_only.rank == 0:
            make(stores)
        elif time.monotonic() > deadline:
            raise ValueError(f"{missing[0]}: the first process has not made it; do all nodes share this folder?")
        else:
            time.sleep(1)


def _quantised_meta(modality: str, num_seasons: int) -> StoreMeta:
    if modality == "labels":
        return preparation.label_meta(NOL.name, num_seasons, _SOURCE)
    return preparation.image_meta(modality, "uint8", num_seasons, _SOURCE)


def _quantised(location: layouts.Location, num_seasons: int) -> Prepared:
    return preparation.to_pretraining(layouts.read_location(location, num_seasons, NOL, 264), location, told=0)


def _raw(location: layouts.Location) -> Prepared:
    return preparation.to_raw(layouts.read_location(location, 1, DFC2020))
