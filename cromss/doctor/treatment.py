"""Repair: what is damaged is left out of use, in all stores alike, or taken back."""

from collections.abc import Iterator
from itertools import chain

from cromss.doctor.examination import Examination
from cromss.doctor.findings import DAMAGED, SUSPECT
from cromss.doctor.sets import is_aligned
from cromss.doctor.subject import Subject
from cromss.store.repair import exclude, readmit


def plan(examination: Examination, suspect_too: bool = False) -> dict[int, str]:
    """Index -> reason of what a repair leaves out.

    Raises:
        ValueError: The stores are not of the same locations, so that an index means nothing.
    """
    if not is_aligned(examination.subjects):
        raise ValueError("--repair: the stores are of different locations or orders; write them together again")
    severities = {DAMAGED, SUSPECT} if suspect_too else {DAMAGED}
    reasons: dict[int, str] = {}
    for finding in examination.findings:
        if finding.index is not None and finding.severity in severities:
            reasons.setdefault(finding.index, f"{finding.code}: {finding.store}: {finding.what}")
    return dict(sorted(reasons.items()))


def repair(examination: Examination, how: str, suspect_too: bool = False, dry_run: bool = False) -> Iterator[str]:
    """Repair, and say what is done.

    Args:
        examination: What was found.
        how: `"mark"` leaves locations out of use, `"drop"` also deletes their records, `"undo"` takes marked ones back.
        suspect_too: Not only damaged ones.
        dry_run: Only say it.

    Raises:
        ValueError: As `plan`, or a store cannot be written.
    """
    ours = [subject for subject in examination.subjects if not subject.published]
    for subject in examination.subjects:
        if subject.published:
            yield f"{subject.path}: published stores are never repaired; convert it, or leave it as it is"
    if how == "undo":
        yield from chain.from_iterable(_undo(subject, dry_run) for subject in ours)
        return
    reasons = plan(examination, suspect_too)
    whole = sum(f.index is None and f.severity == DAMAGED for f in examination.findings)
    if whole:
        yield f"{whole} damaged finding(s) are of whole stores, which no repair mends"
    would = "would " if dry_run else ""
    for subject in ours:
        if not reasons:
            yield f"{subject.path}: nothing to {how}"
            continue
        if not dry_run:
            exclude(subject.path, reasons, drop=how == "drop")
        yield f"{subject.path}: {would}{how} {len(reasons)} of {len(subject)} locations"


def _undo(subject: Subject, dry_run: bool) -> Iterator[str]:
    if dry_run:
        yield f"{subject.path}: would take back what is marked of {len(subject.excluded)} locations out of use"
        return
    kept = readmit(subject.path)
    yield f"{subject.path}: {len(subject.excluded) - len(kept)} locations are in use again, {len(kept)} stay dropped"
