"""Samples: what is read, which season, padding, alignment."""

import numpy as np
import pytest

from cromss.datasets import Draw, SeasonStacks, check_alignment, pad_to
from cromss.legends import IGNORE_INDEX
from cromss.sensors import S1, S2, quantise, s2_bands
from cromss.store import LmdbReader, LmdbWriter, StoreMeta

SEASONS, SIZE = 4, 24


def write_store(path, modality, arrays, bands=(), dtype="uint8", ids=None):
    """arrays: (N, T, ...)"""
    meta = StoreMeta(modality, bands, dtype, len(arrays[0]), "any")
    with LmdbWriter(path, meta) as writer:
        for index, seasons in enumerate(arrays):
            writer.write(ids[index] if ids else f"{index:07d}", list(seasons))
        writer.finish()
    return path


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "s1": rng.integers(0, 256, (5, SEASONS, 2, SIZE, SIZE)).astype(np.uint8),
        "s2": rng.integers(0, 256, (5, SEASONS, 13, SIZE, SIZE)).astype(np.uint8),
        "labels": rng.integers(0, 9, (5, SEASONS, SIZE, SIZE)).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def stores(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_store(folder / "s1", "s1", arrays["s1"], S1.bands)
    write_store(folder / "s2", "s2", arrays["s2"], S2.bands)
    write_store(folder / "labels", "labels", arrays["labels"])
    return {name: LmdbReader(folder / name) for name in arrays}


def stacks(stores, **options):
    bands = options.pop("bands", {"s1": S1.bands, "s2": S2.bands})
    return SeasonStacks({m: stores[m] for m in bands}, stores["labels"], bands, 9, **options)


def test_sample_is_what_was_written(stores, arrays):
    sample = stacks(stores, season=2)[3]
    assert sample["season"] == 2
    assert sample["id"] == "0000003"
    for modality in ("s1", "s2"):
        np.testing.assert_array_equal(sample[modality], arrays[modality][3, 2])
    np.testing.assert_array_equal(sample["labels"], arrays["labels"][3])


@pytest.mark.parametrize("n_channels", [3, 9, 92, 10, 12])
def test_bands_are_chosen_by_name_in_order(stores, arrays, n_channels):
    names = s2_bands(n_channels)
    sample = stacks(stores, season=0, bands={"s2": names})[1]
    np.testing.assert_array_equal(sample["s2"], arrays["s2"][1, 0][S2.indices(names)])


def test_missing_bands_are_refused(tmp_path, arrays, stores):
    write_store(tmp_path / "s2", "s2", arrays["s2"][:, :, S2.indices(s2_bands(12))], s2_bands(12))
    reader = LmdbReader(tmp_path / "s2")
    with pytest.raises(ValueError, match="but B10 is wanted too"):
        SeasonStacks({"s2": reader}, stores["labels"], {"s2": S2.bands}, 9)


def test_bands_in_another_order_are_put_right(tmp_path, arrays, stores):
    order = list(reversed(range(13)))
    write_store(tmp_path / "s2", "s2", arrays["s2"][:, :, order], tuple(S2.bands[i] for i in order))
    sample = SeasonStacks({"s2": LmdbReader(tmp_path / "s2")}, stores["labels"], {"s2": S2.bands}, 9, season=1)[0]
    np.testing.assert_array_equal(sample["s2"], arrays["s2"][0, 1])


def test_seasons_are_drawn_by_epoch_and_index(stores):
    data = stacks(stores, draw_season=True, seed=7)
    drawn = {(e, i): data[Draw(e, i)]["season"] for e in range(20) for i in range(5)}
    assert drawn == {(e, i): data[Draw(e, i)]["season"] for e in range(20) for i in range(5)}
    counts = np.bincount(list(drawn.values()), minlength=SEASONS)
    assert counts.min() > 10


def test_scoring_takes_every_season_in_turn(stores):
    assert [stacks(stores)[i]["season"] for i in range(5)] == [0, 1, 2, 3, 0]


def test_raw_values_are_quantised_on_the_fly(tmp_path, stores):
    rng = np.random.default_rng(1)
    raw = rng.normal(-14, 4, (5, SEASONS, 2, SIZE, SIZE)).astype(np.float32)
    write_store(tmp_path / "s1", "s1", raw, S1.bands, "float32")
    sample = SeasonStacks({"s1": LmdbReader(tmp_path / "s1")}, stores["labels"], {"s1": S1.bands}, 9, season=0)[2]
    np.testing.assert_array_equal(sample["s1"], quantise(raw[2, 0], S1))


def test_small_tiles_are_mirrored_and_their_margin_ignored(stores, arrays):
    sample = stacks(stores, season=0, min_size=32)[0]
    assert sample["s2"].shape == (13, 32, 32)
    np.testing.assert_array_equal(sample["s2"][:, SIZE, :SIZE], arrays["s2"][0, 0][:, SIZE - 2])
    assert (sample["labels"][:, SIZE:] == IGNORE_INDEX).all()
    assert (sample["labels"][:, :, SIZE:] == IGNORE_INDEX).all()


def test_filler_is_ignored(stores):
    assert (stacks(stores)[Draw(0, 1, counted=False)]["labels"] == IGNORE_INDEX).all()


def test_bytes_read_of_a_sample(tmp_path):
    """13 + 2 bands of one season and 4 seasons of labels at 264 pixels: at most 1.35 MB."""
    rng = np.random.default_rng(0)
    shapes = {"s1": (1, 4, 2, 264, 264), "s2": (1, 4, 13, 264, 264), "labels": (1, 4, 264, 264)}
    bands = {"s1": S1.bands, "s2": S2.bands, "labels": ()}
    readers = {}
    for name, shape in shapes.items():
        write_store(tmp_path / name, name, rng.integers(0, 9, shape).astype(np.uint8), bands[name])
        readers[name] = LmdbReader(tmp_path / name)
    stacks(readers, draw_season=True)[0]
    read = sum(reader.bytes_read for reader in readers.values())
    assert 264 * 264 * (2 + 13 + 4) <= read <= 1.35e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [f"{i + 1:07d}" for i in range(5)]}, "location 0 is '0000000' in one, '0000001' in the other"),
        ({"count": 4}, "5 against 4 locations"),
        ({"seasons": 3}, "4 against 3 seasons"),
    ],
)
def test_stores_that_differ_are_refused(tmp_path, stores, arrays, change, message):
    labels = arrays["labels"][: change.get("count", 5), : change.get("seasons", SEASONS)]
    other = LmdbReader(write_store(tmp_path / "labels", "labels", labels, ids=change.get("ids")))
    with pytest.raises(ValueError, match=message):
        check_alignment({"s1": stores["s1"], "labels": other})


