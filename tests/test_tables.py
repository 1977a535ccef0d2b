"""Tables of results: mean and spread, Markdown, LaTeX, and the published rows."""

import csv
import io
import re
from collections import Counter

import numpy as np
import pytest
from conftest import REPOSITORY

from cromss.downstream_sets import CHANGE_SCORES, CLASS_SCORES, DOWNSTREAM_SETS
from cromss.settings.finetuning import FinetuneSettings
from cromss.tables import escape_latex, in_words, read_published, summarise, tabulate, to_csv, to_latex, to_markdown

PUBLISHED = REPOSITORY / "train_scripts" / "published_results.csv"
SCORES = {"oa": "OA", "miou": "mIoU"}


def run(weights, state, oa, miou=None, source="", **details):
    return {"weights": weights, "encoder_state": state, "oa": oa, "miou": miou, "source": source, **details}


ROWS = [
    run("random", "frozen", 50.0, 20.0, head="unet"),
    run("random", "frozen", 53.0, 23.5, head="unet"),
    run("random", "tuned", 60.005, head="unet"),
    run("CromSS", "frozen", 55.0, 30.0, head="unet"),
    run("CromSS", "frozen", 55.0, 31.0, head="unet"),
    run("MoCo", "frozen", 70.0, source="1234.5678", head="unet"),
]


