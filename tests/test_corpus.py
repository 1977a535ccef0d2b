"""What fuzzing has found stays mended, and a small fuzz finds nothing new."""

from pathlib import Path

import pytest
from conftest import REPOSITORY, load_script

fuzz = load_script("fuzz", REPOSITORY / "benchmarks")
CASES = sorted(fuzz.CORPUS.glob("*/*.bin"))


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return fuzz.targets_in(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_found_cases_stay_mended(path, targets):
    assert fuzz.finding(targets[path.parent.name], path.read_bytes()) == ""


def test_every_target_has_a_seed_that_is_read(targets):
    for name, target in targets.items():
        assert any(_is_read(target, seed) for seed in target.seeds), name


def _is_read(target, seed):
    try:
        target.read(seed)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", fuzz.targets_in(Path()))
def test_a_small_fuzz_finds_nothing(name, targets):
    found = {
        fuzz.finding(targets[name], raw) for raw in fuzz.mutants(targets[name], seed=9, count=25 * targets[name].share)
    }
    assert found == {""}


def test_mutants_follow_from_the_seed(targets):
    first, again, other = (list(fuzz.mutants(targets["record"], seed, 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) > 45


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda raw: raw[99], "IndexError"),
        (lambda raw: (_ for _ in ()).throw(ValueError("a\nb")), "ValueError"),
        (lambda raw: (_ for _ in ()).throw(fuzz.StoreError("a\nb")), "StoreError of 2 lines"),
        (lambda raw: sum(range(10**6)), "takes over"),
    ],
)
def test_findings_are_told_and_kept(read, told, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.005)
    target = fuzz.Target(read, [b"a"])
    assert told in fuzz.finding(target, b"a")
    assert fuzz.keep(tmp_path / "record", b"a").read_bytes() == b"a"


def test_what_is_read_or_refused_is_no_finding():
    assert fuzz.finding(fuzz.Target(bytes, [b"a"]), b"a") == ""
    refuse = fuzz.Target(lambda raw: fuzz.parse_record(raw, fuzz.FORMS[0]), [b"a"])
    assert fuzz.finding(refuse, b"a") == ""


def test_resealed_records_are_sound(targets):
    for seed in targets["record"].seeds:
        assert fuzz.resealed(seed[:4] + bytes(8) + seed[12:]) == seed
