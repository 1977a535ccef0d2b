"""Pairing of masks: what is listed, what stands alone, and what does not belong together."""

from pathlib import Path

import numpy as np
import pytest
from rasters import write_tiff
from sets import NAMES, season_arrays, write_published

from cromss.legends import LEGENDS, NYC_LIDAR
from cromss.mask_pairs import ANY_FILE, Pairs, open_masks
from cromss.preparation import image_meta, label_meta
from cromss.store import LmdbWriter, StoreMeta

BOX = (10.0, 50.0, 10.001, 50.001)


def write_store(path: Path, arrays: dict[str, np.ndarray], meta: StoreMeta) -> Path:
    with LmdbWriter(path, meta) as writer:
        for name, seasons in arrays.items():
            writer.write(name, list(seasons))
        writer.finish()
    return path


def masks(*names, seasons=1, size=4):
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 4, (seasons, size, size), np.uint8) for name in names}


def pair_of(root, noisy_pattern="*.tif", exact_pattern="*.tif", codes="NYC_LIDAR"):
    noisy = open_masks(root / "noisy", noisy_pattern, codes, "noisy")
    return Pairs(noisy, open_masks(root / "exact", exact_pattern, codes, "exact"))


@pytest.mark.parametrize(
    ("noisy", "exact", "patterns", "names"),
    [
        (["a.tif", "b.tif"], ["b.tif", "a.tif"], ("*.tif", "*.tif"), ["a", "b"]),
        (["a/noisy.tif", "b/noisy.tif"], ["a/lc.tif", "b/lc.tif"], ("*/noisy.tif", "*/lc.tif"), ["a", "b"]),
        (["10/n.tif", "9/n.tif"], ["lc_9.tif", "lc_10.tif"], ("*/n.tif", "lc_*.tif"), ["9", "10"]),
        (["7/t1/l.tif", "7/t2/l.tif"], ["7/t2/l.tif", "7/t1/l.tif"], ("*/*/l.tif", "*/*/l.tif"), ["7/t1", "7/t2"]),
        (["a.b(c).tif"], ["x/a.b(c).tif"], ("*.tif", "x/*.tif"), ["a.b(c)"]),
    ],
)
def test_files_are_paired_by_what_the_wildcards_match(tmp_path, noisy, exact, patterns, names):
    rng, written = np.random.default_rng(0), {}
    for side, files in (("noisy", noisy), ("exact", exact)):
        for file in [*files, "notes.txt"]:
            written[side, file] = rng.integers(0, 4, (3, 5), np.uint8)
            write_tiff(tmp_path / side / file, written[side, file])
    pairs = pair_of(tmp_path, *patterns)
    assert pairs.names == names
    assert not pairs.alone
    for name in names:
        found = pairs.read(name)
        assert [array.shape for array in found] == [(1, 3, 5)] * 2
        for side, array, place in zip(("noisy", "exact"), found, (pairs.noisy.places, pairs.exact.places)):
            np.testing.assert_array_equal(array[0], written[side, str(place[name].relative_to(tmp_path / side))])


def test_masks_without_a_partner_are_told(tmp_path):
    for side, names in (("noisy", "abc"), ("exact", "bcd")):
        for name in names:
            write_tiff(tmp_path / side / f"{name}.tif", np.zeros((3, 3), np.uint8))
    pairs = pair_of(tmp_path)
    assert pairs.names == ["b", "c"]
    assert pairs.alone == {"a": "no exact mask", "d": "no noisy mask"}


@pytest.mark.parametrize("modality", ["labels", "exact"])
def test_stores_are_paired_by_id_with_all_seasons(tmp_path, modality):
    noisy, exact = masks("a", "b", seasons=2), masks("b", "a", seasons=2)
    write_store(tmp_path / "noisy", noisy, label_meta("NYC_LIDAR", 2, "test"))
    write_store(tmp_path / "exact", exact, label_meta("NYC_LIDAR", 2, "test", modality=modality))
    pairs = pair_of(tmp_path, codes=None)
    assert pairs.names == ["a", "b"]
    assert pairs.legend.classes == NYC_LIDAR.classes
    for name in "ab":
        for found, wanted in zip(pairs.read(name), (noisy[name], exact[name])):
            np.testing.assert_array_equal(found, wanted)


def test_a_store_may_go_with_files(tmp_path):
    noisy, exact = masks("a"), masks("a", size=4)
    write_store(tmp_path / "noisy", noisy, label_meta(NYC_LIDAR, 1, "test"))
    write_tiff(tmp_path / "exact" / "a.tif", exact["a"][0])
    pairs = pair_of(tmp_path)
    np.testing.assert_array_equal(pairs.read("a")[1], exact["a"])


def test_a_store_that_names_no_classes_takes_those_of_the_flag(tmp_path):
    meta = StoreMeta("labels", (), "uint8", 1, "class id")
    path = write_store(tmp_path / "x.lmdb", masks("a"), meta)
    assert open_masks(path, ANY_FILE, "NYC_MERGED", "noisy").legend.classes == NYC_LIDAR.classes
    with pytest.raises(ValueError, match=r"--noisy_codes: .*x.lmdb does not name its classes"):
        open_masks(path, ANY_FILE, None, "noisy")


def test_classes_of_ones_own_are_read_from_the_store(tmp_path):
    meta = StoreMeta("exact", (), "uint8", 1, "class id", "mine", classes=("x", "y"), colours=("112233", "aabbcc"))
    legend = open_masks(write_store(tmp_path / "x.lmdb", masks("a"), meta), ANY_FILE, None, "exact").legend
    assert (legend.name, legend.classes, legend.colours) == ("mine", ("x", "y"), ("112233", "aabbcc"))
    with pytest.raises(ValueError, match=r"--exact_codes OSCD: .* names its classes itself \(x, y\)"):
        open_masks(tmp_path / "x.lmdb", ANY_FILE, "OSCD", "exact")