def markdown_cells(text):
    """Weights -> cells of a Markdown table."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return lines[0], {line[0]: line[1:] for line in lines[2:]}


def latex_cells(text):
    """Rows of a LaTeX tabular after its heads."""
    body = text.split("\\midrule", 1)[1].split("\\bottomrule")[0]
    return [row.strip().split(" & ") for row in body.replace("\\midrule", "").split("\\\\\n") if row.strip()]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_mean_and_sample_deviation_are_those_of_numpy(count):
    values = np.random.default_rng(count).uniform(0, 100, count)
    found = summarise(values.tolist())
    assert found.mean == pytest.approx(values.mean())
    assert found.std == pytest.approx(values.std(ddof=1))
    assert found.count == count


def test_one_seed_has_no_spread_and_none_has_no_mean():
    assert summarise([41.5]).std is None
    assert summarise([]) is None


def test_markdown_by_hand():
    head, cells = markdown_cells(to_markdown(tabulate("Title", ROWS, SCORES)))
    assert head == ["weights", "frozen OA", "frozen mIoU", "tuned OA", "tuned mIoU"]
    assert cells == {
        "random": ["51.50 ± 2.12 (2)", "21.75 ± 2.47 (2)", "**60.01** (1)", "-"],
        "CromSS": ["**55.00** ± 0.00 (2)", "**30.50** ± 0.71 (2)", "-", "-"],
        "MoCo (published, arXiv 1234.5678)": ["70.00", "-", "-", "-"],
    }


def test_latex_says_the_same():
    table = tabulate("100 % of a_b", ROWS, SCORES)
    text = to_latex(table)
    plain = [[re.sub(r"\\textbf\{(.*?)\}", r"**\1**", cell) for cell in row] for row in latex_cells(text)]
    _, cells = markdown_cells(to_markdown(table))
    assert [[cell.replace("$\\pm$", "±") for cell in row] for row in plain] == [[k, *v] for k, v in cells.items()]
    assert "\\caption{100 \\% of a\\_b}" in text
    assert "\\begin{tabular}{lrrrr}" in text
    assert "\\cmidrule(lr){2-3}\n\\cmidrule(lr){4-5}" in text
    assert text.count("\\midrule") == 2


def test_number_of_seeds_is_told_only_where_it_differs():
    same = [row for row in ROWS if row["encoder_state"] == "frozen"]
    text = to_markdown(tabulate("t", same, SCORES))
    assert "(2)" not in text
    assert text.startswith("### t (n = 2)\n")
    assert to_markdown(tabulate("t", ROWS, SCORES)).startswith("### t\n")


def test_published_rows_come_last_and_are_never_bold():
    table = tabulate("t", [ROWS[-1], *ROWS[:-1]], SCORES)
    assert [line.published for line in table.lines] == [False, False, True]
    assert "**70.00**" not in to_markdown(table)


def test_nothing_is_bold_without_a_rival():
    assert "**" not in to_markdown(tabulate("t", [ROWS[0], ROWS[-1]], SCORES))


def test_equals_share_the_bold():
    tied = [run("a", "frozen", 50.001), run("b", "frozen", 50.004), run("c", "frozen", 9.9)]
    _, cells = markdown_cells(to_markdown(tabulate("t", tied, SCORES)))
    assert [row[0] for row in cells.values()] == ["**50.00**", "**50.00**", "9.90"]


def test_only_details_that_differ_have_a_column():
    rows = [run("a", "frozen", 1.0, head="unet", bands=13), run("a", "frozen", 2.0, head="fpn", bands="13")]
    table = tabulate("t", rows, SCORES)
    assert table.labels == ("weights", "head")
    assert [line.labels for line in table.lines] == [("a", "unet"), ("a", "fpn")]
    assert tabulate("t", rows[:1], SCORES).labels == ("weights",)


def test_runs_of_differing_details_never_share_a_cell():
    rows = [run("a", "frozen", 1.0, fraction="1"), run("a", "frozen", 3.0, fraction="100")]
    means = [line.values[0].mean for line in tabulate("t", rows, SCORES).lines]
    assert means == [1.0, 3.0]


def test_training_tiles_are_told_where_they_differ():
    rows = [run("a", "frozen", 1.0, train_tiles=tiles) for tiles in (100, 100, 24)]
    table = tabulate("t", rows, SCORES)
    assert table.labels == ("weights", "train_tiles")
    assert [(line.labels[1], line.values[0].count) for line in table.lines] == [("100", 2), ("24", 1)]
    assert tabulate("t", rows[:2], SCORES).labels == ("weights",)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 100 %", r"a\_b \& 100 \%"),
        (r"C:\x", r"C:\textbackslash{}x"),
        ("#1 $2 {3}", r"\#1 \$2 \{3\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("1 ± 2", r"1 $\pm$ 2"),
    ],
)
def test_latex_escapes(text, escaped):
    assert escape_latex(text) == escaped


def test_bars_in_names_do_not_break_markdown():
    text = to_markdown(tabulate("t", [run("a|b", "frozen", 1.0)], SCORES))
    assert "| a\\|b | 1.00 | - |" in text


def test_csv_keeps_every_digit_and_key():
    rows = [{"name": "a,b", "oa": 1 / 3}, {"name": 'c"d', "iou": None, "oa": 0.1 + 0.2}]
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [row["name"] for row in read] == ["a,b", 'c"d']
    assert [float(row["oa"]) for row in read] == [1 / 3, 0.1 + 0.2]
    assert [row["iou"] for row in read] == ["", ""]


def published():
    return read_published(PUBLISHED, [*CLASS_SCORES, *CHANGE_SCORES])


def test_published_rows_are_of_known_sets_heads_and_states():
    rows = published()
    assert len(rows) == 50
    for row in rows:
        task = DOWNSTREAM_SETS[row["set"]]
        assert row["source"] in ("2405.01217", "2402.16164")
        assert row["encoder_state"] in ("frozen", "tuned")
        assert row["input"] in task.modalities
        given = [key for key in (*CLASS_SCORES, *CHANGE_SCORES) if row.get(key) is not None]
        assert given
        assert set(given) <= set(task.scores)
    keys = [tuple(row[key] for key in row if row[key] is None or isinstance(row[key], str)) for row in rows]
    assert len(set(keys)) == len(keys)


def test_published_heads_are_flags():
    annotation = FinetuneSettings().model.__dataclass_fields__["model_framework"].type.__args__
    assert {row["head"] for row in published()} - {""} <= set(annotation)


def test_published_numbers_are_those_of_the_papers(shared):
    text = (shared / "FACTS.md").read_text().split("## 4.")[1].split("\n## ")[0]
    known = Counter(float(number) for number in re.findall(r"\b\d+\.\d\d\b", text))
    ours = Counter(row[key] for row in published() for key in row if isinstance(row[key], float))
    assert ours == known


def test_published_rows_by_hand():
    rows = {(r["source"], r["set"], r["input"], r["bands"], r["weights"], r["encoder_state"]): r for r in published()}
    mid = rows["2405.01217", "DFC2020", "s2", "13", "CromSS-mid", "tuned"]
    assert [mid[key] for key in CLASS_SCORES] == [70.41, 55.11, 43.21, 54.91]
    first = rows["2402.16164", "DFC2020", "s2", "13", "noisy labels", "frozen"]
    assert [first[key] for key in CLASS_SCORES] == [66.66, 53.24, 40.88, None]
    change = rows["2402.16164", "OSCD", "s2", "13", "noisy labels", "tuned"]
    assert [change[key] for key in ("oa", "iou", "precision")] == [95.98, 33.37, 71.34]
    assert rows["2405.01217", "DW", "s2", "9", "CromSS-late", "tuned"]["miou"] == 62.05


@pytest.mark.parametrize("value", ["110", "-3", "n/a", "0,5", "nan"])
def test_published_scores_must_be_percentages(value, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(f'weights,oa\nrandom,"{value}"\n')
    with pytest.raises(ValueError, match=r"p\.csv, line 2: oa .* is no percentage"):
        read_published(path, ["oa"])


def test_scores_in_words():
    names = {"oa": "OA", "iou": "IoU"}
    assert in_words({"oa": 0.9123456, "iou": None}, names) == "OA 91.23 %  IoU -"
    several = {"oa": 0.5, "iou": 0.25, "std": {"oa": 0.01, "iou": None}}
    assert in_words(several, names) == "OA 50.00 +- 1.00 %  IoU 25.00 %"
