"""The label quality report as text: tables as rows for CSV and as Markdown, and what they say in a few lines."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cromss.label_quality import Quality

NEAR = 3
"""Pixels from a class border that count as near."""

CLASS_SCORES = {"precision": "precision_mean", "recall": "aa", "iou": "miou", "f1": "mf1"}
"""Score of a class -> its mean over the classes, in `Quality.scores`."""

_CLASS_HEAD = ("class", "pixels exact", "pixels noisy", "precision", "recall", "IoU", "F1")
_DISTANCE_HEAD = ("of all pixels", "of them wrong", "of all errors")


def class_rows(quality: Quality, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class with its pixels and scores, and one of the means with the OA; in percent, `None` where undefined.

    Args:
        quality: The counts.
        classes: Names by class id.
    """
    scores, total = quality.scores(), max(quality.num_compared, 1)
    rows = []
    for index, name in enumerate(classes):
        counts = {"exact": int(quality.confusion[index].sum()), "noisy": int(quality.confusion[:, index].sum())}
        pixels = {f"pixels_{side}": count for side, count in counts.items()}
        shares = {f"share_{side}": 100 * count / total for side, count in counts.items()}
        own = {score: _percent(scores[score][index].item()) for score in CLASS_SCORES}
        rows.append({"class": name} | pixels | shares | own)
    means = {score: _percent(scores[mean]) for score, mean in CLASS_SCORES.items()}
    return [*rows, {"class": "mean"} | means | {"oa": _percent(scores["oa"])}]


