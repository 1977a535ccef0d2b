"""Legends that a user writes: what they mean, what is written back, and every wrong file."""

import re

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY

from cromss.legend_files import NAMED, class_id_legend, codes_checksum, read_legend, stored_legend, write_legend
from cromss.legends import DW, LEGENDS, NYC, NYC_LIDAR, NYC_MERGED, Legend
from cromss.store import StoreMeta

TEXT = """
classes: {other: b4aaa0, trees: 1B6B3A, built: c4281b}
codes: {41: trees, 42: trees, 21: other, 23: built, 300: built}
ignored: [0, 7]
rules: [{coarsen: 30}]
"""
RULES = sorted((REPOSITORY / "data_prepare" / "rules").glob("*.yaml"))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", [*LEGENDS, "NYC_MERGED"])
def test_legends_are_found_by_name(name):
    assert read_legend(name, "label_codes") is (NYC_MERGED if name == "NYC_MERGED" else LEGENDS[name])
    assert name in NAMED


def test_a_file_means_what_it_says(tmp_path):
    legend = read_legend(write(tmp_path / "mine.yaml", TEXT), "label_codes")
    assert (legend.name, legend.classes) == ("mine", ("other", "trees", "built"))
    assert legend.colours == ("b4aaa0", "1b6b3a", "c4281b")
    raw = np.array([[41, 42, 21, 23], [300, 0, 7, 255]], np.uint16)
    assert legend.to_class_ids(raw, "a.tif").tolist() == [[1, 1, 0, 2], [2, 255, 255, 255]]
    with pytest.raises(ValueError, match=r"a.tif: label codes outside the mine.yaml legend: 43 \(known: 21, 23, 41"):
        legend.to_class_ids(np.array([43]), "a.tif")


def test_ignored_and_rules_may_be_left_out(tmp_path):
    legend = read_legend(write(tmp_path / "a.yaml", "classes: {a: '000000', b: ffffff}\ncodes: {0: a, 1: b}"), "x")
    assert (legend.ignored, legend.codes) == ({255}, {0: 0, 1: 1})
    text = "classes: {a: '000000', b: ffffff}\ncodes: {0: a}\nignored:\nrules:\n"
    assert read_legend(write(tmp_path / "b.yaml", text), "x").codes == {0: 0}


def test_usual_nodata_values_may_be_ignored(tmp_path):
    text = "classes: {a: '000000', b: ffffff}\ncodes: {0: a, -1: b}\nignored: [-9999, -2147483648]\n"
    legend = read_legend(write(tmp_path / "a.yaml", text), "x")
    for kind, nodata in ((np.int16, -9999), (np.int32, -(2**31)), (np.float32, -9999)):
        raw = np.array([0, -1, nodata, 255], kind)
        assert legend.to_class_ids(raw, "a.tif").tolist() == [0, 1, 255, 255]
    assert legend.to_class_ids(np.array([0, 255], np.uint8), "a.tif").tolist() == [0, 255]


def test_a_name_goes_before_that_of_the_file(tmp_path):
    assert read_legend(write(tmp_path / "a.yaml", TEXT + "name: land cover\n"), "x").name == "land cover"
    named = read_legend(write(tmp_path / "OSM.yaml", TEXT + "name: mine\n"), "x")
    write_legend(tmp_path / "legend.yaml", named)
    assert read_legend(str(tmp_path / "legend.yaml"), "x").name == "mine"


def test_checksums_tell_what_codes_mean(tmp_path):
    def checksum(text):
        return codes_checksum(read_legend(write(tmp_path / "a.yaml", text), "x"))

    first = checksum(TEXT)
    assert re.fullmatch("[0-9a-f]{8}", first)
    for same in (
        "# words\n" + TEXT,
        TEXT.replace("[0, 7]", "[7, 0]"),
        TEXT.replace("41: trees, 42: trees", "42: trees, 41: trees"),
    ):
        assert checksum(same) == first
    others = (("[0, 7]", "[0]"), ("21: other", "21: built"), ("42: trees, ", ""), ("300", "301"))
    assert len({first, *(checksum(TEXT.replace(*change)) for change in others)}) == 5


@pytest.mark.parametrize(
    ("told", "classes"),
    [
        ({"legend": "mine", "classes": ("x", "y"), "colours": ("112233", "aabbcc")}, ("x", "y")),
        ({"legend": "NYC", "classes": ("x", "y"), "colours": ("112233", "aabbcc")}, ("x", "y")),
        ({"legend": "DW"}, DW.classes),
        ({"legend": "theirs"}, None),
        ({}, None),
    ],
    ids=["own", "own of a known name", "known", "unknown", "none"],
)
def test_stores_tell_their_legend(told, classes):
    found = stored_legend(StoreMeta("labels", (), "uint8", 1, "class id", **told))
    assert (found and found.classes) == classes
    if found:
        assert (found.name, found.colours) == (told["legend"], told.get("colours", DW.colours))
        ids = np.arange(len(classes))
        np.testing.assert_array_equal(found.to_class_ids(np.append(ids, 255), "a store"), [*ids, 255])


