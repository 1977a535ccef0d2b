"""Benchmarks of start-up, of the exchange of gradients, of machines and of scaling, on small things."""

import csv
import gc
import io
import mmap
import os
import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, load_script
from sets import NAMES, season_arrays, write_ours

from cromss.models import build_pretrainer

HOME = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def beside(one_thread):
    """Benchmarks import what lies beside them."""
    sys.path.insert(0, str(HOME))
    yield
    sys.path.remove(str(HOME))


def table(path):
    """(what, way) -> value."""
    with path.open(newline="") as file:
        return {(row["what"], row["way"]): float(row["value"]) for row in csv.DictReader(file)}


def test_what_is_started_tells_of_its_first_batch_and_of_its_loader_processes(tmp_path, monkeypatch, capsys):
    start_up = load_script("start_up", HOME)
    flags = f"--crop_size {start_up.SIDE} --num_workers 2 --accelerator cpu --data_path"
    monkeypatch.setattr("sys.argv", ["x", *flags.split(), str(start_up.write_set(tmp_path / "set", 20))])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    gc.collect()  # loaders that other tests have left
    load_script("first_batch", HOME).main()
    *_, seconds, workers = capsys.readouterr().out.splitlines()
    since_imports, cpu = map(float, seconds.split())
    assert 0 < since_imports < 60
    assert cpu > 0
    assert len({*workers.split()} - {str(os.getpid())}) == 2


def test_a_whole_step_is_timed_and_counted(tmp_path, monkeypatch):
    step = load_script("bench_step", HOME)
    monkeypatch.setattr(step, "peak_mb", lambda settings, fusion, name: 1.0 + (name == step.PUBLISHED))
    small = {"encoder": "tu-test_resnet", "fusions": ("late",), "batch_size": 2, "crop_size": 32, "rounds": 1}
    step.main(step.BenchStep(**small, threads=1, results=tmp_path / "step.csv"))
    found = table(tmp_path / "step.csv")
    assert min(found["step, late fusion", way] for way in (step.PUBLISHED, step.OURS, step.CHECKPOINTED)) > 0
    assert found["convolutions of a step, late fusion", step.OURS] > 0
    assert found["peak memory, late fusion", step.OURS] == 1
    network = build_pretrainer("late", "tu-test_resnet")
    images, *_ = step.batch(step.BenchStep(**small))
    with torch.no_grad():
        forward = step.operations_in(lambda: network(**images)) / 1e9
    counted = found["operations of a step, late fusion", step.OURS]
    assert 2 * forward < counted < 3 * forward  # no gradients of images are wanted


def test_test_tiles_are_scored_alike_and_timed(tmp_path):
    predict = load_script("bench_predict", HOME)
    small = {"model_type": "tu-test_resnet", "tiles": 3, "size": 32, "batch_size": 2, "rounds": 2}
    predict.main(predict.BenchPredict(**small, save_dir=tmp_path, results=tmp_path / "predict.csv"))
    times = table(tmp_path / "predict.csv")
    assert all(value > 0 for value in times.values())
    around = [way for what, way in times if what == "test tile, without the network"]
    assert [way for what, way in times if what == "test tile"] == [*around, "network alone"]


@pytest.mark.parametrize("recipe", ["one modality", "late fusion"])
def test_a_training_is_timed_and_taken_apart(tmp_path, recipe):
    """On the CPU, where the script can be tried out."""
    gpu = load_script("bench_gpu", HOME)
    write_ours(tmp_path / "set", season_arrays(), NAMES)
    small = {"model_type": "tu-test_resnet", "batch_size": 2, "crop_size": 32, "steps": 2, "warm_up": 1, "side": 64}
    place = {"data_path": str(tmp_path / "set"), "accelerator": "cpu", "results": tmp_path / "new" / "gpu.csv"}
    gpu.main(gpu.BenchGpu(recipes=(recipe,), num_workers=0, rounds=1, **small, **place))
    values = table(tmp_path / "new" / "gpu.csv")
    assert all(value >= 0 for value in values.values())
    parts = {way for what, way in values if what == f"{recipe}, part of a step"}
    assert parts - {"prior"} == {"preparation", "network", "selection and losses"}
    assert ("prior" in parts) == (recipe == "late fusion")
    shares = [share for (what, _), share in values.items() if what == f"{recipe}, share of the device's time"]
    assert 50 < sum(shares) <= 100
    assert shares == sorted(shares, reverse=True)


