"""The synthetic default: made once, readable, exact beside noisy."""

import numpy as np
import pytest

from cromss import synthetic
from cromss.default_sets import dfc2020_set, pretraining_set
from cromss.settings import PretrainData
from cromss.store import open_store


@pytest.fixture(scope="module")
def names():
    return PretrainData(synthetic_locations=2)


@pytest.fixture(scope="module")
def home(names, tmp_path_factory):
    return pretraining_set(tmp_path_factory.mktemp("world"), names)


def test_stores_belong_together(home, names):
    files = (names.data_name_s1, names.data_name_s2, names.data_name_label, names.data_name_gt)
    stores = [open_store(home / name) for name in files]
    assert [len(store) for store in stores] == [2] * 4
    assert [store.num_seasons for store in stores] == [4] * 4
    assert len({tuple(store.location_ids()) for store in stores}) == 1
    assert [store.read(0, 0).shape for store in stores] == [(2, 264, 264), (13, 264, 264), (264, 264), (264, 264)]


def test_noisy_labels_are_noisy(home, names):
    noisy, exact = (open_store(home / name).read_seasons(0) for name in (names.data_name_label, names.data_name_gt))
    assert 0.5 < (noisy == exact).mean() < 0.9
    assert (exact == exact[0]).all()


def test_second_call_makes_nothing(home, names, monkeypatch):
    monkeypatch.setattr(synthetic, "write_nol", lambda *_: pytest.fail("made again"))
    assert pretraining_set(home.parent.parent, names) == home


def test_downstream_set_keeps_raw_values(tmp_path):
    home = dfc2020_set(tmp_path, 2, 3)
    assert [len(open_store(home / part / "labels.lmdb")) for part in ("train", "test")] == [2, 3]
    assert open_store(home / "test" / "s2.lmdb").read(0, 0).dtype == np.uint16
    assert open_store(home / "test" / "s1.lmdb").read(0, 0).dtype == np.float32
    labels = open_store(home / "test" / "labels.lmdb").read(0, 0)
    assert set(np.unique(labels)) <= {*range(8), 255}