@pytest.mark.parametrize("legend", [*LEGENDS.values(), NYC_MERGED], ids=[*LEGENDS, "NYC_MERGED"])
def test_written_legends_are_those_of_class_ids(tmp_path, legend):
    path = tmp_path / "legend.yaml"
    write_legend(path, legend)
    found, wanted = read_legend(str(path), "x"), class_id_legend(legend)
    for name in ("name", "classes", "colours", "codes", "ignored"):
        assert getattr(found, name) == getattr(wanted, name)
    ids = np.arange(legend.num_classes, dtype=np.uint8)
    np.testing.assert_array_equal(found.to_class_ids(np.append(ids, 255), "a.tif"), [*ids, 255])
    assert [found.classes[i] for i in ids] == list(legend.classes)


def test_names_and_colours_that_yaml_would_take_for_something_else_survive(tmp_path):
    names = ("yes", "null", "12", "1e3", "a: b", "# x", "Bäume", "'", "2020-01-01", "trees & shrubs", "~", "[x]")
    colours = tuple(f"{7 * i:06d}" for i in range(len(names)))
    write_legend(tmp_path / "a.yaml", Legend("a", names, colours, {5: 0}))
    found = read_legend(str(tmp_path / "a.yaml"), "x")
    assert (found.classes, found.colours) == (names, colours)
    assert yaml.safe_load((tmp_path / "a.yaml").read_text(encoding="utf-8"))["codes"][0] == "yes"


def test_class_id_legends_keep_the_classes():
    made = class_id_legend(DW)
    assert (made.name, made.classes, made.colours) == (DW.name, DW.classes, DW.colours)
    assert made.to_class_ids(np.array([0, 8, 255]), "a.tif").tolist() == [0, 8, 255]
    assert DW.codes[1] == 0, "the legend itself is left as it is"
    assert class_id_legend(NYC_MERGED).codes == NYC_LIDAR.codes


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_shipped_legend_files_are_whole(path):
    legend = read_legend(str(path), "rules")
    assert set(legend.codes.values()) == set(range(legend.num_classes))
    assert len(set(legend.colours)) == legend.num_classes


def test_land_cover_and_its_noisy_source_have_the_same_classes():
    landcover = read_legend(str(REPOSITORY / "data_prepare" / "rules" / "landcover.yaml"), "exact_codes")
    assert landcover.classes == ("other", "trees", "built")
    assert landcover.to_class_ids(np.array([0, 1, 2, 3, 4, 5, 6, 15])).tolist() == [255, 0, 1, 0, 0, 2, 2, 255]
    nlcd = read_legend(str(REPOSITORY / "data_prepare" / "rules" / "nlcd.yaml"), "label_codes")
    assert (nlcd.classes, nlcd.colours) == (landcover.classes, landcover.colours)


