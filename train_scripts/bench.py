"""Results bench: a grid of transfers, run cell by cell, with its tables beside the published ones."""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from cromss.config import replace_text, run
from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.settings.bench import BenchSettings, Cell, list_cells
from cromss.start_up import fast_imports
from cromss.tables import Table, in_words, read_published, tabulate, to_csv, to_latex, to_markdown

PUBLISHED = Path(__file__).with_name("published_results.csv")


def main(settings: BenchSettings) -> int:
    """Run the cells that are not finished and write the tables; 1 if a cell failed."""
    cells, home = list_cells(Path(settings.grid), settings.save_dir), Path(settings.save_dir)
    mine = settings.mine(cells)
    if settings.dry_run:
        print("\n".join(map(listed, map(outcome, mine))))
        return 0
    done: dict[str, dict[str, Any]] = {}
    refuse_other_settings(outcomes(cells, done), home)
    home.mkdir(parents=True, exist_ok=True)
    if not settings.tables:
        run_cells(mine, done, lambda: write_results(outcomes(cells, done), home))
    print(f"\n{write_results(outcomes(cells, done), home)}")
    print("written:", ", ".join(str(home / name) for name in ("results.csv", "tables.md", "tables.tex")))
    return report(outcomes(mine, done))


def listed(row: Mapping[str, Any]) -> str:
    """Status, name, and what is wrong with a cell, in one line."""
    line = f"{row['status']:8}{Path(row['run']).name}"
    return f"{line}: {row['reason']}" if row["reason"] else line


def refuse_other_settings(rows: Sequence[Mapping[str, Any]], home: Path) -> None:
    """Raise ValueError where run folders hold cells of another grid, before their results are overwritten."""
    found = [row["reason"] for row in rows if row["status"] == "other"]
    if found:
        more = " ..." if len(set(found)) > 1 else ""
        cells = "1 cell in {} was" if len(found) == 1 else f"{len(found)} cells in {{}} were"
        raise ValueError(f"{cells.format(home)} run with other settings ({found[0]}{more}); choose another --save_dir")


def run_cells(cells: Sequence[Cell], done: dict[str, dict[str, Any]], after_each: Callable[[], object]) -> None:
    """Run what is not finished, one cell after the other; why one failed is kept in its run folder."""
    with fast_imports():
        from cromss.training import finetune

    waiting = [cell for cell, row in zip(cells, outcomes(cells, done)) if row["status"] != "done"]
    print(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished already", flush=True)
    start = time.monotonic()
    for number, cell in enumerate(waiting):
        passed = told_time(time.monotonic() - start, number, len(waiting))
        print(f"\n[{number + 1}/{len(waiting)}] {cell.settings.runtime.name} ({passed})", flush=True)
        failure = folder_of(cell) / "failure.txt"
        failure.unlink(missing_ok=True)
        try:
            print(in_words(finetune(cell.settings), cell.settings.data.task.scores), flush=True)
        except Exception as error:  # whatever it is, the other cells go on
            failure.parent.mkdir(parents=True, exist_ok=True)
            replace_text(failure, f"{one_line(error)}\n\n{traceback.format_exc()}")
            print(f"failed: {one_line(error)}", flush=True)
        after_each()


def one_line(error: Exception) -> str:
    """Type and message of an error."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def told_time(seconds: float, num_done: int, num_cells: int) -> str:
    """Time that has passed, and an estimate of what is to come."""
    text = f"{timedelta(seconds=round(seconds))} passed"
    to_come = seconds / num_done * (num_cells - num_done) if num_done else 0
    return f"{text}, about {timedelta(seconds=round(to_come))} to come" if num_done else text


def folder_of(cell: Cell) -> Path:
    """Run folder of a cell."""
    return Path(cell.settings.runtime.save_dir) / cell.settings.runtime.name


def outcomes(cells: Sequence[Cell], done: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What there is of each cell; those found done are kept in `done`, by run folder, and looked at once."""
    rows = [done.get(str(folder_of(cell))) or outcome(cell) for cell in cells]
    done |= {row["run"]: row for row in rows if row["status"] == "done"}
    return rows


def outcome(cell: Cell) -> dict[str, Any]:
    """What there is of a cell: its coordinates, `status`, and scores in percent.

    The status is done, failed, missing, or other, where its folder holds a run with other settings.
    """
    with fast_imports():
        from cromss.training.downstream import downstream_bands
        from cromss.training.run_folder import OtherSettings, RunFolder

    data, folder, failure = cell.settings.data, RunFolder(folder_of(cell)), folder_of(cell) / "failure.txt"
    reason = failure.read_text().partition("\n")[0] if failure.exists() else ""
    status, metrics = "failed" if reason else "missing", None
    try:
        metrics = folder.finished(cell.settings)
    except OtherSettings as error:
        status, reason = "other", error.changes
    except ValueError as error:
        status, reason = "failed", str(error)
    known = metrics or {}
    return cell.coordinates | {
        "dataset": data.dataset,
        "data_path": data.data_path or data.test_path,
        "encoder": cell.settings.model.model_type,
        "bands": sum(map(len, downstream_bands(data).values())),
        "status": "done" if metrics else status,
        **{key: None if known.get(key) is None else 100 * known[key] for key in data.task.scores},
        "train_tiles": known.get("train_tiles"),
        "seconds": known.get("seconds"),
        "run": str(folder_of(cell)),
        "reason": "" if metrics else reason,
    }


def write_results(rows: Sequence[dict[str, Any]], home: Path) -> str:
    """Write results.csv (a row a cell), tables.md and tables.tex (a table a set and input); returns tables.md."""
    replace_text(home / "results.csv", to_csv(rows))
    grouped = groupby(rows, key=lambda row: (row["set"], row["input_type"]))
    tables = [table_beside_published(list(group)) for _, group in grouped]
    text = "\n".join(map(to_markdown, tables))
    replace_text(home / "tables.md", text)
    replace_text(home / "tables.tex", "\n".join(map(to_latex, tables)))
    return text


def table_beside_published(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of the cells of one set and input; of real tiles, with what was published for its heads below."""
    first, heads = rows[0], {row["head"] for row in rows}
    scores = DOWNSTREAM_SETS[first["dataset"]].scores
    tiles = {(row["weights"], row["fraction"]): row["train_tiles"] for row in rows if row["train_tiles"]}
    ours = [
        row
        | {"source": "", "fraction": f"{row['fraction']:g}"}
        | {"train_tiles": row["train_tiles"] or tiles.get((row["weights"], row["fraction"]))}
        for row in rows
    ]
    is_real = bool(first["data_path"])
    theirs = [
        {**row, "fraction": "100", "normalization": "common"}
        for row in (read_published(PUBLISHED, scores) if is_real else ())
        if (row["set"], row["input"]) == (first["dataset"], first["input_type"]) and row["head"] in (*heads, "")
    ]
    where = "" if is_real else " (synthetic tiles, not comparable with published results)"
    title = f"{first['set']}, {first['input_type']}{where}: percent, mean ± sample standard deviation over seeds"
    return tabulate(title, ours + theirs, scores)


def report(rows: Sequence[Mapping[str, Any]]) -> int:
    """Say how many cells are done, and why others are not; 1 if one failed."""
    counts = Counter(row["status"] for row in rows)
    for row in rows:
        if row["status"] == "failed":
            print(f"failed: {row['run']}: {row['reason']}")
    print(", ".join(f"{counts[status]} {status}" for status in ("done", "failed", "missing")))
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    run(main, BenchSettings)
