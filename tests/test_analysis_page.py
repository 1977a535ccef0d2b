"""The page of the analysis."""

import math
from pathlib import Path

from cromss.analysis.findings import LayerScore, verdict
from cromss.analysis.page import markdown
from cromss.analysis.weight_divergence import Divergence

ACCURACY = {"noisy": {"oa": 0.7, "miou": 0.456}, "exact": {"oa": 0.9, "miou": 0.6}}


def score(name, ratio):
    return LayerScore(name, name.split(".")[0], ratio, 1.0, Divergence(1e-4, 2e-4, 3e-4), 9)


def test_the_page_says_what_was_compared_and_found():
    scores = [score("encoder.a", 1.0), score("encoder.b", 0.9), score("decoder.c", 0.5), score("head.0", 0.25)]
    page = markdown(scores, {"network": "resnet18"}, ACCURACY, [Path("out/principal_7.png")])
    assert "- network: resnet18\n" in page
    assert all(f"- {sentence}" in page for sentence in verdict(scores))
    assert "`head.0` 75 %, `decoder.c` 50 %, `encoder.b` 10 %, `encoder.a` 0 %" in page
    assert "| decoder | 1 | 0.5 | 1 | 50 % | 0.0001 | 0.0002 | 0.0003 |" in page
    assert "- trained on noisy labels: overall accuracy 70 %, mIoU 46 %" in page
    assert all(f"]({name}.png)" in page for name in ("fisher", "weights", "principal_7"))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9}
    assert len(rows) == 2 + 3


def test_without_numbers_and_pictures_there_is_a_page():
    page = markdown([score("encoder.a", math.nan)], {}, ACCURACY, [])
    assert "none has one" in page
    assert "undefined in too many layers" in page
    assert "principal" not in page
