"""What the doctor can find: a code word each, how bad it is, and what to do about it."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

DAMAGED, SUSPECT, NOTE = "damaged", "suspect", "note"
"""Severities: must not be trained on; look at it; good to know."""

SEVERITIES = (DAMAGED, SUSPECT, NOTE)


class Kind(NamedTuple):
    """How bad a finding is, and the remedy."""

    severity: str
    remedy: str


_AGAIN = "copy or write the store again, or leave the location out with --repair mark"
_LEAVE = "leave the location out with --repair mark"
_LOOK = "look at it; --repair mark --repair_suspect leaves it out"

KINDS = {
    "manifest": Kind(DAMAGED, "copy data.mdb and manifest.json from the same store"),
    "entries": Kind(DAMAGED, "copy or write the store again"),
    "none-in-use": Kind(DAMAGED, "write the store again, or take marked locations back with --repair undo"),
    "ids": Kind(DAMAGED, "copy or write the store again"),
    "same-id": Kind(DAMAGED, "write the store again, every location once"),
    "ids-differ": Kind(DAMAGED, "write the stores together, so that indices mean the same"),
    "seasons-differ": Kind(DAMAGED, "write the stores together, with the same seasons"),
    "missing": Kind(DAMAGED, _AGAIN),
    "record": Kind(DAMAGED, _AGAIN),
    "wrong-id": Kind(DAMAGED, _AGAIN),
    "dtype": Kind(DAMAGED, _AGAIN),
    "shape": Kind(DAMAGED, _AGAIN),
    "sizes-differ": Kind(DAMAGED, _LEAVE),
    "not-finite": Kind(DAMAGED, f"fill the values, or {_LEAVE}"),
    "constant": Kind(DAMAGED, f"nodata, or another unit than the writer took it for; {_LEAVE}"),
    "legend": Kind(DAMAGED, f"write again with the right legend, or {_LEAVE}"),
    "legend-unsaid": Kind(SUSPECT, "the store names no legend, NoL was assumed; write it with its legend"),
    "unlabelled": Kind(SUSPECT, _LOOK),
    "saturated": Kind(SUSPECT, f"linear radar or another unit? {_LOOK}"),
    "unit": Kind(SUSPECT, f"convert the source and write again; {_LOOK}"),
    "swapped": Kind(SUSPECT, "VV comes first; write again with the bands in that order"),
    "offset": Kind(SUSPECT, "write again with --s2_offset_ids ID=1000"),
    "same-pixels": Kind(SUSPECT, _LOOK),
    "season-order": Kind(SUSPECT, "write the location again with its scenes in time order"),
    "statistics": Kind(SUSPECT, "check unit, band order and offset of the source"),
    "far-statistics": Kind(NOTE, "of a small or local set that may well be"),
    "unlabelled-season": Kind(NOTE, "nothing is learned there"),
    "absent-class": Kind(NOTE, "it will not be learned"),
    "excluded": Kind(NOTE, "out of use already; --repair undo takes marked ones back"),
    "published": Kind(NOTE, "it has no checksums: damaged values pass unseen; nor is it ever repaired"),
}
"""Code word -> severity and remedy."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        code: Code word, a key of `KINDS`.
        store: Store, or two of them.
        what: What is wrong.
        index: Location; `None` where it is about the whole store.
        location_id: Its id.
        season: Season, where it is about one.
    """

    code: str
    store: str
    what: str
    index: int | None = None
    location_id: str = ""
    season: int | None = None

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.code].severity

    @property
    def remedy(self) -> str:
        """What to do."""
        return KINDS[self.code].remedy

    @property
    def where(self) -> str:
        """Store, index, id and season, as far as they are told."""
        place = "" if self.index is None else f", index {self.index} ({self.location_id})"
        return f"{self.store}{place}{'' if self.season is None else f', season {self.season}'}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"severity": self.severity, "remedy": self.remedy}
