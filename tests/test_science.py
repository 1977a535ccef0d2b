"""The science benchmark: what it combines, that a tiny grid goes through and resumes, its tables from known rows."""

import csv
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import REPOSITORY, load_script

from cromss.synthetic import NOISE_PRESETS, WORLD_HASH, WORLD_VERSION

HOME = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts(one_thread):
    """The scripts, which import what lies beside them."""
    sys.path.insert(0, str(HOME))
    names = {
        "grid": "science_grid",
        "tables": "science_tables",
        "probe": "probe",
        "co": "coteaching",
        "science": "science",
    }
    yield SimpleNamespace(**{short: load_script(name, HOME) for short, name in names.items()})
    sys.path.remove(str(HOME))


# what is combined


@pytest.mark.parametrize("name", ["full", "reduced", "ablation", "ideas", "tiny"])
def test_every_run_has_a_folder_of_its_own(scripts, name):
    grid = scripts.grid.GRIDS[name]
    starts = scripts.grid.starts(grid)
    cells = [cell for start in starts for cell in scripts.grid.cells(grid, start)]
    pretrained = {scripts.grid.pretrained_name(s, m) for s in starts for m in grid.inputs if s.method != "random"}
    assert len({cell.name for cell in cells} | pretrained) == len(cells) + len(pretrained)
    assert {kind for kind, _ in grid.noises} <= set(NOISE_PRESETS)


def test_what_learns_no_noisy_labels_comes_once_a_seed(scripts):
    grid = scripts.grid.GRIDS["full"]
    counts = {
        method: sum(start.method == method for start in scripts.grid.starts(grid)) for method in scripts.grid.METHODS
    }
    once = {"random", "single-modal, exact labels", "multi-modal, exact labels"}
    assert {method for method, count in counts.items() if count == 3} == once
    assert {count for method, count in counts.items() if method not in once} == {3 * 15}


def test_other_noise_than_the_main_one_takes_fewer_transfers(scripts):
    grid = scripts.grid.GRIDS["full"]
    main, other = (scripts.grid.Start("CromSS-mid", noise, 0) for noise in (("mixed", 2), ("seasons", 3)))
    of_main = [(c.input, c.state, c.fraction) for c in scripts.grid.cells(grid, main)]
    assert len(of_main) == 2 * (3 + 3 + 1)
    assert [(c.input, c.state, c.fraction) for c in scripts.grid.cells(grid, other)] == [
        ("s1", "frozen", 100),
        ("s1", "probe", 100),
        ("s2", "frozen", 100),
        ("s2", "probe", 100),
    ]


def test_parts_cover_the_grid_once(scripts):
    parts = [scripts.science.Science(part=f"{part}/4").mine for part in range(1, 5)]
    whole = scripts.science.Science().mine
    assert sorted(start.name for part in parts for start in part) == sorted(start.name for start in whole)
    for wrong in ("0/2", "3/2", "half"):
        with pytest.raises(ValueError, match=f"--part {wrong}: must be a part and their number"):
            scripts.science.Science(part=wrong)


def test_settings_are_those_of_the_methods(scripts, tmp_path):
    grid, told = scripts.grid.GRIDS["full"], {}
    for method in scripts.grid.METHODS:
        exact = "exact" in method
        start = scripts.grid.Start(method, scripts.grid.EXACT if exact else ("borders", 3), seed=7)
        if method != "random":
            run = told[method] = scripts.grid.pretraining(grid, start, "s1", tmp_path)
            assert (run.data.experiment == "gt_labels") == exact
            assert run.data.noise == (("mixed", 2) if exact else ("borders", 3))
            assert (run.input_type == "s1") == method.startswith("single")
            assert run.selection.sample_selection == ("selection" in method or "CromSS" in method)
            assert run.smoothing.label_smoothing == ("ts and" in method or "smoothing" in method or "CromSS" in method)
            assert (run.runtime.seed, run.data.gt_available) == (7, True)
    kinds = [told[f"multi-modal, smoothing {kind}"].smoothing.label_smoothing_prior_type for kind in ("s", "t", "ts")]
    assert kinds == ["s", "t", "ts"]
    losses = [told[f"single-modal, {loss} CE"].model.loss_type for loss in ("generalised", "symmetric")]
    assert losses == ["gd", "sd"]
    agreeing = {method for method, run in told.items() if run.selection.sample_selection_agreement}
    assert agreeing == {"CromSS-mid, agreement", "single-modal, ts and selection by agreement"}
    assert told["CromSS-late"].cross.fusion_type == "late"
    assert told["CromSS-mid, common branch"].cross.use_common_feature
    assert told["CromSS-mid"].selection.sample_selection_rmdown_epoch == 2 * grid.epochs // 5


