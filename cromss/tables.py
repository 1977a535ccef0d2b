"""Tables for papers from the scores of many runs: mean and spread over seeds, as Markdown and LaTeX."""

import csv
import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATES = ("frozen", "tuned")
"""States of the encoder, in the order of their columns."""

DETAILS = ("head", "encoder", "bands", "normalization", "fraction", "train_tiles")
"""What tells rows of the same weights apart; a table has a column for those that differ in it."""

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Summary:
    """Scores of one experiment under several seeds.

    Attributes:
        mean: Their mean, in percent.
        std: Sample standard deviation (divided by n - 1); `None` for a single seed.
        count: Number of seeds.
    """

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        labels: Name of the weights, and the details.
        values: All scores with the first state of the encoder, then with the second; `None` for gaps.
        published: It is from a paper.
    """

    labels: tuple[str, ...]
    values: tuple[Summary | None, ...]
    published: bool


@dataclass(frozen=True)
class Table:
    """Scores on one set: a column for every state of the encoder and score.

    Attributes:
        title: What it shows.
        labels: Titles of the label columns.
        states: States of the encoder.
        scores: Names of the scores.
        lines: Rows, those from papers last.
    """

    title: str
    labels: tuple[str, ...]
    states: tuple[str, ...]
    scores: tuple[str, ...]
    lines: tuple[Line, ...]

    @property
    def counts(self) -> set[int]:
        """Numbers of seeds behind our own cells."""
        return {value.count for line in self.lines if not line.published for value in line.values if value}

    @property
    def caption(self) -> str:
        """The title, with the number of seeds where it is the same everywhere."""
        return f"{self.title} (n = {min(self.counts)})" if len(self.counts) == 1 else self.title


def summarise(values: Sequence[float]) -> Summary | None:
    """Mean and sample standard deviation; `None` where there are no values."""
    if not values:
        return None
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def tabulate(title: str, rows: Sequence[Mapping[str, Any]], scores: Mapping[str, str]) -> Table:
    """Table of runs and published rows; those that differ in nothing but the seed share a cell.

    Args:
        title: Title.
        rows: One mapping a run: `weights`, what of `DETAILS` is known, `encoder_state`, `source` (an
            arXiv id if published, else empty), and scores in percent, absent or `None` where unknown.
        scores: Key of a score -> its name.
    """
    details = [key for key in DETAILS if len({str(row[key]) for row in rows if row.get(key)}) > 1]
    states = tuple(state for state in STATES if state in {row["encoder_state"] for row in rows})
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: bool(row["source"])):
        name = f"{row['weights']} (published, arXiv {row['source']})" if row["source"] else row["weights"]
        groups.setdefault((name, *(str(row.get(key) or "") for key in details)), []).append(row)
    columns = [(state, score) for state in states for score in scores]
    lines = (
        Line(labels, tuple(_summary(group, *column) for column in columns), bool(group[0]["source"]))
        for labels, group in groups.items()
    )
    return Table(title, ("weights", *details), states, tuple(scores.values()), tuple(lines))


def to_markdown(table: Table) -> str:
    """Markdown table under its title: percent, the best of our own means bold, gaps as dashes."""
    head = [*table.labels, *(f"{state} {score}" for state in table.states for score in table.scores)]
    rules = ["---"] * len(table.labels) + ["---:"] * (len(head) - len(table.labels))
    body = ([*(label.replace("|", "\\|") for label in line.labels), *cells] for line, cells in _body(table, "**", "**"))
    rows = (f"| {' | '.join(cells)} |" for cells in (head, rules, *body))
    return "\n".join((f"### {table.caption}", "", *rows, ""))


def to_latex(table: Table) -> str:
    """LaTeX table (package booktabs) with the content of `to_markdown`."""
    width, first = len(table.scores), len(table.labels) + 1
    starts = [first + width * index for index in range(len(table.states))]
    states = [""] * len(table.labels) + [f"\\multicolumn{{{width}}}{{c}}{{{state}}}" for state in table.states]
    body = {False: [], True: []}
    for line, cells in _body(table, "\\textbf{", "}"):
        body[line.published].append(_latex_row([*map(escape_latex, line.labels), *cells]))
    return "\n".join(
        (
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escape_latex(table.caption)}}}",
            f"\\begin{{tabular}}{{{'l' * len(table.labels)}{'r' * width * len(table.states)}}}",
            "\\toprule",
            _latex_row(states),
            *(f"\\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts),
            _latex_row(map(escape_latex, table.labels + table.scores * len(table.states))),
            *(part for rows in body.values() if rows for part in ("\\midrule", *rows)),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        )
    )


def in_words(metrics: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Scores of a run or of several in one line of percent, `OA 81.20 +- 0.31 %`; a dash where one is not defined.

    Args:
        metrics: Fractions in [0, 1] by key, and under `"std"` their spread, if there are several runs.
        names: Key -> name for people.
    """
    words = []
    for key, name in names.items():
        score, spread = metrics[key], metrics.get("std", {}).get(key)
        spread_text = "" if spread is None else f" +- {100 * spread:.2f}"
        words.append(f"{name} -" if score is None else f"{name} {100 * score:.2f}{spread_text} %")
    return "  ".join(words)


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV of rows that may differ in their keys; unknown values are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def read_published(path: Path, scores: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a CSV of published results; the scores become numbers, `None` where there is none.

    Raises:
        ValueError: Not a CSV of text, rows of different length, or a score that is no number between 0 and 100.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV of text ({error}); save it as UTF-8 with commas") from error
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"{path}, line {number}: wanted are as many fields as in line 1")
        for key in row.keys() & set(scores):
            if not re.fullmatch(r"|100|\d{1,2}(\.\d+)?", row[key]):
                raise ValueError(
                    f"{path}, line {number}: {key} {row[key]!r} is no percentage; wanted is a number of 0 to 100"
                )
            row[key] = float(row[key]) if row[key] else None
    return rows


def _summary(group: Sequence[Mapping[str, Any]], state: str, score: str) -> Summary | None:
    values = [row.get(score) for row in group if row["encoder_state"] == state]
    return summarise([value for value in values if value is not None])


def _body(table: Table, *bold: str) -> Iterator[tuple[Line, list[str]]]:
    """Lines with their cells written out; the number of seeds is told where it differs."""
    ours = [line.values for line in table.lines if not line.published]
    best = [max((_mean(value) for value in column if value), key=float, default="") for column in zip(*ours)]
    best = best if len(ours) > 1 else [""] * len(best)
    for line in table.lines:
        marks = [""] * len(line.values) if line.published else best
        told = len(table.counts) > 1 and not line.published
        yield line, [_cell(value, mark, told, *bold) for value, mark in zip(line.values, marks)]


def _cell(value: Summary | None, best: str, counted: bool, before: str, after: str) -> str:
    if value is None:
        return "-"
    mean = f"{before}{_mean(value)}{after}" if _mean(value) == best else _mean(value)
    spread = "" if value.std is None else f" ± {value.std:.2f}"
    return mean + spread + (f" ({value.count})" if counted else "")


def _mean(value: Summary) -> str:
    return f"{value.mean:.2f}"


def _latex_row(cells: Iterator[str] | Sequence[str]) -> str:
    return " & ".join(cell.replace("±", "$\\pm$") for cell in cells) + " \\\\"
