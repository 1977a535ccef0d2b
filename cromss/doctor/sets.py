"""What is wrong between stores that should belong together, and what their ledger tells of the scenes."""

import csv
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from cromss.aligned_stores import SCENES_NAME
from cromss.doctor.findings import Finding
from cromss.doctor.subject import Subject
from cromss.legends import OSCD
from cromss.scene_names import scene_time
from cromss.sensors import MODALITIES

_SHOWN = 5
_TILE = re.compile(r"_r\d+_c\d+$")
"""What a tile has at the end of its id, beside the location's."""


def is_aligned(subjects: Sequence[Subject]) -> bool:
    """Whether an index means the same location in all stores."""
    return all(subject.ids == subjects[0].ids for subject in subjects)


def misalignment(subjects: Sequence[Subject]) -> list[Finding]:
    """How ids and seasons of each store differ from those of the first."""
    first, *others = subjects
    found = []
    for other in others:
        pair = f"{first.path} and {other.path}"
        if first.ids != other.ids:
            found.append(Finding("ids-differ", pair, _id_difference(first.ids, other.ids)))
        if _num_dates(first) != _num_dates(other):
            what = f"{first.meta.num_seasons} and {other.meta.num_seasons} seasons"
            found.append(Finding("seasons-differ", pair, what))
    return found


def size_differences(subjects: Sequence[Subject], sizes: Mapping[int, Sequence]) -> list[Finding]:
    """Locations whose tiles are not of one size in all stores; `sizes` by store `(N, 2)`, 0 where unknown."""
    first, found = sizes[0], []
    for position, subject in enumerate(subjects[1:], start=1):
        other, shared = sizes[position], min(len(first), len(sizes[position]))
        known = (first[:shared] > 0).all(axis=1) & (other[:shared] > 0).all(axis=1)
        for index in np.flatnonzero(known & (first[:shared] != other[:shared]).any(axis=1)).tolist():
            a, b = tuple(other[index].tolist()), tuple(first[index].tolist())
            found.append(subject.finding("sizes-differ", f"{a} pixels, but {b} in {subjects[0].path}", index))
    return found


def scene_order(subject: Subject) -> list[Finding]:
    """Locations whose scenes, by the ledger beside the store, are not in time order; a mask may be of all seasons."""
    ledger, disordered = Path(subject.path).parent / SCENES_NAME, {}
    if not ledger.is_file():
        return []
    with ledger.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = (row for row in csv.reader(file) if len(row) == 4 and row[2] == subject.meta.modality)
        for place, group in groupby(rows, itemgetter(0)):  # a location's rows follow each other
            times = [scene_time(row[3]) for row in group]
            if None not in times and times != sorted(set(times) if subject.meta.modality in MODALITIES else times):
                disordered[place] = f"scenes of {', '.join(times)}, by {ledger.name}"
    told = enumerate(disordered.get(name) or disordered.get(_TILE.sub("", name)) for name in subject.ids)
    return [
        subject.finding("season-order", what, index) for index, what in told if what and index not in subject.excluded
    ]


def _num_dates(subject: Subject) -> int:
    """Images that go with the store's seasons: one each, but two with a label of change."""
    change = subject.meta.modality not in MODALITIES and subject.meta.legend == OSCD.name
    return subject.meta.num_seasons * (2 if change and subject.meta.num_seasons == 1 else 1)


def _id_difference(first: Sequence[str], other: Sequence[str]) -> str:
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((first, other), (other, first)))
    told = [f"{len(first)} and {len(other)} locations"] if len(first) != len(other) else []
    for word, names in (("missing", missing), ("extra", extra)):
        if names:
            told.append(f"{len(names)} {word} ({', '.join(names[:_SHOWN])})")
    if not missing and not extra:
        told.append("the same ids in another order")
    index = next((i for i, (a, b) in enumerate(zip(first, other)) if a != b), min(len(first), len(other)))
    return f"{'; '.join(told)}; first at index {index}"