def test_sizes_that_differ_are_refused_with_the_location(tmp_path, stores):
    small = np.zeros((5, SEASONS, 16, 16), np.uint8)
    labels = LmdbReader(write_store(tmp_path / "labels", "labels", small))
    with pytest.raises(ValueError, match="location 0000002: sizes differ"):
        SeasonStacks({"s1": stores["s1"]}, labels, {"s1": S1.bands}, 9)[2]


def test_one_other_id_in_the_middle_is_refused_when_it_is_read(tmp_path, arrays, stores, monkeypatch):
    """The check at the start looks at a sample of the ids only."""
    ids = ["0000000", "0000001", "other", "0000003", "0000004"]
    other = LmdbReader(write_store(tmp_path / "labels", "labels", arrays["labels"], ids=ids))
    monkeypatch.setattr("cromss.datasets.check_alignment", lambda stores, **_: None)
    data = SeasonStacks({"s1": stores["s1"]}, other, {"s1": S1.bands}, 9)
    assert data[1]["id"] == "0000001"
    with pytest.raises(ValueError, match="location 2 is 'other' in labels, '0000002' in s1"):
        data[2]


def test_labels_beyond_the_classes_are_refused_with_the_location(stores):
    with pytest.raises(ValueError, match=r"location 0000000: labels \[.*8.*\] where classes are 0..6"):
        SeasonStacks({"s1": stores["s1"]}, stores["labels"], {"s1": S1.bands}, 7)[0]


def test_season_beyond_the_set_is_refused(stores):
    with pytest.raises(ValueError, match="--test_season 4"):
        stacks(stores, season=4)


def test_padding_further_than_the_tile():
    assert pad_to(np.arange(4).reshape(2, 2), 7, 7).shape == (7, 7)


def dated_stores(folder, dates=2, label_seasons=1, label_size=SIZE):
    rng = np.random.default_rng(1)
    raw = rng.integers(200, 4000, (3, dates, 13, SIZE, SIZE)).astype(np.uint16)
    labels = rng.integers(0, 2, (3, label_seasons, label_size, label_size)).astype(np.uint8)
    write_store(folder / "s2", "s2", raw, S2.bands, "uint16")
    write_store(folder / "labels", "labels", labels)
    return raw, labels, {"s2": LmdbReader(folder / "s2")}, LmdbReader(folder / "labels")


@pytest.mark.parametrize("n_channels", [13, 3])
def test_dates_are_stacked_on_the_bands(tmp_path, n_channels):
    raw, labels, images, exact = dated_stores(tmp_path)
    bands = s2_bands(n_channels)
    sample = SeasonStacks(images, exact, {"s2": bands}, 2, stack_dates=True)[1]
    expected = [quantise(raw[1, date][S2.indices(bands)], S2, bands) for date in (0, 1)]
    np.testing.assert_array_equal(sample["s2"], np.concatenate(expected))
    np.testing.assert_array_equal(sample["labels"], labels[1])
    assert sample["season"] == 0


def test_dates_without_stacking_want_labels_for_each(tmp_path):
    _, _, images, exact = dated_stores(tmp_path)
    with pytest.raises(ValueError, match="2 against 1 seasons"):
        SeasonStacks(images, exact, {"s2": S2.bands}, 2)


def test_told_normalisation_is_used(tmp_path):
    raw, _, images, exact = dated_stores(tmp_path, dates=1)
    seen = []

    def halve(values, modality, bands):
        seen.append((modality, tuple(bands)))
        return (values / 2).astype(np.float32)

    sample = SeasonStacks(images, exact, {"s2": s2_bands(9)}, 2, normalise={"s2": halve}, min_size=SIZE + 4)[2]
    assert seen == [(S2, s2_bands(9))]
    assert sample["s2"].dtype == np.float32
    assert sample["s2"].shape == (9, SIZE + 4, SIZE + 4)
    np.testing.assert_array_equal(sample["s2"][:, :SIZE, :SIZE], raw[2, 0][S2.indices(s2_bands(9))] / 2)