def test_other_stores_are_refused(tmp_path):
    images = {"a": np.zeros((1, 4, 3, 3), np.uint8)}
    write_store(tmp_path / "ortho.lmdb", images, image_meta("ortho", "uint8", 1, "test"))
    with pytest.raises(ValueError, match=r"--noisy .*ortho.lmdb: a store of 'ortho'"):
        open_masks(tmp_path / "ortho.lmdb", ANY_FILE, None, "noisy")
    with pytest.raises(ValueError, match=r"none.lmdb"):
        open_masks(tmp_path / "none.lmdb", ANY_FILE, None, "noisy")


def test_stores_take_no_pattern(tmp_path):
    with pytest.raises(ValueError, match=r"--exact_pattern \*/a.tif: is for folders of files; .*x.lmdb is a store"):
        open_masks(tmp_path / "x.lmdb", "*/a.tif", None, "exact")


@pytest.mark.parametrize("pattern", ["noisy.tif", "**/noisy.tif", "?.tif", "*[ab].tif", "*?.tif", "/tmp/*.tif", ""])
def test_patterns_without_an_id_are_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match="--exact_pattern"):
        open_masks(tmp_path, pattern, "NoL", "exact")


@pytest.mark.parametrize(
    ("folder", "codes", "message"),
    [
        ("", None, "--noisy_codes: files hold codes; name their legend"),
        ("", "NOL", "--noisy_codes NOL: neither"),
        ("", "NoL", r"--noisy .*: no file like --noisy_pattern '\*.tif'"),
        ("none", "NoL", "--noisy .*none: no such folder or store"),
    ],
)
def test_folders_without_masks_or_legend_are_refused(tmp_path, folder, codes, message):
    with pytest.raises(ValueError, match=message):
        open_masks(tmp_path / folder, "*.tif", codes, "noisy")


def test_legends_of_other_classes_are_refused(tmp_path):
    for side in ("noisy", "exact"):
        write_tiff(tmp_path / side / "a.tif", np.zeros((3, 3), np.uint8))
    noisy = open_masks(tmp_path / "noisy", "*.tif", "NYC_LIDAR", "noisy")
    with pytest.raises(
        ValueError, match=r"noisy classes background, .* \(NYC_LIDAR\); exact classes trees, .* \(NYC\)"
    ):
        Pairs(noisy, open_masks(tmp_path / "exact", "*.tif", "NYC", "exact"))
    assert Pairs(noisy, open_masks(tmp_path / "exact", "*.tif", "NYC_MERGED", "exact")).names == ["a"]


@pytest.mark.parametrize(
    ("noisy", "exact", "message"),
    [
        (
            np.zeros((3, 4), np.uint8),
            np.zeros((4, 3), np.uint8),
            "noisy/a.tif and .*exact/a.tif: 1 x 3 x 4 and 1 x 4 x 3",
        ),
        (np.full((3, 3), 7, np.uint8), np.zeros((3, 3), np.uint8), "noisy/a.tif: label codes outside .* 7"),
        (np.zeros((3, 3), np.uint8), np.full((3, 3), 0.5, np.float32), "exact/a.tif: .*whole numbers"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((3, 3), np.uint8), "noisy/a.tif: 2 bands"),
    ],
)
def test_bad_files_are_named(tmp_path, noisy, exact, message):
    write_tiff(tmp_path / "noisy" / "a.tif", noisy)
    write_tiff(tmp_path / "exact" / "a.tif", exact)
    with pytest.raises(ValueError, match=message):
        pair_of(tmp_path).read("a")


def test_seasons_must_agree(tmp_path):
    write_store(tmp_path / "noisy", masks("a", seasons=4), label_meta("NYC_LIDAR", 4, "test"))
    write_store(tmp_path / "exact", masks("a", seasons=1), label_meta("NYC_LIDAR", 1, "test"))
    with pytest.raises(ValueError, match=r"location a .*: 4 x 4 x 4 and 1 x 4 x 4 seasons"):
        pair_of(tmp_path, codes=None).read("a")


@pytest.mark.parametrize(
    ("box", "same"),
    [
        (BOX, True),
        (None, True),
        ((10.00001, 50.0, 10.00101, 50.001), True),
        ((10.0005, 50.0, 10.0015, 50.001), False),
        ((10.0, 50.0005, 10.001, 50.0015), False),
        ((10.0, 50.0, 10.002, 50.002), False),
        ((10.00025, 50.00025, 10.00075, 50.00075), False),
    ],
)
def test_files_of_other_places_are_refused(tmp_path, box, same):
    write_tiff(tmp_path / "noisy" / "a.tif", np.zeros((10, 10), np.uint8), box=BOX)
    write_tiff(tmp_path / "exact" / "a.tif", np.zeros((10, 10), np.uint8), box=box)
    pairs = pair_of(tmp_path)
    if same:
        assert pairs.read("a")[0].shape == (1, 10, 10)
    else:
        with pytest.raises(ValueError, match=r"noisy/a.tif and .*exact/a.tif lie in different places"):
            pairs.read("a")


def test_published_stores_are_of_the_nol_classes(tmp_path):
    arrays = season_arrays()
    write_published(tmp_path, arrays)
    path = tmp_path / NAMES["labels"]
    opened = open_masks(path, ANY_FILE, None, "noisy")
    assert opened.legend == LEGENDS["NoL"]
    np.testing.assert_array_equal(opened.read("0000003"), arrays["labels"][3])
