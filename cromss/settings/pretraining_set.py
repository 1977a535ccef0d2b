"""Settings of the writer of pretraining sets: which raw folders, and what of them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from cromss.layouts import own_modalities
from cromss.layouts.own import OWN_MODALITIES
from cromss.sensors import ORTHO
from cromss.settings.common import require
from cromss.settings.writing import Writing

MODALITIES = {
    "ssl4eo": ("s1", "s2", "labels"),
    "tiles": ("s1", "s2", "labels", "ortho", "exact"),
    "nyc": ("ortho", "labels", "exact"),
    "own": OWN_MODALITIES,
    "zarr": ("s1", "s2", "labels"),
}
"""What a layout may hold; where nothing is said, the first three are written, of own those with a folder."""

_LAYOUTS = {
    **dict.fromkeys(("ids_csv", "s1_dir", "s2_dir", "label_dir"), ("ssl4eo",)),
    **dict.fromkeys(("size",), ("ssl4eo", "zarr")),
    **dict.fromkeys(("split",), ("zarr",)),
    **dict.fromkeys(("s1_pattern", "s2_pattern", "ortho_pattern", "label_pattern", "exact_pattern"), ("tiles",)),
    **dict.fromkeys(("labels_path",), ("tiles", "zarr")),
    **dict.fromkeys(("exact_path",), ("tiles",)),
}
"""Layouts that a flag is for, where it is not for all."""

_FLAGS = {
    "s1": ("s1_dir", "s1_pattern", "data_name_s1"),
    "s2": ("s2_dir", "s2_pattern", "s2_offset", "s2_offset_ids", "data_name_s2"),
    "ortho": ("ortho_pattern", "band_order", "data_name_ortho"),
    "labels": ("label_dir", "label_pattern", "labels_path", "label_codes", "data_name_label"),
    "exact": ("exact_pattern", "exact_path", "exact_codes", "data_name_gt"),
}
"""Flags that are for one modality."""


@dataclass(frozen=True)
class PretrainSet(Writing):
    """Raw folders of a pretraining set, and how to write them."""

    data_path: Path
    """Folder of the raw set."""
    out: Path
    """Folder for the stores, skipped.csv, scenes.csv and s2_offsets.csv."""
    layout: Literal["ssl4eo", "tiles", "nyc", "own", "zarr"] = "ssl4eo"
    """ssl4eo: <modality>/<id>/<scene>/<band>.tif, in folders or in <modality>.tar or <modality>/*.tar; zarr: shards
    of SSL4EO-S12 v1.1, <split>/{S1GRD,S2L1C}/*.zarr.zip; tiles: <id>/<one multi-band file a modality>;
    nyc: train/{image,noisy,label}/<id>.tif, orthophotos with noisy and exact labels;
    own: {s1,s2,ortho,labels,exact}/<id>/<YYYYMMDD>.tif and legend.yaml, any number of seasons."""
    modalities: tuple[Literal["s1", "s2", "ortho", "labels", "exact"], ...] = ()
    """What to write, labels being the noisy ones; if empty, ortho labels exact for nyc, all
    folders there are for own, s1 s2 labels otherwise."""
    split: Literal["train", "val"] = "train"
    """zarr: which split to write."""
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
    ortho_pattern: str = "ortho*.tif"
    """tiles: orthophoto in a location's folder."""
    label_pattern: str = "DW.tif"
    """tiles: file of the noisy labels in a location's folder."""
    exact_pattern: str = "exact.tif"
    """tiles: file of the exact labels in a location's folder."""
    labels_path: Path | None = None
    """tiles: folder with the same ids that holds the noisy labels; data_path without it. zarr: folder or tar archive
    of <id>/<scene>/label.tif."""
    exact_path: Path | None = None
    """tiles: folder with the same ids that holds the exact labels; data_path without it."""
    band_order: tuple[Literal["NIR", "R", "G", "B"], ...] = ()
    """Order of the bands in orthophotos, e.g. R G B NIR; NIR R G B for none, if the files tell nothing else."""
    label_codes: str = ""
    """Codes of the noisy labels: a YAML file of classes and codes, or a legend: NoL (0..8 are the classes), DW, OSM
    and NYC (0 is unlabelled, classes from 1), DFC2020, NYC_LIDAR, NYC_MERGED, OSCD; if empty, NYC_LIDAR for nyc,
    legend.yaml in data_path for own, NoL otherwise."""
    exact_codes: str = ""
    """Codes of the exact labels, for the same classes, told in the same way; if empty, NYC_MERGED for nyc,
    legend_exact.yaml in data_path for own if there, those of the noisy otherwise."""
    size: int = 264
    """ssl4eo, zarr: side to resample to, in pixels (images bicubic, labels nearest); tiles keep their size."""
    s2_offset: Literal["auto", "0", "1000"] = "auto"
    """DN to subtract from Sentinel-2; auto follows the metadata of each scene, else its pixels."""
    s2_offset_ids: tuple[str, ...] = ()
    """Offset of single locations, as ID=0 ID=1000."""
    statistics: Path | None = None
    """File of means and standard deviations, see compute_statistics.py; the built-in ones without it."""
    data_name_s1: str = "0k_251k_uint8_s1.lmdb"
    """Store of Sentinel-1 under out."""
    data_name_s2: str = "0k_251k_uint8_s2c.lmdb"
    """Store of Sentinel-2 under out."""
    data_name_ortho: str = "orthophotos.lmdb"
    """Store of the orthophotos under out."""
    data_name_label: str = "dw_labels.lmdb"
    """Store of the noisy labels under out."""
    data_name_gt: str = "exact_labels.lmdb"
    """Store of the exact labels under out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen, known = self.written, MODALITIES[self.layout]
        legal = set(chosen) <= set(known) and len(set(chosen)) == len(chosen)
        require(legal, "modalities", chosen, f"some of {' '.join(known)}, each once, with --layout {self.layout}")
        for flag in (f.name for f in fields(self) if getattr(self, f.name) != f.default):
            _check_use(flag, getattr(self, flag), self.layout, chosen)
        told = self.layout != "zarr" or "labels" not in chosen or self.labels_path is not None
        require(told, "labels_path", self.labels_path, "the labels, or --modalities s1 s2, with --layout zarr")
        names = tuple(self.stores.values())
        legal = len(set(names)) == len(names) and all(map(_is_store_name, names))
        require(legal, "data_name_*", names, "different names in --out, without .partial or .csv")
        require(self.size >= 1, "size", self.size, "at least 1")
        require(self.num_seasons is None or self.num_seasons >= 1, "num_seasons", self.num_seasons, "at least 1")
        for flag in (flag for flag in _LAYOUTS if flag.endswith("_pattern")):
            pattern = getattr(self, flag)
            require(bool(pattern) and not pattern.startswith("/"), flag, pattern, "a pattern of files in a folder")
        order = self.band_order
        legal = not order or sorted(order) == sorted(ORTHO.bands)
        require(legal, "band_order", order, f"{' '.join(ORTHO.bands)} in any order")

    @property
    def written(self) -> tuple[str, ...]:
        """The modalities to write."""
        if self.layout == "own" and not self.modalities:
            return own_modalities(self.data_path) or OWN_MODALITIES
        return self.modalities or MODALITIES[self.layout][:3]

    @property
    def stores(self) -> dict[str, str]:
        """Modality -> name of its store."""
        names = {
            "s1": self.data_name_s1,
            "s2": self.data_name_s2,
            "ortho": self.data_name_ortho,
            "labels": self.data_name_label,
            "exact": self.data_name_gt,
        }
        return {modality: names[modality] for modality in self.written}


def _is_store_name(name: str) -> bool:
    return "/" not in name and name not in ("", ".", "..") and not name.endswith((".partial", ".csv"))


def _check_use(flag: str, value: object, layout: str, written: tuple[str, ...]) -> None:
    """Refuse a flag that would not be looked at."""
    layouts = _LAYOUTS.get(flag, (layout,))
    require(layout in layouts, flag, value, f"left out with --layout {layout}; it is for {' or '.join(layouts)}")
    for modality, flags in _FLAGS.items():
        unused = flag in flags and modality not in written
        require(not unused, flag, value, f"left out where --modalities are {' '.join(written)}; it is for {modality}")
