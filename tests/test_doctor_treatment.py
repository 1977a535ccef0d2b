"""Repair: what is left out stays out everywhere, stores stay aligned, and marks can be undone."""

import copy
import os
import signal
import subprocess
import sys
import time

import lmdb
import numpy as np
import pytest
from conftest import load_script
from sets import NAMES, season_arrays, write_ours, write_published

from cromss.config import parse
from cromss.doctor import examine
from cromss.mask_pairs import Pairs, open_masks
from cromss.preparation import label_meta
from cromss.settings import MultiModalSettings
from cromss.store import LmdbReader, LmdbWriter, StoreError
from cromss.store.contents import record_key, verify
from cromss.store.environment import forget_environment
from cromss.store.record import pack_record
from cromss.store.repair import exclude, readmit
from cromss.training import pretrain
from cromss.training.pretraining import pretraining_data

inspection = load_script("inspect_lmdb")


def get(path, key):
    forget_environment(os.path.realpath(path))
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return txn.get(key)


def damage(path, index, season):
    """Flip a bit of a record."""
    value = bytearray(get(path, record_key(index, season)))
    value[500] ^= 1
    with lmdb.open(str(path), lock=False, map_size=1 << 28) as env, env.begin(write=True) as txn:
        txn.put(record_key(index, season), bytes(value))


@pytest.fixture
def stores(tmp_path):
    """Three stores of 8 locations; index 3 is damaged in s1, and a record of index 5 is gone in the labels."""
    write_ours(tmp_path, season_arrays(), NAMES)
    paths = [tmp_path / name for name in NAMES.values()]
    damage(paths[0], 3, 1)
    with lmdb.open(str(paths[2]), lock=False, map_size=1 << 28) as env, env.begin(write=True) as txn:
        txn.delete(record_key(5, 2))
    return paths


def verified(path):
    """Read back whole, by an environment of its own."""
    forget_environment(os.path.realpath(path))
    return verify(path)


def run(paths, **options):
    return inspection.main(inspection.Inspection(tuple(paths), **options))


@pytest.mark.parametrize("how", ["mark", "drop"])
def test_repaired_sets_train_and_stay_aligned(stores, tmp_path, capsys, how):
    with pytest.raises(StoreError, match="belongs to another"):
        LmdbReader(stores[2])
    assert run(stores, repair=how) == 0
    printed = capsys.readouterr().out
    assert f"{how} 2 of 8 locations\n" in printed
    assert printed.endswith("\nnow HEALTHY (every record was read; 2 locations are out of use)\n")
    readers = [LmdbReader(path) for path in stores]
    for path, reader in zip(stores, readers):
        assert sorted(reader.excluded) == [3, 5]
        assert reader.excluded[3].startswith("record: ")
        assert len(reader) == 8
        assert reader.location_id(3) == "0000003"
        assert copy.deepcopy(reader).excluded == reader.excluded
        verified(path)
    if how == "drop":
        with pytest.raises(StoreError, match=r"index 3 was dropped \(record: .*\); leave it out"):
            readers[1].read(3, 0)
    else:
        assert readers[1].read(3, 0).shape == (13, 64, 64)
    examination = examine(stores)
    assert not [f for f in examination.findings if f.severity == "damaged"]
    arguments = f"""--data_path {tmp_path} --save_dir {tmp_path} --name a --model_type resnet18 --crop_size 32
        --batch_size 2 --epochs 1 --max_steps 2 --accelerator cpu --validation 0.25 --display_interval 0"""
    settings = parse(MultiModalSettings, arguments.split())
    data = pretraining_data(settings)
    used = [*data.train_indices, *data.val_indices]
    assert sorted(used) == [0, 1, 2, 4, 6, 7]
    assert np.isfinite(pretrain(settings)["val/loss"])
    assert "2 of 8 locations are left out of use" in capsys.readouterr().out


