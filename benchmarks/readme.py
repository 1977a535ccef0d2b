"""The tables of README.md, and those of real images in RESULTS.md, from the CSV files beside this script.

python benchmarks/readme.py

A row of a table holds a start or a part of the method, a column means and sample standard deviations over the seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import label_audit
from alternation import OURS, PUBLISHED
from bench_step import CHECKPOINTED
from naip import report
from oscd import gains
from pages import HOME, cell, markdown, measured_row, rows_of, write_tables

Rows = Sequence[Mapping[str, str]]

STATES = ("frozen", "tuned")
LAND_COVER = ("oa", "aa", "miou", "mf1")
CHANGE = ("OA", "IoU", "precision", "recall")


def tables() -> dict[str, dict[str, str]]:
    """Page -> its tables by name."""
    return {
        "README.md": {
            "demo": demo(),
            "oscd": oscd(),
            "vits": vits(),
            "first paper": first_paper(),
            "label audit": label_audit.report(rows_of("label_audit.csv")),
            "speed": speed(),
        },
        "RESULTS.md": {"oscd gains": gains(typed("oscd.csv")), "naip": report(typed("naip.csv"))},
    }


def demo() -> str:
    """Transfers of `make demo`."""
    rows, lines = rows_of("demo.csv"), []
    for weights in names(rows):
        line = {"encoder": weights}
        for state in STATES:
            percent = [{key: str(100 * float(row[key])) for key in LAND_COVER} for row in under(rows, weights, state)]
            line[f"{state}: OA, AA, mIoU, mF1"] = cells(percent, LAND_COVER)
        lines.append(line)
    return markdown(lines)


def oscd() -> str:
    """Change on real images, by start and share of the labels."""
    rows, lines = rows_of("oscd.csv"), []
    for fraction in dict.fromkeys(row["fraction"] for row in rows):
        some = [row for row in rows if row["fraction"] == fraction]
        for weights in names(some):
            line = {"encoder from": weights, "labels": f"{float(fraction):g} %" if fraction else ""}
            for state in STATES if fraction else ("",):
                line[f"{state or 'frozen'}: OA, IoU, precision, recall"] = cells(under(some, weights, state), CHANGE)
            lines.append(line if fraction else line | {f"tuned: {', '.join(CHANGE)}": ""})
    return markdown(lines)


def vits() -> str:
    """Transfers of twin ViTs, frozen."""
    rows, titles = rows_of("vit_pretraining.csv"), {"mid": "CromSS, middle fusion", "late": "CromSS, late fusion"}
    lines = []
    for weights in names(rows):
        some = [row for row in rows if row["weights"] == weights]
        scores = {title: cells(some, [key]) for key, title in zip(LAND_COVER, ("OA", "AA", "mIoU", "mF1"))}
        lines.append({"encoder": titles.get(weights, weights)} | scores)
    return markdown(lines)


def first_paper() -> str:
    """Transfers of the first paper in small, by set."""
    heads = {"NYC": "mIoU: U-Net frozen, DeepLabv3+ tuned", "DFC2020": "mIoU: PSPNet frozen, tuned"}
    heads |= {"OSCD": "IoU of change: U-Net frozen, tuned"}
    rows, lines = rows_of("first_paper.csv"), []
    for weights in names(rows):
        line = {"encoder from": weights}
        for name, head in heads.items():
            of_set = [row for row in rows if row["set"] == name]
            key = "iou" if name == "OSCD" else "miou"
            line[f"{name}, {head}"] = ", ".join(cells(under(of_set, weights, state), [key]) for state in STATES)
        lines.append(line)
    return markdown(lines)


def speed() -> str:
    """Parts of the method beside the published way."""
    parts = {
        "label smoothing prior, a sample": ("prior", "prior of a sample"),
        "the same, with all cores": ("prior", "prior of a sample, all cores"),
        "selection and losses, a batch of 8, forward": ("selection", "forward"),
        "the same with backward": ("selection", "forward and backward"),
        "reading and preparing, a sample": ("loader", "read and prepared, warm"),
        "reading and preparing, with all cores": ("loader", "read and prepared, warm, all cores"),
        "loader without the prior, a sample, warm": ("loader", "read, warm"),
        "the same, cold": ("loader", "read, cold"),
        "the same, warm, two loader processes": ("loader", "read, warm, 2 workers"),
        "a test tile prepared and counted, without the network": ("predict", "test tile, without the network"),
        "the same, with a PSPNet of ResNet-50": ("predict", "test tile"),
        "a whole step, ResNet-50, batch of 4, middle fusion, two threads": ("step", "step, mid fusion"),
        "the same, late fusion": ("step", "step, late fusion"),
        "peak memory of the step, middle fusion": ("step", "peak memory, mid fusion"),
        "the same, ours with `--grad_checkpointing`": ("step", "peak memory, mid fusion", CHECKPOINTED),
        "that step, ours with `--grad_checkpointing`": ("step", "step, mid fusion", CHECKPOINTED),
    }
    lines = []
    for title, (table, what, *way) in parts.items():
        theirs, ours = (measured_row(f"bench_{table}.csv", what, name) for name in (PUBLISHED, *(way or [OURS])))
        values = {name: f"{float(row['value']):.1f} {row['unit']}" for name, row in ((PUBLISHED, theirs), (OURS, ours))}
        lines.append({"on the CPU, one thread": title} | values | {"ratio": f"{float(ours['ratio']):.1f}"})
    return markdown(lines)


def typed(table: str) -> list[dict[str, Any]]:
    """Rows of a table, with numbers where there are any."""
    return [{key: _number(word) for key, word in row.items()} for row in rows_of(table)]


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def names(rows: Rows) -> list[str]:
    """Starts, in their order."""
    return list(dict.fromkeys(row["weights"] for row in rows))


def under(rows: Rows, weights: str, state: str) -> Rows:
    """Rows of a start, with the encoder in this state."""
    key = "encoder_state" if "encoder_state" in rows[0] else "encoder"
    return [row for row in rows if (row["weights"], row[key]) == (weights, state)]


def cells(rows: Rows, keys: Iterable[str]) -> str:
    """Means and spread of scores."""
    return ", ".join(cell(float(row[key]) for row in rows if row[key]) for key in keys)


if __name__ == "__main__":
    for page, made in tables().items():
        write_tables(HOME.parent / page, made)
