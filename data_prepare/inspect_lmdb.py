"""Can these LMDB stores be trained on? Every record is checked, the stores against each other, and what is odd is told.

    python data_prepare/inspect_lmdb.py lmdb/0k_251k_uint8_s1.lmdb lmdb/0k_251k_uint8_s2c.lmdb lmdb/dw_labels.lmdb

Exit status: 0 healthy (notes at most), 1 anything damaged or suspect, before any repair, 2 a store cannot be read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cromss.config import run
from cromss.doctor import examine
from cromss.doctor.report import as_json, report_lines
from cromss.doctor.treatment import repair


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
    """mark leaves damaged locations out of training and tests, in all stores given; drop also deletes their records;
    undo takes marked ones back."""
    repair_suspect: bool = False
    """Repair suspect locations too."""
    dry_run: bool = False
    """Only say what --repair would do."""


def main(settings: Inspection) -> int:
    """Report on standard output; 1 where anything is damaged or suspect, else 0."""
    if not settings.stores or settings.max_records < 0 or settings.workers < 1:
        raise ValueError("wanted: at least one store, --max_records of 0 or more, and --workers of at least 1")
    examination = examine(settings.stores, settings.max_records, settings.workers)
    print("\n".join(report_lines(examination)))
    if settings.json:
        settings.json.write_text(json.dumps(as_json(examination), indent=2) + "\n", encoding="utf-8")
    if settings.panel:
        from cromss.doctor.panel import draw_panel

        draw_panel(examination, settings.panel)
    if settings.repair != "no":
        print("\n".join(repair(examination, settings.repair, settings.repair_suspect, settings.dry_run)))
    return int(not examination.healthy)


if __name__ == "__main__":
    run(main, Inspection)