def test_undo_takes_back_what_was_marked_but_not_what_was_dropped(stores):
    before = LmdbReader(stores[1]).read(2, 0)
    exclude(stores[1], {2: "why"})
    exclude(stores[1], {4: "bad"}, drop=True)
    assert dict(LmdbReader(stores[1]).excluded) == {2: "why", 4: "bad"}
    assert readmit(stores[1]) == [4]
    reader = LmdbReader(stores[1])
    assert dict(reader.excluded) == {4: "bad"}
    np.testing.assert_array_equal(reader.read(2, 0), before)
    exclude(stores[0], {2: "why"})
    assert readmit(stores[0]) == []
    assert LmdbReader(stores[0]).excluded == {}


def contents(path):
    """Index -> all seasons, of the locations in use."""
    reader = LmdbReader(path)
    return {index: reader.read_seasons(index) for index in range(len(reader)) if index not in reader.excluded}


def num_records(path):
    """Entries of records, as they stand."""
    forget_environment(os.path.realpath(path))
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return sum(key[0] in b"0123456789" for key, _ in txn.cursor())


def test_dropping_takes_along_what_was_marked(stores, capsys):
    before = contents(stores[1])
    assert run(stores, repair="mark") == 0
    exclude(stores[0], {0: "by hand"})
    capsys.readouterr()
    assert run(stores, repair="drop", dry_run=True) == 0
    assert f"{stores[0]}: would drop 3 of 8 locations, 3 of them marked before\n" in capsys.readouterr().out
    damage(stores[1], 6, 0)
    assert run(stores, repair="drop") == 0
    printed = capsys.readouterr().out
    assert f"{stores[0]}: drop 4 of 8 locations, 3 of them marked before\n" in printed
    assert f"{stores[1]}: drop 3 of 8 locations, 2 of them marked before\n" in printed
    assert [num_records(path) for path in stores] == [16, 20, 20]
    for path in stores:
        verified(path)
    after = contents(stores[1])
    assert sorted(after) == [0, 1, 2, 4, 7]
    for index, seasons in after.items():
        np.testing.assert_array_equal(seasons, before[index])
    assert run(stores, repair="undo") == 0
    assert f"{stores[1]}: 0 locations are in use again, 3 stay dropped\n" in capsys.readouterr().out
    assert run(stores, repair="drop") == 0
    assert capsys.readouterr().out.count(": nothing to drop\n") == 3


def test_the_status_after_undoing_is_that_of_what_is_taken_back(stores, capsys):
    assert run(stores, repair="mark") == 0
    assert run(stores) == 0
    assert run(stores, repair="undo", dry_run=True) == 0
    assert f"{stores[2]}: 2 locations would be in use again, 0 stay dropped\n" in capsys.readouterr().out
    assert run(stores, repair="undo") == 1
    assert f"{stores[2]}: 2 locations are in use again, 0 stay dropped\n" in capsys.readouterr().out
    assert run(stores) == 1


def test_what_no_repair_mends_stays_in_the_status(stores, capsys):
    manifest = stores[0] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"unit": "x"', '"unit": "y"'))
    assert run(stores, repair="mark") == 1
    assert "1 damaged finding(s) are of whole stores, which no repair mends\nnow DAMAGED" in capsys.readouterr().out
    assert run(stores) == 1


def test_a_store_without_a_location_in_use_is_not_healthy(stores, capsys):
    for index in range(8):
        damage(stores[0], index, 2)
    assert run(stores[:1], repair="mark") == 1
    assert "no repair mends\nnow DAMAGED: do not train on this" in capsys.readouterr().out
    assert run(stores[:1]) == 1
    assert f"{stores[0]}: all 8 locations are out of use\n" in capsys.readouterr().out