def test_losses_that_differ_by_device_are_refused():
    gpu = load_script("bench_gpu", HOME)
    model = SimpleNamespace(to=lambda device: lambda **images: images)
    task = SimpleNamespace(model=model, eval=lambda: None, train=lambda: None)
    task.to = lambda device: task
    ready = {"images": {}, "labels": torch.zeros(2), "prior": None}
    for values, words in (((1.0, 1.00001), None), ((2.0, 2.1), "is 2.0 on the CPU and 2.1"), ((1.0, np.nan), "nan")):
        losses = iter(values)
        task.objective = lambda *_, losses=losses: {"loss": next(losses)}
        with pytest.raises(ValueError, match=words) if words else nullcontext():
            assert float(gpu.same_loss(task, ready, torch.device("cpu"))["value"]) == pytest.approx(1e-5, rel=1e-3)


def test_the_span_is_that_of_the_steps_that_count_and_so_long_it_is_watched(monkeypatch):
    gpu, seen, now = load_script("bench_gpu", HOME), [], iter([10.0, 17.0])
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(now))

    @contextmanager
    def watch():
        seen.append("begins")
        yield
        seen.append("ends")

    span = gpu.Span(gpu.BenchGpu(warm_up=2, steps=3), watch())
    for _ in range(5):
        seen.append("step")
        span.on_train_batch_end()
    assert seen == ["step", "step", "begins", "step", "step", "step", "ends"]
    assert span.seconds == 7


@pytest.mark.parametrize("flag", ["steps", "warm_up", "rounds"])
def test_no_steps_are_refused(flag):
    with pytest.raises(ValueError, match=f"--{flag} 0"):
        load_script("bench_gpu", HOME).BenchGpu(**{flag: 0})


def test_operations_are_those_of_the_convolutions():
    """Forward, and backward to weights and, but for the first layer, to inputs."""
    gpu = load_script("bench_gpu", HOME)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 1))
    task = SimpleNamespace(model=lambda s2: {"s2": model(s2)}, zero_grad=model.zero_grad)
    first, second = (2 * 2 * 8 * 8 * weights for weights in (3 * 3 * 3 * 4, 4 * 2))
    counted = gpu.operations_of(task, {"images": {"s2": torch.randn(2, 3, 8, 8)}})
    assert counted == 2 * first + 3 * second


def test_memory_is_what_a_process_has_written():
    start_up = load_script("start_up", HOME)
    before = start_up.memory_mb(os.getpid())
    with mmap.mmap(-1, 50_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:  # no memory that was used before
        held.write(b"x" * 50_000_000)
        grown = [now - then for now, then in zip(start_up.memory_mb(os.getpid()), before)]
    assert all(amount > 45 for amount in grown)


def test_sets_are_started_in_turn_and_told_apart(tmp_path, monkeypatch):
    start_up, asked = load_script("start_up", HOME), []
    monkeypatch.setattr(start_up, "help_seconds", lambda: (0.5, 0.25))
    monkeypatch.setattr(start_up, "start", lambda home, workers: asked.append(home.name) or (len(asked), 2, 1, 3, 4))
    start_up.main(start_up.StartUp(locations=(20, 30), rounds=3, results=tmp_path / "start_up.csv"))
    assert asked == ["20", *["20", "30"] * 3]
    assert table(tmp_path / "start_up.csv") == {
        ("--help", ""): 0.5,
        ("--help, processor time", ""): 0.25,
        ("first batch, from the start", "20 locations"): 4,
        ("first batch, from the start", "30 locations"): 5,
        ("first batch, from the imports", "20 locations"): 2,
        ("first batch, from the imports", "30 locations"): 2,
        ("first batch, processor time", "20 locations"): 1,
        ("first batch, processor time", "30 locations"): 1,
        ("loader process, anonymous", "20 locations"): 3,
        ("loader process, anonymous", "30 locations"): 3,
        ("loader process, its own", "20 locations"): 4,
        ("loader process, its own", "30 locations"): 4,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["start_up.csv"]


def test_steps_of_every_way_are_timed(tmp_path):
    """In one process, which is the mean of itself."""
    ddp, told = load_script("ddp_overhead", HOME), []
    settings = ddp.DdpOverhead(encoder="tu-test_resnet", batch_size=4, crop_size=32, rounds=2)
    ddp.take_part(0, 1, settings, f"file://{tmp_path}/meeting", SimpleNamespace(put=told.append))
    ((seconds, megabytes),) = told
    ways = (ddp.APART, ddp.TOGETHER, ddp.ONE, ddp.SUM)
    assert {name: len(each) for name, each in seconds.items()} == dict.fromkeys(ways, 2)
    parameters = sum(parameter.numel() for parameter in ddp.network(settings).parameters())
    assert megabytes == pytest.approx(4 * parameters / 1e6)


def test_gradients_that_are_no_mean_are_refused(monkeypatch):
    ddp = load_script("ddp_overhead", HOME)
    other = torch.tensor([3.0, 5.0])
    monkeypatch.setattr(ddp.dist, "all_reduce", lambda tensor: tensor.add_(other))
    monkeypatch.setattr(ddp.dist, "get_world_size", lambda: 2)
    ddp.check_mean(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 2.0]))
    with pytest.raises(AssertionError):
        ddp.check_mean(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]))


