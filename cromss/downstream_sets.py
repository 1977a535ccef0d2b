"""The downstream sets: what each consists of, and what its scores are called."""

from dataclasses import dataclass

from cromss.legends import DFC2020, DW, NYC, OSCD, OSM, Legend

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
        tile_sizes: Sides of training and of test tiles in pixels; 0 where they vary.
        num_tiles: Training and test tiles of the published set; cities for OSCD.
        num_dates: Images of each place that belong to one label.
        label_key: Prefix of the label keys in the published LMDB; empty where none was published.
        raw_codes: The published LMDB holds raw label codes, not class ids.
    """

    name: str
    legend: Legend
    modalities: tuple[str, ...]
    tile_sizes: tuple[int, int]
    num_tiles: tuple[int, int]
    num_dates: int = 1
    label_key: str = ""
    raw_codes: bool = False

    @property
    def is_change(self) -> bool:
        """Two dates and one binary label."""
        return self.num_dates == 2

    @property
    def scores(self) -> dict[str, str]:
        """Scores to report: key -> name for people."""
        return CHANGE_SCORES if self.is_change else CLASS_SCORES


DOWNSTREAM_SETS = {
    entry.name: entry
    for entry in (
        DownstreamSet("DFC2020", DFC2020, ("s1", "s2"), (256, 256), (986, 5128), label_key="lbl"),
        DownstreamSet("DW", DW, ("s1", "s2"), (510, 512), (3574, 340), label_key="dw", raw_codes=True),
        DownstreamSet("OSM", OSM, ("s1", "s2"), (510, 512), (1375, 400), label_key="osm", raw_codes=True),
        DownstreamSet("OSCD", OSCD, ("s2",), (0, 0), (14, 10), num_dates=2),
        DownstreamSet("NYC", NYC, ("ortho",), (288, 288), (22000, 4500)),
    )
}
"""The sets of the papers by name (arXiv 2405.01217, 2402.16164)."""