def test_suspect_locations_are_left_out_where_that_is_asked_for(stores, capsys):
    with lmdb.open(str(stores[2]), lock=False, map_size=1 << 28) as env, env.begin(write=True) as txn:
        for season in range(4):
            txn.put(record_key(1, season), pack_record("0000001", np.full((64, 64), 255, np.uint8)))
    assert run(stores, repair="mark") == 1
    assert capsys.readouterr().out.endswith(
        "\nnow SUSPECT: look at it before training (1 suspect; every record was read; 2 locations are out of use)\n"
    )
    assert run(stores, repair="mark", repair_suspect=True, dry_run=True) == 1
    assert run(stores, repair="mark", repair_suspect=True) == 0
    for path in stores:
        assert sorted(LmdbReader(path).excluded) == [1, 3, 5]
        verified(path)
    assert LmdbReader(stores[0]).excluded[1].startswith(f"unlabelled: {stores[2]}: ")
    assert run(stores) == 0


def test_a_record_on_a_damaged_page_is_marked_and_never_dropped(stores, capsys):
    """Its pages would be counted as free by a header that may say anything."""
    data = stores[1] / "data.mdb"
    content = data.read_bytes()
    at = content.index(get(stores[1], record_key(6, 1))[:128]) // 4096 * 4096
    data.write_bytes(content[:at] + b"\xff" * 4096 + content[at + 4096 :])
    forget_environment(os.path.realpath(stores[1]))
    damaged = data.read_bytes()
    with pytest.raises(StoreError, match=rf"page {at // 4096} is damaged, and .* leave it out with --repair mark"):
        run(stores[1:], repair="drop")
    assert data.read_bytes() == damaged
    assert run(stores[1:], repair="mark") == 0
    assert sorted(LmdbReader(stores[1]).excluded) == [5, 6]
    verified(stores[1])


def test_a_dry_run_changes_nothing(stores, capsys):
    before = [(path / "data.mdb").read_bytes() for path in stores]
    assert run(stores, repair="drop", dry_run=True) == 1
    assert "would drop 2 of 8 locations" in capsys.readouterr().out
    assert [(path / "data.mdb").read_bytes() for path in stores] == before


def test_published_stores_are_checked_but_never_repaired(tmp_path, capsys):
    write_published(tmp_path, season_arrays())
    run([tmp_path / NAMES["labels"]], repair="mark")
    printed = capsys.readouterr().out
    assert "published stores are never repaired" in printed
    forget_environment(os.path.realpath(tmp_path / NAMES["labels"]))
    with lmdb.open(str(tmp_path / NAMES["labels"]), map_size=1 << 28) as env, env.begin(write=True) as txn:
        txn.put(b"2", b"nonsense")
    told = [(f.code, f.index) for f in examine([tmp_path / NAMES["labels"]]).findings if f.severity == "damaged"]
    assert told == [("record", 2)] * 4


def test_masks_left_out_in_one_store_are_left_out_of_pairs(tmp_path):
    for name, modality in (("noisy", "labels"), ("exact", "exact")):
        with LmdbWriter(tmp_path / f"{name}.lmdb", label_meta("NoL", 1, "test", modality)) as writer:
            for location in "abc":
                writer.write(location, [np.zeros((4, 4), np.uint8)])
            writer.finish()
    exclude(tmp_path / "exact.lmdb", {1: "bad"})
    pairs = Pairs(*(open_masks(tmp_path / f"{side}.lmdb", "*.tif", None, side) for side in ("noisy", "exact")))
    assert (pairs.names, pairs.alone, pairs.excluded) == (["a", "c"], {}, {"b": "bad"})


def test_a_killed_repair_leaves_a_store_that_opens(stores):
    code = (
        "import sys\nfrom cromss.store.repair import exclude, readmit\nprint('go', flush=True)\n"
        "while True:\n    exclude(sys.argv[1], {1: 'x' * 9000})\n    readmit(sys.argv[1])\n"
    )
    for delay in (0.01, 0.03, 0.06):
        process = subprocess.Popen([sys.executable, "-c", code, str(stores[1])], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert LmdbReader(stores[1]).excluded.keys() <= {1}
        verified(stores[1])
