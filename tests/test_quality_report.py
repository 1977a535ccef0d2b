"""The report as text: rows, tables and sentences against hand-made counts."""

import csv
import io
import re

import numpy as np
import pytest

from cromss import quality_report
from cromss.label_quality import Quality, compare
from cromss.metrics import scores
from cromss.tables import to_csv

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("trees", "a|b", "water")
EXACT = np.zeros((4, 10), np.uint8)
EXACT[:, 6:] = 1
NOISY = EXACT.copy()
NOISY[:3, 5], NOISY[0, 0], NOISY[3, 9] = 1, 2, 255
HAND = compare(NOISY, EXACT, 3, max_distance=3)
"""24 trees and 15 of a|b are compared; of the trees three right at the border are labelled a|b, one far off water."""


def cells(table):
    """Rows of a Markdown table as lists."""
    rows = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in (rows[0], *rows[2:])]


def random_quality(num_classes=4, reach=5, seed=0):
    rng = np.random.default_rng(seed)
    exact = rng.integers(0, num_classes - 1, (8, 8)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    noisy = np.where(rng.random(exact.shape) < 0.7, exact, rng.integers(0, num_classes - 1, exact.shape))
    return compare(noisy.astype(np.uint8), exact, num_classes, reach)


def test_rows_of_classes_by_hand():
    trees, other, water, mean = quality_report.class_rows(HAND, CLASSES)
    assert (trees["class"], other["class"], water["class"], mean["class"]) == (*CLASSES, "mean")
    assert [row["pixels_exact"] for row in (trees, other, water)] == [24, 15, 0]
    assert [row["pixels_noisy"] for row in (trees, other, water)] == [20, 18, 1]
    assert trees["share_exact"] == pytest.approx(100 * 24 / 39)
    assert (trees["precision"], trees["recall"]) == pytest.approx((100, 100 * 20 / 24))
    assert (other["precision"], other["recall"], other["iou"]) == pytest.approx((100 * 15 / 18, 100, 100 * 15 / 18))
    assert (water["precision"], water["recall"], water["iou"], water["f1"]) == (0, None, 0, 0)
    assert mean["precision"] == pytest.approx((100 + 100 * 15 / 18) / 3)
    assert mean["recall"] == pytest.approx((100 * 20 / 24 + 100) / 2)
    assert mean["oa"] == pytest.approx(100 * 35 / 39)


def test_csv_markdown_and_metrics_agree():
    quality, names = random_quality(), ("a", "b", "c", "d")
    wanted = scores(quality.confusion)
    rows = list(csv.DictReader(io.StringIO(to_csv(quality_report.class_rows(quality, names)))))
    table = quality_report.class_table(quality, names)
    printed = cells(table)[1:]
    assert [row["class"] for row in rows] == [*names, "mean"]
    for column, score in enumerate(("precision", "recall", "iou", "f1"), 3):
        values = wanted[score].tolist()
        for row, line, value in zip(rows, printed, [*values, np.nanmean(values)]):
            told = "-" if np.isnan(value) else f"{100 * value:.2f}"
            assert line[column].strip("*") == told
            assert (f"{float(row[score]):.2f}" if row[score] else "-") == told
    assert f"OA **{100 * wanted['oa']:.2f}**" in table
    assert float(rows[-1]["oa"]) == pytest.approx(100 * wanted["oa"])
    assert [float(line[1]) for line in printed[:-1]] == pytest.approx(
        (100 * quality.confusion.sum(axis=1) / quality.num_compared).tolist(), abs=0.0051
    )


def test_confusion_rows_hold_the_counts():
    rows = quality_report.confusion_rows(HAND, CLASSES)
    assert [row[r"exact \ noisy"] for row in rows] == list(CLASSES)
    assert [[row[name] for name in CLASSES] for row in rows] == HAND.confusion.tolist()


@pytest.mark.parametrize("pixel_size", [None, 2.5])
def test_rows_of_distances_hold_all_counts(pixel_size):
    quality, names = random_quality(), ("a", "b", "c", "d")
    rows = quality_report.distance_rows(quality, names, pixel_size)
    assert len(rows) == 5 * 6
    assert [row["distance"] for row in rows[:6]] == ["1", "2", "3", "4", "5", "> 5"]
    assert ("metres" in rows[0]) == (pixel_size is not None)
    if pixel_size:
        assert [row["metres"] for row in rows[:6]] == ["2.5", "5", "7.5", "10", "12.5", "> 12.5"]
    found = {(row["class"], row["distance"]): row for row in rows}
    for index, name in enumerate(names):
        for step, row in enumerate(row for row in rows if row["class"] == name):
            assert (row["pixels"], row["wrong"]) == (quality.pixels[index, step], quality.wrong[index, step])
    total = found["all classes", "2"]
    assert total["wrong"] == quality.wrong[:, 1].sum()
    assert total["wrong_percent"] == pytest.approx(100 * quality.wrong[:, 1].sum() / quality.pixels[:, 1].sum())
    assert found["d", "1"]["wrong_percent"] is None


def test_distances_by_hand():
    head, *rows = cells(quality_report.distance_table(HAND, pixel_size=10))
    assert head[:2] == ["up to (px)", "up to (m)"]
    assert [row[:2] for row in rows] == [["1", "10"], ["2", "20"], ["3", "30"], ["> 3", "> 30"]]
    assert [row[2] for row in rows] == [f"{100 * count / 39:.2f}" for count in (8, 8, 8, 15)]
    assert [row[3] for row in rows] == ["37.50", "0.00", "0.00", f"{100 / 15:.2f}"]
    assert [row[4] for row in rows] == ["75.00", "0.00", "0.00", "25.00"]


@pytest.mark.parametrize(
    ("reach", "edges"), [(1, "1 >1"), (4, "1 2 4 >4"), (5, "1 2 4 5 >5"), (40, "1 2 4 8 16 32 40 >40")]
)
def test_distances_double_and_nothing_is_lost(reach, edges):
    quality = random_quality(reach=reach)
    _, *rows = cells(quality_report.distance_table(quality))
    assert [row[0].replace(" ", "") for row in rows] == edges.split()
    assert sum(float(row[1]) for row in rows) == pytest.approx(100, abs=0.05)
    assert sum(float(row[3]) for row in rows) == pytest.approx(100, abs=0.05)


def test_sentences_say_what_was_counted():
    wrong, near, frequent, lowest = quality_report.findings(HAND, CLASSES)
    assert wrong.startswith("10.26 % of the compared pixels are labelled wrong (OA 89.74 %)")
    assert near.startswith("75.00 % of the errors lie within 3 px of a class border, where 61.54 % of all")
    assert "12.50 % of the pixels are wrong there, and 6.67 % of those farther away" in near
    assert "exact trees labelled a|b: 75.00 % of all errors" in frequent
    assert "water (0.00 %)" in lowest


def test_sentences_know_masks_without_errors_and_short_reaches():
    assert quality_report.findings(compare(EXACT, EXACT, 3), CLASSES) == [
        "0.00 % of the compared pixels are labelled wrong (OA 100.00 %)."
    ]
    near = quality_report.findings(compare(NOISY, EXACT, 3, max_distance=1), CLASSES)[1]
    assert "within 1 px" in near
    everything = quality_report.findings(compare(NOISY[:, 5:7], EXACT[:, 5:7], 3), CLASSES)[1]
    assert "none of those farther away" in everything


def test_a_class_that_is_nowhere_is_not_the_worst():
    line = quality_report.findings(compare(NOISY, EXACT, 4), (*CLASSES, "nowhere"))[-1]
    assert "lowest IoU is water" in line
    line = quality_report.findings(compare(NOISY[:, 1:], EXACT[:, 1:], 3), CLASSES)[-1]
    assert "lowest IoU is a|b" in line


def test_the_page_holds_everything():
    quality = HAND + compare(np.full((2, 5), 255, np.uint8), np.zeros((2, 5), np.uint8), 3, 3)
    page = quality_report.page(quality, CLASSES, ["Noisy: here", "Exact: there"], num_left_out=1234, pixel_size=10)
    assert "2 pairs of masks, 50 pixels; 39 have a class in both" in page
    assert "Unlabelled: 22.00 % of the noisy pixels, 0.00 % of the exact ones." in page
    assert "- Noisy: here\n- Exact: there\n" in page
    assert "1,234 locations" in page
    assert re.findall(r"!\[[^\]]+\]\((\S+)\)", page) == ["confusion.png", "distance.png", "worst.png"]
    assert quality_report.class_table(quality, CLASSES) in page
    assert quality_report.distance_table(quality, 10) in page
    assert r"a\|b" in page
    for line in quality_report.findings(quality, CLASSES):
        assert f"- {line}\n" in page
    assert "Left out" not in quality_report.page(HAND, CLASSES, [])


def test_every_row_of_a_table_has_the_cells_of_its_head():
    page = quality_report.page(HAND, CLASSES, [])
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({len(row) for row in cells(block)}) == 1


def test_counts_of_nothing_are_written_as_dashes():
    nothing = Quality(np.zeros((2, 2), int), np.zeros((2, 4), int), np.zeros((2, 4), int), 1, 4, 4, 0)
    table = quality_report.class_table(nothing, ("a", "b"))
    assert "OA **-**" in table
    assert "nan" not in quality_report.page(nothing, ("a", "b"), [])
