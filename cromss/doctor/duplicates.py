"""The same pixels under two ids or in two seasons: by checksum, then by comparison."""

import numpy as np

from cromss.doctor.findings import Finding
from cromss.doctor.subject import Subject
from cromss.sensors import MODALITIES


def same_pixels(subject: Subject, checksums: np.ndarray) -> list[Finding]:
    """Records of images with equal pixels; the first of them is named by all others.

    Masks are left alone: two tiles of water have the same.

    Args:
        subject: The store.
        checksums: `(N, T)` of the records, 0 for those to leave alone.
    """
    if subject.meta.modality not in MODALITIES:
        return []
    flat, found = checksums.ravel(), []
    order = np.argsort(flat, kind="stable")
    ordered = flat[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else []
    for start, end in zip(starts, [*starts[1:], len(order)]):
        if end - start > 1 and ordered[start]:
            found += _equal(subject, order[start:end].tolist())
    return found


def _equal(subject: Subject, records: list[int]) -> list[Finding]:
    """Findings of the records, by position, that are truly equal to the first."""
    places = [divmod(record, subject.meta.num_seasons) for record in records]
    (index, season), *others = places
    first = subject.read(index)[season].values
    return [
        subject.finding("same-pixels", f"the pixels of index {index} ({subject.ids[index]}), season {season}", i, s)
        for i, s in others
        if np.array_equal(subject.read(i)[s].values, first)
    ]