def test_transfers_take_about_as_many_steps_whatever_the_fraction(scripts, tmp_path):
    grid, steps = scripts.grid.GRIDS["full"], {}
    start = scripts.grid.Start("random", scripts.grid.EXACT, seed=1)
    for fraction, tiles in ((1, 2), (10, 20), (100, 200)):
        run = scripts.grid.transfer(grid, scripts.grid.Cell(start, "s2", "tuned", fraction), "random", tmp_path)
        steps[fraction] = run.optimisation.epochs * max(1, tiles // run.optimisation.batch_size)
        assert (run.data.fraction, run.data.split_seed, run.model.encoder_finetune_tag) == (fraction, 1, "etr")
    assert all(grid.steps <= count < 1.1 * grid.steps for count in steps.values())
    probe = scripts.grid.transfer(grid, scripts.grid.Cell(start, "s2", "probe", 100), "random", tmp_path)
    assert (probe.model.model_framework, probe.model.encoder_finetune_tag) == ("unet", "efix")
    frozen = scripts.grid.transfer(grid, scripts.grid.Cell(start, "s2", "frozen", 100), "random", tmp_path)
    assert frozen.model.moving_batchnorm


# a whole run


@pytest.fixture(scope="module")
def done(scripts, tmp_path_factory):
    """A grid of one encoder, done."""
    grids = pytest.MonkeyPatch()
    smaller = replace(scripts.grid.GRIDS["tiny"], methods=("CromSS-mid, teacher", "single-modal, co-teaching"))
    grids.setitem(scripts.science.GRIDS, "tiny", smaller)
    settings = scripts.science.Science(grid="tiny", save_dir=tmp_path_factory.mktemp("science"))
    scripts.science.main(settings)
    yield settings
    grids.undo()


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_tell_settings_scores_world_and_machine(done):
    rows = table(done.files[0])
    methods = ["CromSS-mid, teacher", "single-modal, co-teaching"]
    assert [(row["method"], row["state"]) for row in rows] == [*itertools.product(methods, ["frozen", "probe"])]
    for row in rows:
        assert (row["noise"], row["level"], row["input"]) == ("confusion", "1", "s2")
        assert (row["world"], row["hash"]) == (str(WORLD_VERSION), WORLD_HASH)
        assert 0 <= float(row["miou"]) <= 100
        assert row["machine"]
        assert row["date"]
        assert "iou water" in row


def test_the_selection_is_told_by_epoch_and_class(done):
    rows = table(done.files[1])
    assert {row["epoch"] for row in rows} == {"0", "1"}
    assert {"cross_s1", "single_s2", "random"} <= rows[0].keys()
    overall = [row for row in rows if row["class"] == "all"]
    assert all(50 < float(row["random"]) < 99 for row in overall)
    assert {row["class"] for row in rows} > {"all"}


def test_what_is_finished_is_not_done_again(done, scripts, monkeypatch):
    monkeypatch.setattr(scripts.science, "pretraining_metrics", lambda *_: pytest.fail("done again"))
    before = [path.read_bytes() for path in done.files]
    scripts.science.main(done)
    assert [path.read_bytes() for path in done.files] == before


def test_a_run_that_fails_leaves_the_others_alone(scripts, tmp_path, monkeypatch, capsys):
    def record(_settings, _grid, cell):
        if cell.start.method == "random":
            raise ValueError("loss is not finite")
        seen.append(cell.start.method)

    seen, methods = [], ("random", "single-modal", "CromSS-mid")
    monkeypatch.setitem(scripts.science.GRIDS, "tiny", replace(scripts.grid.GRIDS["tiny"], methods=methods))
    monkeypatch.setattr(scripts.science, "record", record)
    assert scripts.science.main(scripts.science.Science(grid="tiny", save_dir=tmp_path)) == 1
    assert set(seen) == {"single-modal", "CromSS-mid"}
    assert "failed: random_none0_seed0: loss is not finite" in capsys.readouterr().out


# tables


def made_up(scripts, grid="reduced"):
    """Rows whose score is that of the method, plus twice the seed, plus ten under the probe."""
    levels = {"random": 10.0, "single-modal": 20.0, "CromSS-mid": 30.0}
    rows = []
    for (method, base), seed, state, modality in itertools.product(
        levels.items(), range(3), ("frozen", "probe"), ("s1", "s2")
    ):
        start = scripts.grid.Start(method, scripts.grid.EXACT if method == "random" else ("mixed", 2), seed)
        score = (base + 2 * seed + 10 * (state == "probe")) / 100
        found = dict.fromkeys(("oa", "aa", "miou", "mf1"), score) | {"iou": {"water": score, "forest": None}}
        found |= {"train_tiles": 4, "seconds": 1.0}
        row = scripts.science.row(grid, scripts.grid.Cell(start, modality, state, 100), {}, found)
        rows.append(row | scripts.science.origin(grid) | {"machine": "m", "date": "2026-01-01"})
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def test_tables_have_means_spread_and_paired_gains(scripts):
    tables = scripts.tables.grid_tables("reduced", made_up(scripts), [])
    assert "36 transfers; seeds 0, 1, 2;" in tables["transfer"]
    assert "| CromSS-mid | 32.0 ± 2.0 | 42.0 ± 2.0 |" in tables["transfer"]
    assert "| random | 12.0 ± 2.0 | 12.0 ± 2.0 |" in tables["noise"]
    assert "| CromSS-mid | 32.0 ± 2.0 | - |" in tables["noise"]
    assert "| CromSS-mid, against single-modal | +10.0 ± 0.0 (3/3) | - |" in tables["gains"]
    assert "| selection, against none | - | - |" in tables["gains"]
    assert "| CromSS-mid | 42.0 ± 2.0 | - |" in tables["classes"]
    assert set(scripts.tables.grid_tables("full", [], []).values()) == {"Not run yet."}


def test_the_selection_has_a_table_and_a_figure(scripts, tmp_path):
    gaps = dict.fromkeys(("single_s2", "cross_s2", "error_s2"), "")
    rows = [
        dict(zip(scripts.science.SELECTION_KEYS, ("reduced", "CromSS-mid", "mixed", "2", str(seed), str(epoch), name)))
        | {"random": "70.0", "cross_s1": str(80 + epoch + seed), "single_s1": "75.0"}
        | gaps
        | {"error_s1": "20"}
        for seed, epoch, name in itertools.product(range(2), range(3), ("all", "bare_land"))
    ]
    told = scripts.tables.selection_table(rows)
    assert "| CromSS-mid | mixed 2 | 70.0 ± 0.0 | 75.0 ± 0.0 | - | 82.5 ± 0.7 | - | 20.0 ± 0.0 | - |" in told
    of_class = scripts.tables.selected_classes([row for row in rows if row["epoch"] == "2"])
    assert "| CromSS-mid | bare land | 70.0 ± 0.0 | 75.0 ± 0.0 | - | 82.5 ± 0.7 | - |" in of_class
    gains = scripts.tables.selection_gains(rows)
    assert "| CromSS-mid: crossed, against its own confidence alone | +7.5 ± 0.7 (2/2) | - |" in gains
    assert "| CromSS-mid: agreement, against none | - | - |" in gains
    whole = scripts.tables.grid_tables("reduced", made_up(scripts), rows)["selection"]
    assert whole.endswith("(benchmarks/science_selection_reduced.png)")
    assert scripts.tables.curves(rows[::2])["cross_s1"] == ([0, 1, 2], [80.5, 81.5, 82.5])
    scripts.tables.draw(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def with_methods(rows, **names):
    """Rows of some methods, under other names."""
    return [row | {"method": names[row["method"]]} for row in rows if row["method"] in names]


def test_changes_have_paired_gains_and_clean_shares(scripts):
    changed, base = "sigma 6 px", "CromSS-mid"
    rows = with_methods(made_up(scripts), **{"single-modal": changed, base: base})
    told = {"class": "all", "epoch": "1", "seed": "0", "noise": "mixed", "level": "2", "cross_s2": ""}
    selection = [told | {"method": method, "cross_s1": share} for method, share in ((base, "80"), (changed, "81"))]
    table = scripts.tables.changes(rows, selection)
    assert f"| {base} | 32.0 ± 2.0 |  | 80.0 |  | 32.0 ± 2.0 |  | - |  |" in table
    one = "22.0 ± 2.0 | -10.0 ± 0.0 (0/3)"
    assert f"| {changed} | {one} | 81.0 | +1.0 (1/1) | {one} | - | - |" in table
    assert "Labels of pretraining" not in table


def test_changes_of_one_modality_are_compared_with_selection_in_one(scripts):
    base = scripts.grid.SINGLE_SELECTION
    rows = with_methods(made_up(scripts), **{"single-modal": base, "CromSS-mid": f"{base}, floor"})
    others = [row | {"noise": "confusion", "level": "3"} for row in rows]
    table = scripts.tables.changes([*rows, *others], [])
    assert table.count(f"| {base} | 22.0 ± 2.0 |  | - |  |") == 2
    assert table.count(f"| {base}, floor | 32.0 ± 2.0 | +10.0 ± 0.0 (3/3) | - | - |") == 2
    assert "Labels of pretraining: confusion 3." in table


def test_new_rows_replace_old_ones_of_this_world_and_these_settings_alone(scripts):
    keys, here = ("grid", "seed"), {key: str(value) for key, value in scripts.science.origin("full").items()}
    old = [{"grid": "full", "seed": "0", "miou": "1"} | here, {"grid": "full", "seed": "1", "miou": "2"} | here]
    others = [{"grid": "full", "seed": "2", "miou": "3"} | here | {key: "0"} for key in here]
    kept = scripts.science.comparable([*old, *others])
    rows = scripts.science.merged(kept, [{"grid": "full", "seed": 1, "miou": 9.0}], keys)
    assert [row["miou"] for row in rows] == [9.0, "1"]


def test_the_page_is_what_the_results_give(scripts, tmp_path, monkeypatch, capsys):
    """After a change of a table: `python benchmarks/science.py --tables`."""
    page = tmp_path / "RESULTS.md"
    page.write_text((REPOSITORY / "RESULTS.md").read_text())
    monkeypatch.setattr(scripts.tables, "draw", lambda *_: None)
    scripts.science.main(scripts.science.Science(results=HOME / "science.csv", page=page, tables=True))
    assert page.read_text() == (REPOSITORY / "RESULTS.md").read_text()


# co-teaching


def test_each_network_learns_what_is_easy_for_the_other(scripts):
    rng = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(2, 3, 6, 5, generator=rng) for name in ("s2", "peer")}
    labels = torch.randint(0, 3, (2, 6, 5), generator=rng)
    labels[0, 0] = 255
    losses = {
        m: torch.nn.functional.cross_entropy(x, labels, ignore_index=255, reduction="none") for m, x in logits.items()
    }
    known = labels != 255
    for epoch, share in ((0, 1.0), (2, 0.8), (9, 0.6)):
        terms = scripts.co.CoTeaching(3, "c", "none", ramp_epochs=4, forget=0.4)(logits, labels, epoch=epoch)
        count = int(share * known.sum() + 1e-4)
        for own, other in (("s2", "peer"), ("peer", "s2")):
            easiest = losses[other][known].argsort()[:count]
            torch.testing.assert_close(terms[f"seg_{own}"], losses[own][known][easiest].mean())
        torch.testing.assert_close(terms["loss"], terms["seg_s2"] + terms["seg_peer"])


def test_two_networks_are_taught_and_the_first_is_kept(done, scripts):
    settings = scripts.grid.pretraining(
        scripts.grid.GRIDS["tiny"], scripts.grid.Start(scripts.grid.CO_TEACHING, ("confusion", 1), 0), "s2", done.home
    )
    assert 0.05 < scripts.co.noise_rate(settings) < 0.2
    metrics = scripts.co.co_teach(settings)
    assert {"train/seg_s2", "train/seg_peer", "val/miou_s2"} <= metrics.keys()
    assert "val/miou_peer" not in metrics
    kept = torch.load(metrics["checkpoint"], weights_only=True)["state_dict"]
    both = torch.load(Path(metrics["checkpoint"]).with_name("last.ckpt"), weights_only=True)["state_dict"]
    assert kept.keys() == {name for name in both if name.startswith("model.networks.s2.")}
    assert all(torch.equal(kept[name], both[name]) for name in kept)
    stem = next(name for name in kept if name.endswith("weight"))
    assert not torch.equal(both[stem], both[stem.replace(".s2.", ".peer.")])


# the probe


def test_the_linear_layer_finds_what_is_linear(scripts):
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 5, generator=rng)
    labels = (inputs @ torch.randn(5, 3, generator=rng)).argmax(1)
    stretched = inputs * torch.tensor([1e-3, 1.0, 50.0, 1.0, 1.0]) + 7
    first, second = (scripts.probe.fitted(x, labels, 3)(x).argmax(1) for x in (inputs, stretched))
    assert (first == labels).float().mean() > 0.95
    assert (first == second).float().mean() > 0.99


def test_features_of_all_stages_from_stride_4_on_lie_side_by_side(scripts):
    stages = [torch.rand(1, count, 32 // stride, 32 // stride) for count, stride in ((3, 1), (4, 2), (5, 4), (6, 16))]
    features = scripts.probe.stage_features(stages)
    assert features.shape == (1, 11, 8, 8)
    assert torch.equal(features[:, :5], stages[2])
    torch.testing.assert_close(features[0, 5:, 0, 0], stages[3][0, :, 0, 0])


def test_positions_are_labelled_ones_with_the_labels_at_their_centres(scripts):
    labels = torch.full((1, 32, 32), 255)
    labels[:, 2::4, 2::4] = torch.arange(64).view(8, 8) % 3
    labels[:, :16] = 255
    features = torch.arange(64.0).view(1, 1, 8, 8)
    inputs, ids = scripts.probe.some(features, labels, torch.Generator().manual_seed(0))
    assert sorted(inputs[:, 0].tolist()) == list(range(32, 64))
    assert torch.equal(inputs[:, 0].long() % 3, ids)
