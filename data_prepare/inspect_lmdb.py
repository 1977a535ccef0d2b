"""Can these LMDB stores be trained on? Every record is checked, the stores against each other, and what is odd is told.

    python data_prepare/inspect_lmdb.py lmdb/0k_251k_uint8_s1.lmdb lmdb/0k_251k_uint8_s2c.lmdb lmdb/dw_labels.lmdb

Exit status: 0 healthy (notes at most), 1 anything damaged or suspect, 2 a store cannot be read. After --repair it tells
of what is then in use, so that training can follow: inspect_lmdb.py ... --repair mark && ...
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cromss.config import run
from cromss.doctor import examine
from cromss.doctor.report import as_json, report_lines
from cromss.doctor.treatment import repair, repaired, undo


@dataclass(frozen=True)
class Inspection:
    """Stores to look into."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """One or several stores of the same locations."""
    max_records: int = 0
    """Look at so many records (one season of one location) of each store, evenly spread; at every record for 0."""
    workers: int = 2
    """Reading threads."""
    json: Path | None = None
    """Also write the report, with all findings, to this file."""
    panel: Path | None = None
    """Draw a few locations into this picture, the worst first."""
    repair: Literal["no", "mark", "drop", "undo"] = "no"
    """mark leaves damaged locations out of training and tests, in all stores given; drop also deletes their records and
    those of locations marked before, though data.mdb keeps its size; undo takes marked ones back before looking. The
    exit status tells of what is then in use."""
    repair_suspect: bool = False
    """Repair suspect locations too."""
    dry_run: bool = False
    """Only say what --repair would do."""


def main(settings: Inspection) -> int:
    """Report on standard output; 1 where anything that is left in use is damaged or suspect, else 0."""
    if not settings.stores or settings.max_records < 0 or settings.workers < 1:
        raise ValueError("wanted: at least one store, --max_records of 0 or more, and --workers of at least 1")
    if settings.repair == "undo":
        print("\n".join(undo(settings.stores, settings.dry_run)))
    examination = examine(settings.stores, settings.max_records, settings.workers)
    print("\n".join(report_lines(examination)))
    if settings.json:
        settings.json.write_text(json.dumps(as_json(examination), indent=2) + "\n", encoding="utf-8")
    if settings.panel:
        from cromss.doctor.panel import draw_panel

        draw_panel(examination, settings.panel)
    if settings.repair in ("mark", "drop"):
        drop, suspect_too, dry_run = settings.repair == "drop", settings.repair_suspect, settings.dry_run
        print("\n".join(repair(examination, drop, suspect_too, dry_run)))
        if not dry_run:
            examination, told = repaired(examination)
            print("\n".join(told))
    return int(not examination.healthy)


if __name__ == "__main__":
    run(main, Inspection)
