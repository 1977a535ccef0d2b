"""The walk over stores: every record once, read ahead in threads, with flat memory."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cromss.doctor.duplicates import same_pixels
from cromss.doctor.findings import DAMAGED, SEVERITIES, SUSPECT, Finding
from cromss.doctor.sets import misalignment, scene_order, size_differences
from cromss.doctor.subject import Record, Subject, open_subject
from cromss.doctor.tally import Tally
from cromss.doctor.tiles import image_faults, label_faults
from cromss.legends import IGNORE_INDEX
from cromss.sensors import MODALITIES
from cromss.store.contents import record_key
from cromss.work_ahead import work_ahead

_NOT_COMPARED = {"constant", "saturated"}
"""Tiles of these faults are alike without being copies."""


@dataclass(frozen=True)
class Examination:
    """What was found.

    Attributes:
        subjects: The stores.
        reports: What each holds, as plain values.
        findings: All findings, the worst first.
    """

    subjects: list[Subject]
    reports: list[dict[str, Any]]
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Nothing is damaged or suspect."""
        return not any(finding.severity in (DAMAGED, SUSPECT) for finding in self.findings)


@dataclass(frozen=True)
class _Seen:
    """One location of a store, examined."""

    index: int
    records: list[Record]
    findings: list[Finding]


def examine(paths: Sequence[str | Path], max_records: int = 0, workers: int = 2) -> Examination:
    """Examine stores of the same locations.

    Args:
        paths: Their folders.
        max_records: Records looked at in each store, whole locations evenly spread; all for 0.
        workers: Reading threads.

    Raises:
        StoreError: A store cannot be opened at all.
    """
    subjects = [open_subject(path) for path in paths]
    reports, findings, sizes = [], [], []
    for subject in subjects:
        report, found, size = _examine_one(subject, max_records, workers)
        reports.append(report)
        findings += found
        sizes.append(size)
    findings += misalignment(subjects)
    findings += size_differences(subjects, sizes)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Examination(subjects, reports, findings)


def spread(num_locations: int, num_seasons: int, max_records: int) -> list[int]:
    """Evenly spread locations of at most so many records together, at least one; all for 0."""
    wanted = max(1, max_records // num_seasons)
    if not max_records or wanted >= num_locations:
        return list(range(num_locations))
    return np.linspace(0, num_locations - 1, wanted).astype(int).tolist()


def _examine_one(subject: Subject, max_records: int, workers: int) -> tuple[dict[str, Any], list[Finding], np.ndarray]:
    """Report, findings, and sizes `(N, 2)` of the tiles, 0 where unknown."""
    num_seasons = subject.meta.num_seasons
    chosen = spread(len(subject), num_seasons, max_records)
    in_use = [index for index in chosen if index not in subject.excluded]
    tally, digest = Tally(subject), hashlib.sha256()
    sizes = np.zeros((len(subject), 2), np.int32)
    checksums = np.zeros((len(subject), num_seasons), np.uint32)
    findings = [subject.finding("excluded", reason, index) for index, reason in subject.excluded.items()]
    findings += subject.findings
    for seen in _walk(subject, in_use, workers):
        findings += seen.findings
        alike = {finding.season for finding in seen.findings if finding.code in _NOT_COMPARED}
        tally.add([record.values for record in seen.records])
        for season, record in enumerate(seen.records):
            digest.update(record_key(seen.index, season) + record.header)
            if record.values is not None:
                sizes[seen.index] = record.values.shape[-2:]
                checksums[seen.index, season] = 0 if season in alike else record.checksum
    whole = len(in_use) == len(subject) and not any(finding.index is not None for finding in findings)
    if whole and subject.checksum and digest.hexdigest() != subject.checksum:
        findings.append(subject.finding("manifest", "its checksum is not that of the records"))
    findings += same_pixels(subject, checksums) + scene_order(subject) + tally.findings()
    return _report(subject, tally, len(in_use)), findings, sizes


def _walk(subject: Subject, indices: Sequence[int], workers: int) -> Iterator[_Seen]:
    """Locations in order, with a progress bar over records."""

    def look(index: int) -> _Seen:
        records = subject.read(index)
        return _Seen(index, records, _location_findings(subject, index, records))

    num_seasons, read = subject.meta.num_seasons, 0
    with (
        closing(work_ahead(look, indices, workers)) as results,
        tqdm(total=len(indices) * num_seasons, desc=subject.path.name, unit="record", disable=None) as bar,
    ):
        for _, future in results:
            seen = future.result()
            yield seen
            read += sum(record.values.nbytes for record in seen.records if record.values is not None)
            elapsed = bar.format_dict["elapsed"] or 1e-9
            bar.set_postfix_str(f"{read / 1e6 / elapsed:.1f} MB/s", refresh=False)
            bar.update(num_seasons)


def _location_findings(subject: Subject, index: int, records: Sequence[Record]) -> list[Finding]:
    """What is wrong with the records of one location."""
    is_image, found = subject.meta.modality in MODALITIES, []
    shapes = [record.values.shape for record in records if record.values is not None]
    for season, record in enumerate(records):
        faults = [record.fault] if record.fault else []
        if record.values is not None and not record.fault:
            faults += image_faults(record.values, subject) if is_image else label_faults(record.values, subject)
            if record.values.shape != shapes[0]:
                faults.append(("shape", f"shape {record.values.shape} after {shapes[0]}"))
        found += [subject.finding(code, what, index, season) for code, what in faults]
    return found if is_image else found + _unlabelled(subject, index, records)


def _unlabelled(subject: Subject, index: int, records: Sequence[Record]) -> list[Finding]:
    """Masks without any label: a note for some seasons, more for all."""
    masks = {season: record.values for season, record in enumerate(records) if record.values is not None}
    empty = [season for season, mask in masks.items() if (mask == IGNORE_INDEX).all()]
    if empty and len(empty) == len(masks):
        return [subject.finding("unlabelled", "all pixels of all seasons are ignored", index)]
    return [subject.finding("unlabelled-season", "all pixels are ignored", index, season) for season in empty]


def _report(subject: Subject, tally: Tally, num_examined: int) -> dict[str, Any]:
    meta = subject.meta
    return {
        "path": str(subject.path),
        "modality": meta.modality,
        "dtype": meta.dtype,
        "unit": meta.unit,
        "source": meta.source,
        "num_locations": len(subject),
        "num_seasons": meta.num_seasons,
        "num_excluded": len(subject.excluded),
        "num_examined": num_examined,
        "shapes": sorted(map(list, tally.shapes)),
        "ids": subject.ids[:5],
        **tally.report(),
    }