def test_rates_of_a_machine_are_of_what_was_moved(tmp_path, monkeypatch):
    limits = load_script("machine_limits", HOME)
    monkeypatch.setattr(limits, "seconds", lambda work: work() is work or 2.0)
    assert limits.copy_rates(10, 2) == [0.005, 0.005]
    assert limits.product_rates(100, 1) == [2 * 100**3 / 1e9 / 2]
    assert limits.read_rates(tmp_path / "file", 5, 1) == [0.004]
    assert (tmp_path / "file").stat().st_size == 8_000_000
    assert limits.best("memory copy", [2, 4, 3], "GB/s")["value"] == "4"


def test_limits_of_a_machine_are_written(tmp_path):
    limits = load_script("machine_limits", HOME)
    small = {"megabytes": 8, "side": 64, "file_megabytes": 8, "rounds": 2}
    limits.main(limits.MachineLimits(**small, results=tmp_path / "limits.csv"))
    found = table(tmp_path / "limits.csv")
    assert {what for what, _ in found} == {"memory copy", "float32 matrix product", "sequential read"}
    assert all(value > 0 for value in found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["limits.csv"]


def test_limits_are_the_amounts_over_the_rates_of_as_many_threads(monkeypatch):
    limits = load_script("limits", HOME)
    told = {("float32 matrix product", "one thread"): 2.0, ("float32 matrix product", "two threads"): 4.0}
    told |= {("memory copy", "one thread"): 5.0, ("read, warm", "ours"): 0.4}
    told |= {("read from the files a sample", "ours"): 1.0, ("step, mid fusion", "ours"): 2000.0}
    monkeypatch.setattr(limits, "value", lambda table, what, way: told.get((what, way), 3.0))
    rows = limits.tables()["limits.py"].splitlines()
    for row in (
        "| a training step, mid fusion |  |  | 3,000 | 750.00 |  | 2,000.00 | 2.7 x |",
        "| a test tile predicted |  |  | 3,000 | 1,500.00 |  | 3.00 | 0.0 x |",
        "| a sample read, in memory | 2.00 | 0.20 |  |  |  | 0.40 | 2.0 x |",
        "| a sample read, not in memory | 2.00 | 0.20 |  |  | 0.33 | 3.00 | 9.0 x |",
    ):
        assert row in rows


@pytest.mark.parametrize(("script", "page"), [("limits", "README.md"), ("scaling", "scaling.md")])
def test_pages_have_the_tables_that_their_script_makes(script, page):
    """After a change of a table: `python benchmarks/limits.py`, `python benchmarks/scaling.py`."""
    made, text = load_script(script, HOME).tables(), (HOME / page).read_text()
    assert load_script("pages", HOME).filled(text, made) == text


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md"])
def test_tables_of_the_readme_are_those_of_the_csv_files(page):
    """After a change of a table: `make tables`."""
    made, text = load_script("readme", HOME).tables()[page], (REPOSITORY / page).read_text()
    assert load_script("pages", HOME).filled(text, made) == text


def test_tables_replace_what_stands_between_their_lines():
    pages = load_script("pages", HOME)
    text = "a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n"
    new = pages.markdown([{"GPUs": 1, "s": r"\1"}, {"GPUs": 8, "s": ""}])
    assert new == "| GPUs | s |\n| --- | ---: |\n| 1 | \\1 |\n| 8 |  |"
    assert pages.filled(text, {"x": new}) == f"a\n<!-- x -->\n{new}\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n"
    with pytest.raises(ValueError, match="no lines <!-- z -->"):
        pages.filled(text, {"z": new})


def test_values_of_tables_are_of_one_row(tmp_path, monkeypatch):
    pages = load_script("pages", HOME)
    monkeypatch.setattr(pages, "HOME", tmp_path)
    (tmp_path / "a.csv").write_text("what,way,value\nread,ours,1.5\nread,theirs,3\nread,theirs,4\n")
    assert pages.value("a.csv", "read", "ours") == 1.5
    for way, count in (("nobody's", 0), ("theirs", 2)):
        with pytest.raises(ValueError, match=f"a.csv: {count} rows of 'read'"):
            pages.value("a.csv", "read", way)


def test_epochs_and_exchanges_by_hand(monkeypatch):
    scaling = load_script("scaling", HOME)
    assert [scaling.steps(gpus) for gpus in (1, 8, 64, 512)] == [810, 101, 12, 1]
    assert scaling.steps(512, batch=16) == 12
    assert scaling.steps(200_000) == 1
    assert scaling.all_reduce_s(1e9, 2, 4) == pytest.approx(1)  # 4 GB to the other and 4 GB back, half of them each
    assert scaling.all_reduce_s(1e9, 1, 4) == 0
    measured = {"sequential read": 0.5, "read from the files a sample": 1.25, "read, cold": 2}
    monkeypatch.setattr(scaling, "value", lambda table, what, way: measured[what])
    first, *_, last = (row.strip("| ").split(" | ") for row in scaling.epochs().splitlines()[2:])
    assert first == ["1", "120", "0.15", "865", "865", "865", "865", "865"]
    assert last == ["512", "1200", "768", "0.17", "**259**", "**130**", "**13**", "**1.3**"]
    fullest = [row.strip("| ").split(" | ") for row in scaling.saturation().splitlines()[2:]]
    assert fullest[0] == ["8", "500", "50", "12", "12", "disk of 10 GB/s", "101", "0"]
    assert fullest[2][2:] == ["3200", "12", "14", "disk of 10 GB/s", "1", "37"]


def test_the_networks_of_the_scaling_page_have_as_many_parameters():
    scaling = load_script("scaling", HOME)
    with torch.device("meta"):
        for fusion, count in scaling.PARAMETERS.items():
            network = build_pretrainer(fusion, "resnet50")
            assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(count, rel=1e-4)


def test_limits_are_the_larger_of_moving_computing_and_reading(monkeypatch):
    limits = load_script("limits", HOME)
    rates = {"memory copy": 5, "float32 matrix product": 50, "sequential read": 0.5}
    monkeypatch.setattr(limits, "value", lambda table, what, way: rates.get(what, 8.0))
    work = [
        limits.Work("moving", "a.csv", "x", moved=20, computed=50),
        limits.Work("computing", "a.csv", "x", moved=20, computed=200),
        limits.Work("reading", "a.csv", "x", moved=20, read=4),
    ]
    monkeypatch.setattr(limits, "works", lambda: work)
    rows = [row.strip("| ").split(" | ") for row in limits.tables()["limits.py"].splitlines()[2:]]
    assert [row[-1] for row in rows] == ["4.0 x", "2.0 x", "1.0 x"]
    assert rows[0] == ["moving", "20.00", "2.00", "50", "1.00", "", "8.00", "4.0 x"]


def test_what_the_prior_and_the_losses_take_at_least_by_hand():
    prior, forward, *_ = load_script("limits", HOME).works()
    taps = 2 * 12 + 1  # of a Gaussian of sigma 3 cut at 4 sigma
    assert prior.computed == pytest.approx(9 * 264 * 264 * taps * 2 * 2 / 1e6)
    assert prior.moved == pytest.approx((4 * 264 * 264 + 9 * 264 * 264 * 4) / 1e6)
    assert forward.moved == pytest.approx(8 * 256 * 256 * (3 * 9 * 4 + 8) / 1e6)
