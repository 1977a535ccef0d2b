"""Class names, colours and codes."""

import re

import numpy as np
import pytest

from cromss.legends import DFC2020, DW, IGNORE_INDEX, LEGENDS, NOL, NYC, NYC_LIDAR, NYC_MERGED, OSM


@pytest.mark.parametrize(
    ("legend", "raw", "ids"), [(DFC2020, "dfc_in", "dfc_out"), (DW, "dwosm_in", "dw_out"), (OSM, "dwosm_in", "osm_out")]
)
def test_codes_match_published(reference, legend, raw, ids):
    arrays = np.load(reference / "f2_label_remap.npz")
    np.testing.assert_array_equal(legend.to_class_ids(arrays[raw]), arrays[ids])


@pytest.mark.parametrize(
    ("legend", "raw"), [(DFC2020, "dfc_label"), (DW, "dwosm_label"), (OSM, "dwosm_label")]
)  # fmt: skip
def test_downstream_labels_are_class_ids(reference, legend, raw):
    ids = legend.to_class_ids(np.load(reference / "f3_downstream_items.npz")[raw])
    assert set(np.unique(ids)) <= {*range(legend.num_classes), IGNORE_INDEX}


@pytest.mark.parametrize("legend", [*LEGENDS.values(), NYC_MERGED], ids=[*LEGENDS, "NYC_MERGED"])
def test_legends_are_complete(legend):
    assert len(legend.colours) == legend.num_classes
    assert sorted(set(legend.codes.values())) == list(range(legend.num_classes))
    assert not set(legend.codes) & legend.ignored
    assert all(re.fullmatch("[0-9a-f]{6}", colour) for colour in legend.colours)
    assert len(set(legend.colours)) == legend.num_classes
    assert legend.palette().shape == (256, 3)
    assert legend.palette()[0].tolist() == [int(legend.colours[0][i : i + 2], 16) for i in (0, 2, 4)]
    ignored = legend.palette()[IGNORE_INDEX].astype(int)
    assert abs(legend.palette()[: legend.num_classes] - ignored).max(axis=1).min() > 90


def test_published_legends_by_hand():
    assert NOL.to_class_ids(np.array([0, 8, 255])).tolist() == [0, 8, 255]
    assert DW.to_class_ids(np.array([0, 1, 9, 10])).tolist() == [255, 0, 8, 255]
    assert OSM.to_class_ids(np.array([0, 1, 13])).tolist() == [255, 0, 12]
    assert DFC2020.to_class_ids(np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])).tolist() == [
        1,
        5,
        255,
        2,
        3,
        4,
        6,
        255,
        7,
        0,
    ]


def test_legends_have_their_own_names():
    assert all(legend.name == name for name, legend in LEGENDS.items())
    assert NYC_MERGED.name == "NYC_LIDAR"
    assert NYC_MERGED not in LEGENDS.values()


def test_exact_classes_of_new_york_merge_into_the_noisy_ones():
    assert NYC_LIDAR.classes == NYC_MERGED.classes == ("background", "trees", "buildings", "roads")
    assert NYC_LIDAR.colours == NYC_MERGED.colours
    assert NYC_LIDAR.to_class_ids(np.array([0, 1, 2, 3, 255])).tolist() == [0, 1, 2, 3, 255]
    codes = np.arange(9)
    named = [NYC.classes[i] if i < 8 else "unlabelled" for i in NYC.to_class_ids(codes).tolist()]
    merged = [NYC_MERGED.classes[i] if i < 4 else "unlabelled" for i in NYC_MERGED.to_class_ids(codes).tolist()]
    kept = {"unlabelled", "trees", "buildings", "roads"}
    assert merged == [name if name in kept else "background" for name in named]
    assert set(merged) == kept | {"background"}


@pytest.mark.parametrize("legend", [NYC_LIDAR, NYC_MERGED], ids=["noisy", "exact"])
def test_noisy_and_exact_codes_of_new_york_are_not_mistaken(legend):
    foreign = 4 if legend is NYC_LIDAR else 9
    name = "NYC_LIDAR" if legend is NYC_LIDAR else "NYC_MERGED"
    with pytest.raises(ValueError, match=rf"a.tif: label codes outside the {name} legend: {foreign} \(known"):
        legend.to_class_ids(np.array([1, foreign]), where="a.tif")


@pytest.mark.parametrize("code", [9, 42, 254, -1, 300])
def test_unknown_codes_are_ignored_or_refused(code):
    raw = np.array([[0, code]], np.int16)
    assert NOL.to_class_ids(raw).tolist() == [[0, 255]]
    with pytest.raises(ValueError, match=f"label.tif: label codes outside the NoL legend: {code}"):
        NOL.to_class_ids(raw, where="label.tif")


def test_fractions_are_refused_and_whole_floats_are_not():
    assert NOL.to_class_ids(np.array([1.0, 2.0])).tolist() == [1, 2]
    with pytest.raises(ValueError, match="whole numbers"):
        NOL.to_class_ids(np.array([1.5]), where="label.tif")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30])
def test_numbers_beyond_any_code_are_refused_as_they_are(value):
    with pytest.raises(
        ValueError, match=r"label\.tif: label codes must be whole numbers, got float64 of .*(inf|e\+30)"
    ):
        NOL.to_class_ids(np.array([0, value]), where="label.tif")


def test_nan_is_no_code():
    with pytest.raises(ValueError, match=r"label\.tif: NaN where codes are wanted"):
        NOL.to_class_ids(np.array([1, np.nan]), where="label.tif")
