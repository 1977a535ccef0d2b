"""Names of scenes and lists of ids: what they tell, and what is refused."""

import pytest
from rasters import S1_SCENES, S2_SCENES

from cromss import scene_names


@pytest.mark.parametrize(
    ("name", "time"),
    [
        (S1_SCENES[0], "20190702T165746"),
        (S2_SCENES[1], "20200301T054639"),
        ("20200301", "20200301T000000"),
        ("S2A_MSIL1C_20180710T125311_N0206_R052_T24KVE_20180710T160613", "20180710T125311"),
        ("032911_03CFF6", None),
        ("123456789012", None),
        ("25032020", None),
        ("12252020", None),
        ("20201301", None),
        ("20200100", None),
        ("20200132", None),
        ("00000000", None),
        ("12345678_20200131", "20200131T000000"),
        ("spring", None),
        ("s2_-103.99308536_33.1862910427-20190422", "20190422T000000"),
        ("s1_20.20190101_-5.0-20210203", "20210203T000000"),
    ],
)
def test_scene_time(name, time):
    assert scene_names.scene_time(name) == time


@pytest.mark.parametrize("header", ["", "id,season1,season2\n", "\ufeffid, season1, season2\n"])
def test_ids_come_with_scenes_in_time_order(tmp_path, header):
    path = tmp_path / "ids.csv"
    path.write_text(f"{header}0000007,{S2_SCENES[1]},{S2_SCENES[0]}\n\n12,{S2_SCENES[0]},{S2_SCENES[1]}\n", "utf-8")
    assert scene_names.read_ids(path) == {"0000007": S2_SCENES, "12": S2_SCENES}


def test_rows_of_an_id_alone_leave_scenes_to_the_folders(tmp_path):
    (tmp_path / "ids.csv").write_text("id\n5\n3\n")
    assert scene_names.read_ids(tmp_path / "ids.csv") == {"5": (), "3": ()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"1,{S2_SCENES[0]}\n1,{S2_SCENES[1]}\n", "line 2: id 1 is already on line 1"),
        (f"1,{S2_SCENES[0]}\n0000001,{S2_SCENES[1]}\n", "line 2: id 0000001 is already on line 1"),
        (f"id,season1,season2\n1,{S2_SCENES[0]},\n", "line 2: 3 filled fields are wanted"),
        (f"id,season1,season2\n1,{S2_SCENES[0]}\n", "line 2: 3 filled fields are wanted"),
        ("0,-39.71,-18.2,0\n", "line 1: '-39.71' is not a scene name"),
        (f"1,{S2_SCENES[0]},{S2_SCENES[0]}\n", "line 1: id 1 names a scene twice"),
        (f"id;season1\n1;{S2_SCENES[0]}\n", "line 1: 'id;season1': fields are separated by commas"),
        (f"1\t{S2_SCENES[0]}\n", "line 1: .* fields are separated by commas"),
        ("1" * 200_000, "ids.csv: not a CSV of text"),
        ("", "holds no ids"),
        ("id,season1\n", "holds no ids"),
    ],
)
def test_bad_id_lists_name_the_line(tmp_path, text, message):
    (tmp_path / "ids.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        scene_names.read_ids(tmp_path / "ids.csv")
    assert "\n" not in str(error.value)


def test_a_list_in_another_encoding_is_named(tmp_path):
    (tmp_path / "ids.csv").write_text(f"id,season1\n1,{S2_SCENES[0]}\n", "utf-16")
    with pytest.raises(ValueError, match=r"^[^\n]*ids\.csv: not a CSV of text"):
        scene_names.read_ids(tmp_path / "ids.csv")


@pytest.mark.parametrize(("name", "key"), [("0000012", "12"), ("12", "12"), ("0", "0"), ("p012", "p012"), ("-3", "-3")])
def test_ids_match_as_numbers(name, key):
    assert scene_names.id_key(name) == key