CLASSES = "classes: {other: b4aaa0, trees: 1b6b3a}\n"
CODES = "codes: {1: other, 2: trees}\n"
MANY = "classes: {" + ", ".join(f"c{i}: '{i:06d}'" for i in range(255)) + "}\ncodes: {1: c1}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted is a mapping with classes and codes"),
        ("[1, 2]", "wanted is a mapping with classes and codes"),
        ("trees", "wanted is a mapping with classes and codes"),
        (CLASSES, "codes is missing; wanted is a mapping with classes and codes"),
        (CODES, "classes is missing; wanted is a mapping with classes and codes"),
        (CLASSES + CODES + "colors: {}\n", "unknown key 'colors'; wanted: classes, codes, ignored, name, rules"),
        (CLASSES + CODES + "1: 2\n", "unknown key 1; wanted: classes"),
        ("classes: [other, trees]\n" + CODES, "classes: wanted are 2 to 254 names with a colour each"),
        ("classes:\n" + CODES, "classes: wanted are 2 to 254 names"),
        ("classes: {other: b4aaa0}\ncodes: {1: other}\n", r"classes: wanted are 2 to 254 names .*; got 1 \(other\)"),
        (MANY, "classes: wanted are 2 to 254 names"),
        ("classes: {other: b4aaa0, yes: 1b6b3a}\n" + CODES, "classes: True is no name; quote it"),
        ("classes: {other: b4aaa0, 7: 1b6b3a}\n" + CODES, "classes: 7 is no name; quote it"),
        ("classes: {other: b4aaa0, ' ': 1b6b3a}\n" + CODES, "classes: ' ' is no name"),
        ('classes: {other: b4aaa0, "a\\nb": 1b6b3a}\n' + CODES, r"classes: 'a\\nb' is no name"),
        ("classes: {other: b4aaa0, trees: green}\n" + CODES, "classes: colour 'green' of trees: six hex digits"),
        ("classes: {other: b4aaa0, trees: '#1b6b3a'}\n" + CODES, "classes: colour '#1b6b3a' of trees: six hex"),
        ("classes: {other: b4aaa0, trees: 1b6b3}\n" + CODES, "classes: colour '1b6b3' of trees: six hex digits"),
        ("classes: {other: b4aaa0, trees: 505050}\n" + CODES, "colour 505050 of trees: six hex digits, in quotes"),
        ("classes: {other: b4aaa0, trees: }\n" + CODES, "classes: colour None of trees"),
        ("classes: {other: b4aaa0, trees: [1, 2, 3]}\n" + CODES, r"classes: colour \[1, 2, 3\] of trees"),
        (CLASSES + "codes: [1, 2]\n", "codes: wanted is a class name by code"),
        (CLASSES + "codes: {}\n", "codes: wanted is a class name by code"),
        (CLASSES + "codes:\n", "codes: wanted is a class name by code"),
        (CLASSES + "codes: {1: other, 2: tree}\n", "codes: 2: 'tree' is none of the classes other, trees"),
        (CLASSES + "codes: {1: other, 2: 1}\n", "codes: 2: 1 is none of the classes other, trees"),
        (CLASSES + "codes: {1: other, 2: [trees]}\n", r"codes: 2: \['trees'\] is none of the classes"),
        (CLASSES + "codes: {one: other}\n", "codes: code 'one': a whole number of -2147483648..65535 is wanted"),
        (CLASSES + "codes: {1.5: other}\n", "codes: code 1.5: a whole number"),
        (CLASSES + "codes: {1.0: other}\n", "codes: code 1.0: a whole number"),
        (CLASSES + "codes: {true: other}\n", "codes: code True: a whole number"),
        (CLASSES + "codes: {-2147483649: other}\n", "codes: code -2147483649: a whole number of -2147483648..65535"),
        (CLASSES + "codes: {65536: other}\n", "codes: code 65536: a whole number of -2147483648..65535"),
        (CLASSES + "codes: {11: other, 021: trees}\n", "line 2: 021 would be octal; leave the leading zero out"),
        (CLASSES + CODES + "ignored: [00]\n", "line 3: 00 would be octal"),
        (CLASSES + "codes: {1: other, 1: trees}\n", "not plain YAML .*'1' is given twice"),
        ("classes: {other: b4aaa0, other: 1b6b3a}\n" + CODES, "not plain YAML .*'other' is given twice"),
        (CLASSES + "codes: {1: other, 255: trees}\n", "codes: 255: trees is also ignored; 255 always is"),
        (CLASSES + CODES + "ignored: [0, 2]\n", "codes: 2: trees is also ignored; keep one"),
        (CLASSES + CODES + "ignored: 0\n", "ignored: 0: a list of codes is wanted"),
        (CLASSES + CODES + "ignored: {0: cloud}\n", "ignored: {0: 'cloud'}: a list of codes is wanted"),
        (CLASSES + CODES + "ignored: [cloud]\n", "ignored: code 'cloud': a whole number"),
        (CLASSES + CODES + "ignored: [0, -9999.0]\n", "ignored: code -9999.0: a whole number"),
        (CLASSES + CODES + "ignored: [[0]]\n", r"ignored: code \[0\]: a whole number"),
        (CLASSES + CODES + "name: 12\n", "name: 12 is no name; quote it"),
        (CLASSES + CODES + "name:\n", "name: None is no name"),
        (CLASSES + CODES + "name: ' '\n", "name: ' ' is no name"),
        (CLASSES + CODES + "name: OSM\n", "name: OSM is a legend of other classes; choose another name"),
        ("classes: {a: [", "not plain YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not plain YAML"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, text, message):
    path = write(tmp_path / "mine.yaml", text)
    with pytest.raises(ValueError, match=message) as error:
        read_legend(path, "label_codes")
    assert str(error.value).startswith(f"--label_codes {path}: ")
    assert "\n" not in str(error.value)


def test_254_classes_are_not_too_many(tmp_path):
    text = MANY.replace(", c254: '000254'", "")
    assert read_legend(write(tmp_path / "a.yaml", text), "x").num_classes == 254


@pytest.mark.parametrize("word", ["", "dw", "DWW", "missing.yaml", "a/b.yaml", "."])
def test_neither_a_name_nor_a_file(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^--exact_codes {word}: neither a legend \\(NoL, DW, .*NYC_MERGED\\) nor a"):
        read_legend(word, "exact_codes")


def test_a_file_does_not_take_the_name_of_another_legend(tmp_path):
    """A store tells its classes by that name, too."""
    path = write(tmp_path / "NYC.yaml", CLASSES + CODES)
    with pytest.raises(ValueError, match="name: NYC is a legend of other classes; choose another name"):
        read_legend(path, "label_codes")
    own = dict.fromkeys(NYC.classes, "ffffff")
    text = yaml.safe_dump({"classes": own, "codes": {9: "roads"}}, sort_keys=False)
    assert read_legend(write(tmp_path / "NYC.yaml", text), "x").codes == {9: 5}