def confusion_rows(quality: Quality, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row an exact class: its compared pixels by noisy class."""
    return [
        {r"exact \ noisy": name} | dict(zip(classes, row.tolist())) for name, row in zip(classes, quality.confusion)
    ]


def distance_rows(quality: Quality, classes: Sequence[str], pixel_size: float | None = None) -> list[dict[str, Any]]:
    """A row a distance to the nearest class border, over all pixels and by exact class.

    Args:
        quality: The counts.
        classes: Names by class id.
        pixel_size: Side of a pixel in metres, if known.
    """
    names = ["all classes", *classes]
    pixels, wrong = (np.concatenate([counts.sum(axis=0)[None], counts]) for counts in (quality.pixels, quality.wrong))
    return [
        {
            "class": name,
            "distance": _end(step, quality.max_distance),
            **({} if pixel_size is None else {"metres": _end(step, quality.max_distance, pixel_size)}),
            "pixels": int(pixels[row, step - 1]),
            "wrong": int(wrong[row, step - 1]),
            "wrong_percent": _share(wrong[row, step - 1], pixels[row, step - 1]),
        }
        for row, name in enumerate(names)
        for step in range(1, quality.max_distance + 2)
    ]


def class_table(quality: Quality, classes: Sequence[str]) -> str:
    """The rows of `class_rows` as Markdown, OA last."""
    keys = ("share_exact", "share_noisy", *CLASS_SCORES)
    *rows, mean = class_rows(quality, classes)
    body = [[row["class"], *(_number(row[key]) for key in keys)] for row in rows]
    body.append(["**mean**", "", "", *(f"**{_number(mean[key])}**" for key in CLASS_SCORES)])
    return "\n".join((_markdown(_CLASS_HEAD, body), "", f"OA **{_number(mean['oa'])}**"))


def distance_table(quality: Quality, pixel_size: float | None = None) -> str:
    """Noise by distance as Markdown, in steps that double."""
    reach = quality.max_distance
    steps = sorted({*(1 << power for power in range(reach.bit_length())), reach, reach + 1})
    counts = (
        np.add.reduceat(table.sum(axis=0), [0, *steps[:-1]]).tolist() for table in (quality.pixels, quality.wrong)
    )
    body = []
    for step, inside, errors in zip(steps, *counts):
        shares = _share(inside, quality.num_compared), _share(errors, inside), _share(errors, quality.num_wrong)
        ends = [_end(step, reach, size) for size in (1, pixel_size) if size is not None]
        body.append([*ends, *map(_number, shares)])
    head = ["up to (px)", "up to (m)"][: 1 if pixel_size is None else 2]
    return _markdown([*head, *_DISTANCE_HEAD], body)


def findings(quality: Quality, classes: Sequence[str]) -> list[str]:
    """What the counts say, a sentence each."""
    errors, compared = quality.num_wrong, quality.num_compared
    found = [
        f"{_words(errors, compared)} of the compared pixels are labelled wrong "
        f"(OA {_words(compared - errors, compared)})."
    ]
    if not errors:
        return found
    near = min(NEAR, quality.max_distance)
    inside, wrong = (int(counts[:, :near].sum()) for counts in (quality.pixels, quality.wrong))
    found.append(
        f"{_words(wrong, errors)} of the errors lie within {near} px of a class border, where "
        f"{_words(inside, compared)} of all compared pixels lie: {_words(wrong, inside)} of the pixels are wrong "
        f"there, and {_words(errors - wrong, compared - inside)} of those farther away."
    )
    mistaken = quality.confusion - np.diag(quality.confusion.diagonal())
    exact, noisy = np.unravel_index(mistaken.argmax(), mistaken.shape)
    found.append(
        f"The most frequent error is exact {classes[exact]} labelled {classes[noisy]}: "
        f"{_words(int(mistaken.max()), errors)} of all errors."
    )
    iou = quality.scores()["iou"].nan_to_num(2)
    found.append(f"The class with the lowest IoU is {classes[int(iou.argmin())]} ({_words(float(iou.min()), 1)}).")
    return found


def page(
    quality: Quality,
    classes: Sequence[str],
    compared: Sequence[str],
    num_left_out: int = 0,
    pixel_size: float | None = None,
) -> str:
    """The report as a Markdown page that links confusion.png, distance.png and worst.png.

    Args:
        quality: The counts.
        classes: Names by class id.
        compared: What was compared, a line each.
        num_left_out: Locations left out.
        pixel_size: Side of a pixel in metres, if known.
    """
    unlabelled = (quality.unlabelled_noisy, quality.unlabelled_exact)
    noisy, exact = (_words(count, quality.num_pixels) for count in unlabelled)
    facts = [
        *compared,
        f"{quality.num_masks:,} pairs of masks, {quality.num_pixels:,} pixels; {quality.num_compared:,} have a class "
        f"in both and are compared. Unlabelled: {noisy} of the noisy pixels, {exact} of the exact ones.",
        *([f"Left out: {num_left_out:,} locations, see skipped.csv."] if num_left_out else []),
    ]
    parts = [
        "# Label quality: noisy against exact masks",
        "\n".join(f"- {line}" for line in facts),
        "In short:",
        "\n".join(f"- {line}" for line in findings(quality, classes)),
        "## By class",
        class_table(quality, classes),
        _CLASS_NOTE,
        "![What the pixels of each exact class are labelled](confusion.png)",
        "## By distance to the nearest class border",
        distance_table(quality, pixel_size),
        _DISTANCE_NOTE,
        "![Share of wrong pixels by distance](distance.png)",
        "## Masks with the lowest OA",
        "![Exact masks, noisy masks and wrong pixels](worst.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rules = ["---", *["---:"] * (len(head) - 1)]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in (head, rules, *body))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _end(step: int, reach: int, pixel_size: float = 1) -> str:
    """Upper end of a step of the distance, itself included; `> reach` for what lies beyond."""
    return f"> {reach * pixel_size:g}" if step > reach else f"{step * pixel_size:g}"


def _percent(score: float) -> float | None:
    return None if math.isnan(score) else 100 * score


def _share(part: int, whole: int) -> float | None:
    return 100 * float(part) / float(whole) if whole else None


def _number(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"


def _words(part: float, whole: float) -> str:
    share = _share(part, whole)
    return "none" if share is None else f"{share:.2f} %"


_CLASS_NOTE = (
    "All in percent; pixels are shares of those compared. The exact mask is the truth: precision is the share of the "
    "pixels noisily labelled as the class that truly are of it, recall the share of the pixels truly of the class that "
    "are noisily labelled so. A dash is a score not defined for want of such pixels; it has no part in the mean."
)
_DISTANCE_NOTE = (
    "Shares in percent. The distance of a pixel is that to the nearest pixel of another exact class, from centre to "
    "centre, so that it is 1 right at a border; what lies beyond the edge of a mask is not known. Each row begins "
    "where the one above it ends. Every distance, and every class by itself, is in distance.csv."
)
