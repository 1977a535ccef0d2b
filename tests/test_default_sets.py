"""The synthetic defaults: made once, readable, exact beside noisy, equal to what the raw files hold."""

import numpy as np
import pytest
import rasterio
from processes import FORKS

from cromss import default_sets, synthetic
from cromss.default_sets import downstream_set, pretraining_set
from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.legends import NYC_LIDAR
from cromss.settings import PretrainData, SingleModalSettings
from cromss.settings.pretraining import SingleModalData
from cromss.store import open_part, open_store

TASKS = sorted(DOWNSTREAM_SETS)
TYPES = {"s1": np.float32, "s2": np.uint16, "ortho": np.uint8, "labels": np.uint8}


@pytest.fixture(scope="module")
def names():
    return PretrainData(synthetic_locations=2)


@pytest.fixture(scope="module")
def home(names, tmp_path_factory):
    return pretraining_set(tmp_path_factory.mktemp("world"), names, ("s1", "s2"))


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downstream")
    return {name: downstream_set(folder, task, 3, 2, 150) for name, task in DOWNSTREAM_SETS.items()}


def stores(home, task, part):
    return {modality: open_store(home / part / f"{modality}.lmdb") for modality in (*task.modalities, "labels")}


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
    assert pretraining_set(home.parent.parent, names, ("s2",)) == home


@pytest.mark.parametrize(("kind", "level"), [("borders", 1), ("seasons", 3)])
def test_other_noise_is_written_beside(home, kind, level):
    names = PretrainData(synthetic_locations=2, synthetic_noise=kind, synthetic_noise_level=level)
    assert pretraining_set(home.parent.parent, names, ("s2",)) == home
    noisy, exact, usual = (open_store(home / n) for n in (names.noisy_name, names.data_name_gt, names.data_name_label))
    assert noisy.meta.modality == "labels"
    assert list(noisy.location_ids()) == list(exact.location_ids())
    seasons, mask = noisy.read_seasons(1), exact.read(1, 0)
    assert 0.02 < (seasons != mask).mean() < 0.6
    assert (seasons == seasons[0]).all() == (kind == "borders")
    assert (seasons != usual.read_seasons(1)).any()


def test_the_usual_noise_is_that_of_the_raw_files(home, names, tmp_path):
    default_sets._spoil(home / names.data_name_gt, names, {"labels": tmp_path / "labels.lmdb"})
    usual, again = open_store(home / names.data_name_label), open_store(tmp_path / "labels.lmdb")
    assert all(np.array_equal(usual.read_seasons(i), again.read_seasons(i)) for i in range(2))
    assert usual.meta == again.meta
    assert usual.meta.source == f"synthetic world {synthetic.WORLD_VERSION} ({synthetic.WORLD_HASH})"


@pytest.mark.parametrize("flag", [{"synthetic_noise": "seasons"}, {"synthetic_noise_level": 1}])
def test_noise_of_real_labels_is_not_chosen(flag):
    with pytest.raises(ValueError, match=r"--synthetic_noise \w+ \d: must be left out with --data_path"):
        PretrainData(data_path="somewhere", **flag)


def test_noise_of_orthophotos_is_not_chosen():
    with pytest.raises(ValueError, match="--synthetic_noise objects 2: must be left out with --input_type ortho"):
        SingleModalSettings(input_type="ortho", data=SingleModalData(synthetic_noise="objects"))


def test_orthophotos_with_noisy_and_exact_labels_of_the_same_classes(tmp_path):
    names = SingleModalData(synthetic_locations=2, data_name_label="noisy.lmdb")
    home = pretraining_set(tmp_path, names, ("ortho",))
    ortho, noisy, exact = (open_store(home / name) for name in ("orthophotos.lmdb", "noisy.lmdb", "exact_labels.lmdb"))
    assert (ortho.meta.unit, ortho.read(0, 0).shape) == ("8 bit", (4, 288, 288))
    assert noisy.meta.classes == exact.meta.classes == NYC_LIDAR.classes
    folder = tmp_path / next(path.name for path in tmp_path.iterdir()) / "raw" / "train"
    for index, name in enumerate(ortho.location_ids()):
        with rasterio.open(folder / "label" / f"{name}.tif") as file:
            codes = file.read(1)
        merged = np.select([codes == 0, codes == 1, codes == 5, codes == 6], [255, 1, 2, 3], 0)
        assert np.array_equal(exact.read(index, 0), merged)
        both = noisy.read(index, 0)[merged < 255], merged[merged < 255]
        assert 0.5 < (both[0] == both[1]).mean() < 0.85
    assert pretraining_set(tmp_path, names, ("ortho",)) == home


