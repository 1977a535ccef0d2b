"""Repair: what is damaged is left out of use, in all stores alike, or taken back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cromss.doctor.examination import Examination
from cromss.doctor.findings import DAMAGED, SUSPECT
from cromss.doctor.report import verdict
from cromss.doctor.sets import is_aligned
from cromss.doctor.subject import Subject, open_subject
from cromss.store.repair import exclude, readmit

_CHANGED = {"entries", "none-in-use"}
"""What of whole stores a repair mends or brings about."""


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


def repair(examination: Examination, drop: bool = False, suspect_too: bool = False, dry_run: bool = False) -> list[str]:
    """Leave locations out of use, and say what is done.

    Args:
        examination: What was found.
        drop: Delete the records of these, and of those that were marked before.
        suspect_too: Not only damaged ones.
        dry_run: Only say it.

    Raises:
        ValueError: As `plan`, or a store cannot be written.
    """
    reasons = plan(examination, suspect_too)
    would, how = "would " if dry_run else "", "drop" if drop else "mark"
    told = _published_lines(examination.subjects)
    for subject in _ours(examination.subjects):
        wanted, done = ({**reasons, **subject.excluded}, subject.dropped) if drop else (reasons, subject.excluded)
        wanted = {index: reason for index, reason in wanted.items() if index not in done}
        if wanted and not dry_run:
            exclude(subject.path, wanted, drop)
        before = len(wanted.keys() & subject.excluded.keys())
        known = f", {before} of them marked before" if before else ""
        what = f"{would}{how} {len(wanted)} of {len(subject)} locations{known}" if wanted else f"nothing to {how}"
        told.append(f"{subject.path}: {what}")
    return told


def repaired(examination: Examination) -> tuple[Examination, list[str]]:
    """What of the findings is still in use after a repair, without another look at the records; and how to say it.

    Statistics are not taken again.
    """
    subjects = [open_subject(subject.path) for subject in examination.subjects]
    excluded = {str(subject.path): subject.excluded for subject in subjects}
    findings = [finding for subject in subjects for finding in subject.findings if finding.code in _CHANGED] + [
        finding
        for finding in examination.findings
        if finding.code not in _CHANGED and (finding.index is None or finding.index not in excluded[finding.store])
    ]
    reports = [
        report | {"num_excluded": len(subject.excluded)} for report, subject in zip(examination.reports, subjects)
    ]
    after = replace(examination, subjects=subjects, reports=reports, findings=findings)
    whole = sum(finding.index is None and finding.severity == DAMAGED for finding in findings)
    told = [f"{whole} damaged finding(s) are of whole stores, which no repair mends"] if whole else []
    return after, [*told, f"now {verdict(after)}"]


def undo(paths: Sequence[Path], dry_run: bool = False) -> list[str]:
    """Take marked locations back into use, and say so; dropped ones stay out.

    Raises:
        ValueError: A store cannot be read or written.
    """
    subjects = [open_subject(path) for path in paths]
    told = _published_lines(subjects)
    for subject in _ours(subjects):
        marked = len(subject.excluded) - len(subject.dropped)
        if marked and not dry_run:
            readmit(subject.path)
        what = "would be" if dry_run else "are"
        told.append(f"{subject.path}: {marked} locations {what} in use again, {len(subject.dropped)} stay dropped")
    return told


def _ours(subjects: Sequence[Subject]) -> list[Subject]:
    return [subject for subject in subjects if not subject.published]


def _published_lines(subjects: Sequence[Subject]) -> list[str]:
    advice = "published stores are never repaired; convert it, or leave it as it is"
    return [f"{subject.path}: {advice}" for subject in subjects if subject.published]
