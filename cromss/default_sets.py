"""The synthetic sets that scripts use when no data path is given: raw GeoTIFFs, then LMDB, made once."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cromss import layouts, preparation, synthetic
from cromss.legends import DFC2020, NOL
from cromss.settings import PretrainData

_SOURCE = f"synthetic world {synthetic.WORLD_VERSION}"


def pretraining_set(folder: Path, names: PretrainData) -> Path:
    """Folder of the LMDB environments of a synthetic NoL set, made if it is not there.

    Args:
        folder: Where raw files and environments go.
        names: Environment names and number of locations.
    """
    num_locations = names.synthetic_locations
    raw, lmdb = folder / f"nol_{num_locations}" / "raw", folder / f"nol_{num_locations}" / "lmdb"
    stores = {
        "s1": lmdb / names.data_name_s1,
        "s2": lmdb / names.data_name_s2,
        "labels": lmdb / names.data_name_label,
        "exact": lmdb / names.data_name_gt,
    }
    if not all(path.exists() for path in stores.values()):
        synthetic.write_nol(raw, num_locations)
        ids = raw / "dw_complete_ids.csv"
        _write(layouts.list_ssl4eo(raw, {"s1": "s1", "s2": "s2c", "labels": "labels"}, ids), stores)
        _write(layouts.list_ssl4eo(raw, {"labels": "exact"}, ids), {"labels": stores["exact"]})
    return lmdb


def dfc2020_set(folder: Path, num_train: int, num_test: int) -> Path:
    """Folder with train/ and test/ environments of a synthetic DFC2020-like set, made if it is not there."""
    home = folder / f"dfc2020_{num_train}_{num_test}"
    for split, part in (("validation", "train"), ("test", "test")):
        stores = {modality: home / "lmdb" / part / f"{modality}.lmdb" for modality in ("s1", "s2", "labels")}
        if all(path.exists() for path in stores.values()):
            continue
        synthetic.write_dfc2020(home / "raw", num_train, num_test)
        metas = {
            stores["s1"]: preparation.image_meta("s1", "float32", 1, _SOURCE),
            stores["s2"]: preparation.image_meta("s2", "uint16", 1, _SOURCE),
            stores["labels"]: preparation.label_meta(DFC2020.name, 1, _SOURCE),
        }
        preparation.write_stores(metas, layouts.list_dfc2020(home / "raw", split), _raw)
    return home / "lmdb"


def _write(locations: list[layouts.Location], stores: Mapping[str, Path]) -> None:
    num_seasons = layouts.most_seasons(locations)
    wanted = [modality for modality in ("s1", "s2", "labels") if modality in locations[0].scenes]
    metas = {
        stores[m]: preparation.label_meta(NOL.name, num_seasons, _SOURCE)
        if m == "labels"
        else preparation.image_meta(m, "uint8", num_seasons, _SOURCE)
        for m in wanted
    }
    preparation.write_stores(metas, locations, partial(_quantised, num_seasons=num_seasons))


def _quantised(location: layouts.Location, num_seasons: int) -> preparation.Prepared:
    return preparation.to_pretraining(layouts.read_location(location, num_seasons, NOL, 264), location, told=0)


def _raw(location: layouts.Location) -> preparation.Prepared:
    return preparation.to_raw(layouts.read_location(location, 1, DFC2020))
