"""The synthetic downstream sets: real layouts, codes of the legends, changes that are changes, learnable labels."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cromss.fields import local_mean
from cromss.input_checks import check_values
from cromss.legends import DW, NYC, OSM
from cromss.sensors import ORTHO, S1, S2
from cromss.synthetic import city_names, write_dw, write_nyc, write_oscd, write_osm
from cromss.synthetic.change import town_pair
from cromss.synthetic.experts import clouded, left_out
from cromss.synthetic.land import BUILT, CROPS
from cromss.synthetic.location import draw_location
from cromss.synthetic.orthophoto import LONGEST, SHADOW_LENGTH, shadows

TITLE = "Onera Satellite Change Detection dataset"
WRITERS = {"dw": write_dw, "osm": write_osm, "oscd": write_oscd, "nyc": write_nyc}
COUNTS, SIZES = {"dw": (20, 8), "osm": (26, 12), "oscd": (4, 2), "nyc": (24, 6)}, {"oscd": 120, "nyc": 150}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sets")
    for word, write in WRITERS.items():
        write(home / word, *COUNTS[word], size=SIZES.get(word, 128), progress=False)
    return {word: home / word for word in WRITERS}


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def tiles(root: Path, word: str, split: str) -> list[tuple[Path, Path, Path]]:
    """Sentinel-1, Sentinel-2 and label files of a split."""
    top = root / f"{word}_{split}"
    names = sorted(path.name.removeprefix(f"{word}_") for path in (top / f"label_{word}").iterdir())
    return [
        (top / "image_s1" / f"s1_{n}", top / "image_s2" / f"s2_{n}", top / f"label_{word}" / f"{word}_{n}")
        for n in names
    ]


def codes(root: Path, word: str) -> list[np.ndarray]:
    return [read(label)[-1] for split in ("train", "test") for _, _, label in tiles(root, word, split)]


def found(images: list[np.ndarray]) -> set[int]:
    return set(np.unique(np.concatenate([image.ravel() for image in images])).tolist())


def scores(features: np.ndarray, ids: np.ndarray, others: np.ndarray, truth: np.ndarray) -> float:
    """Mean recall over the classes of a ridge regression on random features."""
    mean, std, random = features.mean(axis=0), features.std(axis=0), np.random.default_rng(0)
    weights, bias = random.normal(0, 0.25, (features.shape[1], 300)), random.normal(0, 1, 300)
    train, test = (np.maximum((x - mean) / std @ weights + bias, 0) for x in (features, others))
    balance = (1 / np.bincount(ids)[ids])[:, None]
    balance /= balance.mean()
    solved = np.linalg.solve(
        (train * balance).T @ train + np.eye(300), (train * balance).T @ np.eye(ids.max() + 1)[ids]
    )
    right = (test @ solved).argmax(axis=1) == truth
    return float(np.mean([right[truth == c].mean() for c in np.unique(truth)]))


# DW and OSM


@pytest.mark.parametrize("word", ["dw", "osm"])
def test_tiles_have_the_names_grids_and_types_of_the_real_ones(sets, word):
    for split, number, side in (("train", COUNTS[word][0], 126), ("test", COUNTS[word][1], 128)):
        files = tiles(sets[word], word, split)
        assert len(files) == number
        assert sorted(path.name for path in (sets[word] / f"{word}_{split}").iterdir()) == [
            *("image_s1", "image_s2", f"label_{word}")
        ]
        for paths in files:
            match = re.fullmatch(rf"{word}_(-?\d+\.\d+)_(-?\d+\.\d+)-(\d{{8}})\.tif", paths[2].name)
            assert match
            grids = set()
            for path, bands, dtype, nodata in zip(
                paths, (2, 13, None), ("float32", "uint16", "uint8"), (None, None, 0)
            ):
                with rasterio.open(path) as file:
                    assert (file.shape, file.dtypes[0], file.nodata) == ((side, side), dtype, nodata)
                    assert file.count == bands or path == paths[2]
                    assert (file.res, 32601 <= file.crs.to_epsg() <= 32660) == ((10, 10), True)
                    grids.add((file.crs.to_epsg(), file.transform))
                    place = file.lnglat()
            assert len(grids) == 1
            np.testing.assert_allclose(place, [float(match[1]), float(match[2])], atol=2e-5)


@pytest.mark.parametrize("word", ["dw", "osm"])
def test_tiles_have_plausible_values(sets, word):
    for s1, s2, _ in tiles(sets[word], word, "test"):
        check_values(read(s1), S1, s1.name)
        check_values(read(s2), S2, s2.name)


def test_experts_use_every_code_and_leave_parts_out(sets):
    images = codes(sets["dw"], "dw")
    assert found(images) == set(range(11))
    unmarked = [(image == 0).mean() for image in images]
    assert 0.2 < np.mean(unmarked) < 0.65
    for image in images:
        DW.to_class_ids(image, where="a synthetic tile")


def test_marked_pixels_are_right_and_keep_away_from_borders(sets):
    truths = [draw_location([2, 1, index], 128)[0] for index in range(COUNTS["dw"][1])]
    for _, _, label in tiles(sets["dw"], "dw", "test"):
        image = read(label)[-1]
        marked = (image > 0) & (image < 10)
        assert any((truth[marked] + 1 == image[marked]).all() for truth in truths)
        for a, b in ((image[1:], image[:-1]), (image[:, 1:], image[:, :-1])):
            both = (a > 0) & (b > 0) & (a < 10) & (b < 10)
            assert (a == b)[both].all()


def test_clouds_are_bright_where_they_are_marked(sets):
    seen = 0
    for _, s2, label in tiles(sets["dw"], "dw", "train"):
        cloud = read(label)[-1] == 10
        if cloud.sum() > 50:
            blue = read(s2)[1].astype(float)
            assert blue[cloud].mean() > 2 * blue[~cloud].mean()
            seen += 1
    assert seen >= 5


def test_some_labels_are_the_second_band(sets):
    pairs = [read(label) for _, _, label in tiles(sets["dw"], "dw", "train")]
    pairs = [pair for pair in pairs if len(pair) == 2]
    assert len(pairs) == 4
    for predicted, exact in pairs:
        marked = (exact > 0) & (exact < 10)
        assert 0 < predicted.min() <= predicted.max() < 10
        assert 0.4 < (predicted == exact)[marked].mean() < 1
    assert {len(read(label)) for _, _, label in tiles(sets["osm"], "osm", "train")} == {1}


def test_all_land_uses_occur(sets):
    images = codes(sets["osm"], "osm")
    assert found(images) == set(range(14))
    counts = np.bincount(np.concatenate([image.ravel() for image in images]), minlength=14)
    shares = counts[1:] / counts[1:].sum()
    assert shares.min() > 0.001
    assert shares.max() < 0.35
    assert 0.03 < counts[0] / counts.sum() < 0.3


@pytest.mark.parametrize(("word", "legend", "least"), [("dw", DW, 0.75), ("osm", OSM, 0.6)])
def test_labels_can_be_learnt_from_the_images(sets, word, legend, least):
    def samples(split):
        features, truths = [], []
        for s1, s2, label in tiles(sets[word], word, split):
            ids = legend.to_class_ids(read(label)[-1]).ravel()
            image = np.concatenate([np.log(read(s2).astype(float)), read(s1)])
            around = [local_mean(band, 3) for band in image] + [local_mean(band, 9) for band in image]
            rough = [local_mean(np.abs(band - mean), 3) for band, mean in zip(image, around)]
            chosen = np.random.default_rng(0).permutation(np.flatnonzero(ids < 255))[:700]
            features.append(np.stack([*image, *around, *rough]).reshape(-1, ids.size).T[chosen])
            truths.append(ids[chosen])
        return np.concatenate(features), np.concatenate(truths)

    assert scores(*samples("train"), *samples("test")) > least


def test_clouds_without_opacity_leave_the_light(sets):
    image = np.full((13, 80, 80), 1000, np.uint16)
    seen, opacity = clouded(image, np.random.default_rng(1))
    assert (opacity.min(), opacity.max()) == (0, 1)
    assert 0.03 < (opacity > 0).mean() < 0.26
    assert (seen[:, opacity == 0] <= 1000).all()
    assert seen[1][opacity == 1].min() > 4000


def test_the_share_left_out_of_one_class_is_the_one_asked_for():
    out = left_out(np.zeros((100, 100), np.uint8), np.random.default_rng(0), 0.3)
    np.testing.assert_allclose(out.mean(), 0.3, atol=0.001)


# OSCD


@pytest.mark.parametrize(("split", "first", "number"), [("train", 0, 4), ("test", 4, 2)])
def test_cities_are_laid_out_as_the_real_ones(sets, split, first, number):
    images, labels = sets["oscd"] / f"{TITLE} - Images", sets["oscd"] / f"{TITLE} - {split.title()} Labels"
    names = [f"city{first + index:02d}" for index in range(number)]
    assert city_names(4, 2)[split] == names
    assert (images / f"{split}.txt").read_text() == ",".join(names) + "\n"
    assert sorted(path.name for path in labels.iterdir()) == names
    wanted = {*(f"B{band:02d}" for band in range(1, 13)), "B8A"}
    for city in names:
        days = re.fullmatch(r"date_1: (\d{8})\ndate_2: (\d{8})\n", (images / city / "dates.txt").read_text())
        assert days[1] < days[2]
        assert sorted(path.name for path in (labels / city / "cm").iterdir()) == [f"{city}-cm.tif", "cm.png"]
        for date in (1, 2):
            files = list((images / city / f"imgs_{date}").iterdir())
            assert {path.stem.rpartition("_")[2] for path in files} == wanted
            assert all(days[date] in path.name for path in files)


def test_bands_lie_on_native_grids_over_one_footprint(sets):
    images = sets["oscd"] / f"{TITLE} - Images"
    shapes, others = set(), []
    for city in sorted(path for path in images.iterdir() if path.is_dir()):
        bounds, sides = [], {}
        for path in city.glob("imgs_*/*.tif"):
            with rasterio.open(path) as file:
                assert (file.count, file.dtypes[0], file.crs.to_epsg()) == (1, "uint16", 4326)
                bounds.append(file.bounds)
                sides[path.parent.name[-1], path.stem.rpartition("_")[2]] = file.shape
        np.testing.assert_allclose(bounds, [bounds[0]] * 26, atol=1e-9)
        for date in "12":
            fine = np.array(sides[date, "B02"])
            for band, factor in (("B03", 1), ("B8A", 2), ("B12", 2), ("B01", 6), ("B10", 6)):
                assert np.abs(np.array(sides[date, band]) - fine / factor).max() <= 0.5
        shapes.add(sides["1", "B02"])
        others.append(sides["1", "B02"] != sides["2", "B02"])
    assert others == [False, False, True, False, False, False]
    assert all(90 <= side <= 150 for shape in shapes for side in shape)
    assert sum(height != width for height, width in shapes) >= 5


def test_masks_agree_and_a_few_percent_change(sets):
    shares = []
    for path in sets["oscd"].glob("*Labels/*/cm/*.tif"):
        mask, grey = read(path)[0], read(path.with_name("cm.png"))[0]
        assert set(np.unique(mask)) == {1, 2}
        np.testing.assert_array_equal(np.where(mask == 2, 255, 0), grey)
        blue = next((sets["oscd"] / f"{TITLE} - Images" / path.parts[-3] / "imgs_1").glob("*_B02.tif"))
        assert read(blue)[0].shape == mask.shape
        shares.append((mask == 2).mean())
    assert len(shares) == 6
    assert min(shares) > 0.005
    assert max(shares) < 0.09
    assert 0.02 < np.mean(shares) < 0.06


def test_change_is_seen_and_the_rest_is_much_the_same(sets):
    differences = {True: [], False: []}
    for path in sorted(sets["oscd"].glob("*Labels/*/cm/*.tif")):
        changed = read(path)[0] == 2
        folder = sets["oscd"] / f"{TITLE} - Images" / path.parts[-3]
        for band in ("B02", "B04"):
            before, after = (read(next((folder / f"imgs_{date}").glob(f"*_{band}.tif")))[0] for date in (1, 2))
            if before.shape == after.shape:
                ratio = np.log(after / before.astype(float))
                ratio = np.abs(ratio - np.median(ratio[~changed]))
                for value in (True, False):
                    differences[value].append(ratio[changed == value].mean())
    assert np.mean(differences[True]) > 1.5 * np.mean(differences[False])


def test_outside_the_change_the_ground_stays():
    for seed in range(6):
        pair = town_pair((90, 130), seed)
        before, after = pair.labels
        assert (before.shape, pair.change.dtype) == ((90, 130), bool)
        assert (before == after)[~pair.change].all()
        for name in ("soil", "gain", "slope", "grain"):
            first, second = (getattr(ground, name) for ground in pair.grounds)
            np.testing.assert_array_equal(first[~pair.change], second[~pair.change], err_msg=name)
        first, second = (ground.kind for ground in pair.grounds)
        fields = (before == CROPS) & ~pair.change
        np.testing.assert_array_equal(first[~pair.change & ~fields], second[~pair.change & ~fields])
        assert not fields.any() or (first != second)[fields].mean() > 0.9


def test_most_change_is_new_buildings():
    pairs = [town_pair((90, 130), seed) for seed in range(6)]
    assert np.mean([(pair.labels[1][pair.change] == BUILT).mean() for pair in pairs]) > 0.5


# orthophotos


def test_orthophotos_have_named_bands_in_metres(sets):
    for split, number in (("train", 24), ("test", 6)):
        for kind, bands, nodata in (("image", ORTHO.bands, None), ("label", (None,), 0), ("noisy", (None,), None)):
            files = sorted((sets["nyc"] / split / kind).iterdir())
            assert [path.name for path in files] == [f"{index:06d}.tif" for index in range(number)]
            for path in files:
                with rasterio.open(path) as file:
                    assert (file.shape, file.dtypes[0], file.descriptions) == ((150, 150), "uint8", bands)
                    assert (file.res, file.crs.to_epsg(), file.nodata) == ((1, 1), 32618, nodata)


def test_all_city_classes_occur(sets):
    labels = [read(path)[0] for path in sets["nyc"].glob("*/label/*.tif")]
    assert found(labels) == set(range(9))
    counts = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=9)
    assert (counts[1:] / counts.sum()).min() > 0.003
    assert counts[0] / counts.sum() < 0.05


def test_laser_labels_are_about_two_thirds_right(sets):
    table, right, where = np.array([0, 1, 0, 0, 0, 2, 3, 0, 0]), [], []
    for path in sets["nyc"].glob("*/label/*.tif"):
        label, noisy = read(path)[0], read(path.parents[1] / "noisy" / path.name)[0]
        assert noisy.max() <= 3
        right.append((table[label] == noisy)[label > 0])
        where.append(table[label][label > 0])
    right, where = np.concatenate(right), np.concatenate(where)
    assert 0.62 < right.mean() < 0.75
    assert all(0.4 < right[where == c].mean() < 0.85 for c in range(4))


def test_orthophotos_look_like_their_classes(sets):
    means = {code: [] for code in range(1, 9)}
    for path in sets["nyc"].glob("*/label/*.tif"):
        label, image = read(path)[0], read(path.parents[1] / "image" / path.name).astype(float)
        for code, pixels in means.items():
            pixels.append(image[:, label == code])
    means = {code: np.concatenate(pixels, axis=1).mean(axis=1) for code, pixels in means.items()}
    greenness = {NYC.classes[code - 1]: (m[0] - m[1]) / (m[0] + m[1]) for code, m in means.items()}
    brightness = {NYC.classes[code - 1]: m.mean() for code, m in means.items()}
    assert min(greenness["trees"], greenness["grass/shrubs"]) > 0.15
    assert max(greenness[name] for name in ("buildings", "roads", "water", "other impervious")) < 0.1
    assert brightness["water"] < brightness["roads"] < brightness["other impervious"]


def test_shadows_fall_away_from_the_sun():
    height = np.zeros((60, 60), np.float32)
    height[30, 30] = 20
    dark = shadows(height, (0.0, 1.0))
    assert dark[30, 30 - int(20 * SHADOW_LENGTH) + 1 : 30].all()
    assert not dark[:, 31:].any()
    assert not shadows(np.full((60, 60), 20.0), (0.6, 0.8)).any()
    height[30, 30] = 1000
    assert shadows(height, (0.0, 1.0)).sum() == min(LONGEST, 30)


# all of them


@pytest.mark.parametrize("word", WRITERS)
def test_places_depend_on_seed_and_number_only(sets, word, tmp_path):
    write, size = WRITERS[word], SIZES.get(word, 128)
    write(tmp_path / "same", 2, 1, size=size, progress=False)
    write(tmp_path / "other", 1, 1, size=size, seed=77, progress=False)
    first, test = contents(sets[word]), f"{word}_test|test/|city0[24]|Test"
    fewer = {path: data for path, data in contents(tmp_path / "same").items() if path.endswith((".tif", ".png"))}
    assert fewer
    assert all(data == first[path] for path, data in fewer.items() if not re.search(test, path))
    other = {data for path, data in contents(tmp_path / "other").items() if path.endswith(".tif")}
    assert not other & set(first.values())


@pytest.mark.parametrize("word", WRITERS)
def test_sets_are_reused_and_resumed(sets, word, tmp_path):
    root, size = tmp_path / word, SIZES.get(word, 128)
    WRITERS[word](root, 2, 1, size=size, progress=False)
    before, times = contents(root), {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    WRITERS[word](root, 2, 1, size=size, progress=False)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    unit = sorted(root.glob("*Images/city01") if word == "oscd" else root.glob("*train/*/*.tif"))[-1]
    shutil.rmtree(unit) if unit.is_dir() else unit.unlink()
    (root / ".partial").mkdir()
    (root / ".partial" / "rubbish.tif").write_bytes(b"cut off")
    WRITERS[word](root, 2, 1, size=size, progress=False)
    assert contents(root) == before


@pytest.mark.parametrize("word", WRITERS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *[({"num_train": 0}, "num_train 0"), ({"num_test": -1}, "num_test -1"), ({"seed": -1}, "seed -1")],
        *[({"size": 10}, "size 10: wanted 24 or more"), ({"size": float("nan")}, "size nan")],
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, word, settings, message):
    with pytest.raises(ValueError, match=message):
        WRITERS[word](tmp_path / "new", **{"num_train": 1, "num_test": 1, "progress": False, **settings})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("word", WRITERS)
def test_other_sets_and_settings_are_refused(sets, word):
    other = next(name for name in WRITERS if name != word)
    with pytest.raises(ValueError, match=f"layout {other.upper()}, asked for {word.upper()}"):
        WRITERS[word](sets[other], 1, 1, progress=False)
    with pytest.raises(ValueError, match="num_train"):
        WRITERS[word](sets[word], 1, 1, size=SIZES.get(word, 128), progress=False)
