"""What the doctor says: the verdict first, then findings by kind with a few examples, then each store."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any

from cromss.doctor.examination import Examination
from cromss.doctor.findings import DAMAGED, SEVERITIES, SUSPECT, Finding

SHOWN = 5
"""Examples and ids listed at most."""


def report_lines(examination: Examination) -> Iterator[str]:
    """The report for people."""
    yield verdict(examination)
    ordered = sorted(examination.findings, key=lambda f: (SEVERITIES.index(f.severity), f.code))
    for _, group in groupby(ordered, attrgetter("code")):
        yield from _group_lines(list(group))
    for report in examination.reports:
        yield report["path"]
        yield from (f"  {line}" for line in store_lines(report))


def verdict(examination: Examination) -> str:
    """One line: can it be trained on?"""
    counts = [(sum(f.severity == severity for f in examination.findings), severity) for severity in (DAMAGED, SUSPECT)]
    told = ", ".join(f"{count} {severity}" for count, severity in counts if count)
    left_out = max((report["num_excluded"] for report in examination.reports), default=0)
    looked = all(r["num_examined"] + r["num_excluded"] >= r["num_locations"] for r in examination.reports)
    scope = "every record was read" if looked else "of a sample: without --max_records every record is read"
    scope += f"; {left_out} locations are out of use" if left_out else ""
    if counts[0][0]:
        return f"DAMAGED: do not train on this before it is repaired ({told}; {scope})"
    return f"SUSPECT: look at it before training ({told}; {scope})" if told else f"HEALTHY ({scope})"


def as_json(examination: Examination) -> dict[str, Any]:
    """All of it, as plain values."""
    return {
        "verdict": verdict(examination),
        "healthy": examination.healthy,
        "stores": {report["path"]: report for report in examination.reports},
        "findings": [finding.as_dict() for finding in examination.findings],
    }


def store_lines(report: Mapping[str, Any]) -> list[str]:
    """The report of one store for people."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in report["shapes"])
    lines = [
        f"{report['modality']}: {report['num_locations']} locations x {report['num_seasons']} seasons, "
        f"{shapes} {report['dtype']} ({report['unit']})",
        f"ids: {', '.join(report['ids'])}{', ...' if report['num_locations'] > SHOWN else ''}",
    ]
    for name, share in report.get("classes", {}).items():
        seasons = report["classes_by_season"]
        by_season = "".join(f" {100 * one[name]:6.2f}" for one in seasons) if len(seasons) > 1 else ""
        lines.append(f"{name:20s} {100 * share:6.2f} %{by_season and f'   by season{by_season}'}")
    for name, band in report.get("bands", {}).items():
        far = report["modality"] != "ortho" and abs(band["sigmas"]) > 1
        flag = f"  OUT OF RANGE by {band['sigmas']:+.1f} sigma" if far else ""
        measured, expected = (f"{band[p + 'mean']:9.2f} +- {band[p + 'std']:8.2f}" for p in ("", "expected_"))
        lines.append(f"{name:4s} {measured}   expected {expected}{flag}")
    return lines


def _group_lines(group: list[Finding]) -> Iterator[str]:
    first = group[0]
    yield f"{first.severity.upper()} {first.code}: {len(group)} x; {first.remedy}"
    yield from (f"  {finding.where}: {finding.what}" for finding in group[:SHOWN])
    if len(group) > SHOWN:
        yield f"  ... and {len(group) - SHOWN} more (--json has all)"