@pytest.mark.parametrize("name", TASKS)
def test_downstream_sets_keep_raw_values_and_have_class_ids(homes, name):
    task = DOWNSTREAM_SETS[name]
    for part in ("train", "test"):
        found = stores(homes[name], task, part)
        assert {modality: store.read(0, 0).dtype for modality, store in found.items()} == {m: TYPES[m] for m in found}
        assert {m: store.num_seasons for m, store in found.items()} == dict.fromkeys(found, task.num_dates) | {
            "labels": 1
        }
        assert len({tuple(store.location_ids()) for store in found.values()}) == 1
        for index in range(len(found["labels"])):
            labels = found["labels"].read(index, 0)
            assert set(np.unique(labels)) <= {*range(task.legend.num_classes), 255}
            assert {store.read(index, 0).shape[-2:] for store in found.values()} == {labels.shape}


@pytest.mark.parametrize("name", ["DFC2020", "DW", "OSM", "NYC"])
def test_tiles_have_the_numbers_and_sizes_asked_for(homes, name):
    for part, number, side in (("train", 3, 148 if name in ("DW", "OSM") else 150), ("test", 2, 150)):
        labels = open_store(homes[name] / part / "labels.lmdb")
        assert [labels.read(index, 0).shape for index in range(len(labels))] == [(side, side)] * number


def test_training_cities_are_cut_and_test_cities_whole(homes):
    train, test = (open_store(homes["OSCD"] / part / "labels.lmdb") for part in ("train", "test"))
    assert {name.partition("_")[0] for name in train.location_ids()} == {"city00", "city01", "city02"}
    assert max(train.read(index, 0).shape for index in range(len(train))) <= (128, 128)
    assert list(test.location_ids()) == ["city03", "city04"]
    masks = sorted((homes["OSCD"].parent / "raw").glob("*Test Labels/*/cm/*.tif"))
    for index, path in enumerate(masks):
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(test.read(index, 0), file.read(1) - 1)


def test_second_bands_are_the_labels(homes):
    labels = sorted((homes["DW"].parent / "raw" / "dw_train" / "label_dw").iterdir())
    store = open_store(homes["DW"] / "train" / "labels.lmdb")
    for path in labels:
        with rasterio.open(path) as file:
            ids = DOWNSTREAM_SETS["DW"].legend.to_class_ids(file.read(file.count))
        index = list(store.location_ids()).index(path.stem.removeprefix("dw_"))
        np.testing.assert_array_equal(store.read(index, 0), ids)


@pytest.mark.parametrize("name", TASKS)
def test_second_call_makes_no_downstream_set(homes, name, monkeypatch):
    monkeypatch.setitem(default_sets._DOWNSTREAM_WRITERS, name, lambda *_: pytest.fail("made again"))
    assert downstream_set(homes[name].parents[1], DOWNSTREAM_SETS[name], 3, 2, 150) == homes[name]


def test_other_numbers_and_sizes_are_other_folders(homes, monkeypatch):
    asked = []
    monkeypatch.setattr(
        default_sets, "_once", lambda home, stores, make: asked.append(next(iter(stores.values())).parents[2])
    )
    for settings in ((3, 2, 150), (4, 2, 150), (3, 1, 150), (3, 2, 256)):
        downstream_set(homes["DW"].parents[1], DOWNSTREAM_SETS["DW"], *settings)
    assert len(set(asked)) == 4
    assert homes["DW"].parent in asked


def test_two_runs_that_begin_together_make_one_set(tmp_path):
    made = (tmp_path, DOWNSTREAM_SETS["NYC"], 6, 2, 64)
    runs = [FORKS.Process(target=downstream_set, args=made) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(100)
    assert [run.exitcode for run in runs] == [0, 0]
    assert len(open_part(next(tmp_path.glob("nyc_*")) / "lmdb" / "train", "labels")) == 6
