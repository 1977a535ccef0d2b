"""The downstream sets: what each consists of, and what its scores are called."""

from dataclasses import dataclass
from pathlib import Path

from cromss.legend_files import stored_legend
from cromss.legends import DFC2020, DW, NYC, OSCD, OSM, Legend
from cromss.sensors import MODALITIES
from cromss.store import LmdbReader

CLASS_SCORES = {"oa": "OA", "aa": "AA", "miou": "mIoU", "mf1": "mF1"}
"""Scores of land-cover sets: key -> name for people."""

CHANGE_SCORES = {"oa": "OA", "iou": "IoU", "precision": "precision", "recall": "recall", "f1": "F1"}
"""Scores of change detection; all but OA are those of the class "change"."""


@dataclass(frozen=True)
class DownstreamSet:
    """One set with exact labels.

    Attributes:
        name: Word for `--dataset`.
        legend: Classes.
        modalities: Images it has.
        num_dates: Images of each place that belong to one label.
        label_key: Prefix of the label keys in the published LMDB; empty where none was published.
        raw_codes: The published LMDB holds raw label codes, not class ids.
    """

    name: str
    legend: Legend
    modalities: tuple[str, ...]
    num_dates: int = 1
    label_key: str = ""
    raw_codes: bool = False

    @property
    def is_change(self) -> bool:
        """Two dates and one binary label; the test tiles are whole cities of differing sizes."""
        return self.num_dates == 2

    @property
    def scores(self) -> dict[str, str]:
        """Scores to report: key -> name for people."""
        return CHANGE_SCORES if self.is_change else CLASS_SCORES


DOWNSTREAM_SETS = {
    entry.name: entry
    for entry in (
        DownstreamSet("DFC2020", DFC2020, ("s1", "s2"), label_key="lbl"),
        DownstreamSet("DW", DW, ("s1", "s2"), label_key="dw", raw_codes=True),
        DownstreamSet("OSM", OSM, ("s1", "s2"), label_key="osm", raw_codes=True),
        DownstreamSet("OSCD", OSCD, ("s2",), num_dates=2),
        DownstreamSet("NYC", NYC, ("ortho",)),
    )
}
"""The sets of the papers by name (arXiv 2405.01217, 2402.16164)."""

OWN = "OWN"
"""Word for a set of one's own, whose stores tell what it consists of."""


def stored_set(part: Path) -> DownstreamSet:
    """A set of one's own: classes and modalities as the stores of its training part tell.

    Raises:
        ValueError: No stores, or label stores that do not tell their classes.
    """
    if not (part / "labels.lmdb").is_dir():
        raise ValueError(f"{part}: no labels.lmdb in it; write the set with write_downstream_lmdb.py --dataset {OWN}")
    legend = stored_legend(LmdbReader(part / "labels.lmdb", "labels").meta)
    if legend is None:
        raise ValueError(f"{part / 'labels.lmdb'}: does not tell its classes; write it again with a legend.yaml")
    return DownstreamSet(OWN, legend, tuple(name for name in MODALITIES if (part / f"{name}.lmdb").is_dir()))
