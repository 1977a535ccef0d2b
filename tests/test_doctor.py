"""The doctor of stores: what is planted in a clean set is found where it is, and nothing is found in clean ones."""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest

from cromss import default_sets
from cromss.aligned_stores import Prepared, write_stores
from cromss.doctor import DAMAGED, NOTE, examine
from cromss.doctor.report import as_json, report_lines, verdict
from cromss.downstream_sets import DOWNSTREAM_SETS
from cromss.layouts import Location
from cromss.preparation import image_meta, label_meta, to_raw
from cromss.sensors import S1, S2, quantise
from cromss.store import LmdbReader, LmdbWriter, StoreError
from cromss.store.contents import id_key, record_key
from cromss.store.environment import forget_environment
from cromss.store.repair import exclude
from cromss.synthetic.backscatter import radar
from cromss.synthetic.ground import draw_ground
from cromss.synthetic.land import land_cover
from cromss.synthetic.optics import optical

IDS = [f"{number:07d}" for number in range(5)]
SEASONS, SIZE = 2, 64


def make_arrays():
    """Modality -> location -> seasons in dB, DN and class ids."""
    arrays = {"s1": [], "s2": [], "labels": []}
    for number in range(len(IDS)):
        rng = np.random.default_rng([5, number])
        labels = land_cover(rng, SIZE)
        ground = draw_ground(labels, rng)
        arrays["s1"].append([radar(labels, season, rng, ground) for season in range(SEASONS)])
        arrays["s2"].append([optical(labels, season, rng, ground) for season in range(SEASONS)])
        arrays["labels"].append([labels.astype(np.uint8)] * SEASONS)
    return arrays


@pytest.fixture(scope="module")
def world():
    return make_arrays()


def copied(arrays):
    return {name: [[season.copy() for season in seasons] for seasons in array] for name, array in arrays.items()}


SCENES = {
    "s1": (Path("1/S1A_IW_GRDH_1SDV_20200103T000000"), Path("1/S1A_IW_GRDH_1SDV_20200604T000000")),
    "s2": (Path("1/20200101T000000_T32TMS"), Path("1/20200601T000000_T32TMS")),
    "labels": (Path("1/20200101T000000_T32TMS/label.tif"), Path("1/20200601T000000_T32TMS/label.tif")),
}


def write_set(folder, arrays, kind="quantised", scenes=SCENES, ids=IDS):
    """Stores of a set by the project's writers, in one of the kinds, with a ledger."""
    types = {"s1": "float32", "s2": "uint16"} if kind == "raw" else {"s1": "uint8", "s2": "uint8"}
    packed = "deflate" if kind == "compressed" else ""
    metas = {folder / f"{name}.lmdb": image_meta(name, dtype, SEASONS, "test", packed) for name, dtype in types.items()}
    metas[folder / "labels.lmdb"] = label_meta("NoL", SEASONS, "test", compression=packed)

    def prepare(location):
        seasons = {name: array[ids.index(location.id)] for name, array in arrays.items()}
        if kind != "raw":
            seasons |= {m.name: [quantise(image, m) for image in seasons[m.name]] for m in (S1, S2)}
            return Prepared(seasons)
        return to_raw(seasons)

    write_stores(metas, [Location(name, scenes) for name in ids], prepare)
    return sorted(metas)


@pytest.fixture(scope="module")
def clean(world, tmp_path_factory):
    """Kind -> paths of labels, s1, s2."""
    return {kind: write_set(tmp_path_factory.mktemp(kind), world, kind) for kind in ("quantised", "raw", "compressed")}


def copy_of(paths, folder):
    """A copy of a set, by name."""
    shutil.copytree(paths[0].parent, folder)
    return {path.stem: path for path in sorted(folder.glob("*.lmdb"))}


@pytest.fixture
def stores(clean, tmp_path):
    """A copy of the quantised set, by name."""
    return copy_of(clean["quantised"], tmp_path / "set")


@pytest.fixture
def packed(clean, tmp_path):
    """A copy of the compressed set, by name."""
    return copy_of(clean["compressed"], tmp_path / "packed")


def put(path, key, value):
    with lmdb.open(str(path), lock=False, map_size=1 << 28) as env, env.begin(write=True) as txn:
        txn.delete(key) if value is None else txn.put(key, value)


def get(path, key):
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return bytes(txn.get(key))


def found(examination):
    """`(code, store, index, season)` of all but notes on the whole, which small sets deserve."""
    told = (f for f in examination.findings if f.code not in ("absent-class", "far-statistics"))
    return [(f.code, f.store.rpartition("/")[2].removesuffix(".lmdb"), f.index, f.season) for f in told]


@pytest.mark.parametrize("kind", ["quantised", "raw", "compressed"])
def test_nothing_is_found_in_clean_sets(clean, kind):
    examination = examine(clean[kind])
    assert found(examination) == []
    assert examination.healthy
    assert verdict(examination) == "HEALTHY (every record was read)"


@pytest.mark.parametrize(("name", "size"), [("DFC2020", 64), ("OSCD", 96), ("NYC", 64)])
def test_nothing_is_found_in_downstream_sets(tmp_path, name, size):
    home = default_sets.downstream_set(tmp_path, DOWNSTREAM_SETS[name], 2, 1, size)
    for part in ("train", "test"):
        assert found(examine(sorted((home / part).glob("*.lmdb")))) == []


def set_values(modality, index, season, change):
    def plant(arrays):
        arrays[modality][index][season] = change(arrays[modality][index][season])

    return plant


def of_all_seasons(modality, index, change):
    def plant(arrays):
        arrays[modality][index] = [change(values) for values in arrays[modality][index]]

    return plant


def linear(decibels):
    return 10 ** (decibels / 10)


def copy_of_location_one(arrays):
    arrays["s2"][3][0] = arrays["s2"][1][0].copy()


def same_in_both_seasons(arrays):
    arrays["s1"][2][1] = arrays["s1"][2][0].copy()


def code(value):
    return lambda mask: np.where(np.arange(mask.size).reshape(mask.shape) == 7, value, mask).astype(np.uint8)


PIXELS = {
    "nodata": (set_values("s2", 2, 1, np.zeros_like), "constant", "s2", 2, 1),
    "radar of one value": (set_values("s1", 1, 0, lambda v: np.full_like(v, -12.0)), "constant", "s1", 1, 0),
    "an offset": (set_values("s2", 4, 0, lambda v: v + 1000), "offset", "s2", 4, 0),
    "bands swapped": (set_values("s1", 3, 1, lambda v: v[::-1]), "swapped", "s1", 3, 1),
    "a code outside": (set_values("labels", 1, 1, code(9)), "legend", "labels", 1, 1),
    "no labels at all": (of_all_seasons("labels", 0, lambda m: np.full_like(m, 255)), "unlabelled", "labels", 0, None),
    "a season unlabelled": (
        *(set_values("labels", 0, 1, lambda m: np.full_like(m, 255)), "unlabelled-season", "labels", 0, 1),
    ),
    "a copied tile": (copy_of_location_one, "same-pixels", "s2", 3, 0),
    "a copied season": (same_in_both_seasons, "same-pixels", "s1", 2, 1),
}


@pytest.mark.parametrize("kind", ["quantised", "raw"])
@pytest.mark.parametrize("name", PIXELS)
def test_planted_pixels_are_found(world, tmp_path, kind, name):
    arrays, (plant, *wanted) = copied(world), PIXELS[name]
    plant(arrays)
    told = found(examine(write_set(tmp_path, arrays, kind)))
    assert [one for one in told if one[0] != "statistics"] == [tuple(wanted)]  # the offset makes B10 far too bright


@pytest.mark.parametrize(
    ("kind", "plant", "wanted"),
    [
        ("quantised", set_values("s1", 2, 0, linear), ("constant", "s1", 2, 0)),
        ("raw", set_values("s1", 2, 0, linear), ("unit", "s1", 2, 0)),
        ("quantised", set_values("s2", 1, 0, lambda v: v / 10000), ("constant", "s2", 1, 0)),
        ("raw", set_values("s2", 1, 0, lambda v: v / 100), ("unit", "s2", 1, 0)),
        ("raw", set_values("s1", 0, 1, lambda v: np.where(v == v.max(), np.nan, v)), ("not-finite", "s1", 0, 1)),
        (
            "quantised",
            set_values("s2", 1, 1, lambda v: np.where(v > np.median(v), 9e4, -9e4)),
            ("saturated", "s2", 1, 1),
        ),
    ],
)
def test_wrong_units_are_found(world, tmp_path, kind, plant, wanted):
    arrays = copied(world)
    plant(arrays)
    assert found(examine(write_set(tmp_path, arrays, kind))) == [wanted]


@pytest.mark.parametrize("modality", SCENES)
def test_scenes_out_of_order_are_found_in_their_modality(world, tmp_path, modality):
    paths = write_set(tmp_path, world, scenes=SCENES | {modality: SCENES[modality][::-1]})
    assert found(examine(paths)) == [("season-order", modality, index, None) for index in range(5)]
    exclude(tmp_path / f"{modality}.lmdb", {2: "known"})
    assert ("season-order", modality, 2, None) not in found(examine(paths))


@pytest.mark.parametrize(
    ("modality", "scenes", "is_odd"),
    [
        ("s2", ("20200101T000000", "20200101T000000"), True),
        ("labels", ("12345678/mask.tif", "12345678/mask.tif"), False),
        ("s2", ("spring.tif", "autumn.tif"), False),
        ("s2", ("20200601.tif", "autumn.tif"), False),
    ],
)
def test_a_mask_may_be_of_all_seasons_and_undated_scenes_are_in_any_order(world, tmp_path, modality, scenes, is_odd):
    paths = write_set(tmp_path, world, scenes=SCENES | {modality: tuple(map(Path, scenes))})
    assert {code for code, *_ in found(examine(paths))} == ({"season-order"} if is_odd else set())


def test_tiles_are_in_the_order_of_their_location(world, tmp_path):
    ids = ["a_r0_c0", "a_r0_c64", "b_r1_c1", "b_r1_c1_r0_c0", "c"]
    paths = write_set(tmp_path, world, ids=ids)
    rows = [f"{name},{season},s2,2020060{9 - season}" for name in ("a", "b_r1_c1") for season in (0, 1)]
    (tmp_path / "scenes.csv").write_text("id,season,modality,scene\n" + "\n".join([*rows, "torn"]))
    assert found(examine(paths)) == [("season-order", "s2", index, None) for index in range(4)]
    (tmp_path / "scenes.csv").write_bytes(b'\xff\x00\n"' * 100)
    assert found(examine(paths)) == []


def test_a_shift_of_all_bands_is_told(world, tmp_path):
    arrays = copied(world)
    arrays["s2"] = [[image + 6000 for image in seasons] for seasons in arrays["s2"]]
    told = found(examine(write_set(tmp_path, arrays, "raw")))
    assert ("statistics", "s2", None, None) in told


def flip(path, key, position):
    value = bytearray(get(path, key))
    value[position] ^= 1
    put(path, key, bytes(value))


def test_damaged_and_missing_records_are_found(stores):
    flip(stores["s1"], record_key(1, 1), 700)
    flip(stores["s2"], record_key(3, 0), 20)
    put(stores["labels"], record_key(2, 0), None)
    assert sorted(found(examine(stores.values()))) == [
        ("entries", "labels", None, None),
        ("missing", "labels", 2, 0),
        ("record", "s1", 1, 1),
        ("record", "s2", 3, 0),
    ]


@pytest.mark.parametrize("position", [10, 128, 400, -1])
def test_a_flipped_bit_of_a_deflated_record_is_found(packed, position):
    flip(packed["s2"], record_key(3, 0), position)
    assert found(examine(packed.values())) == [("record", "s2", 3, 0)]


def with_payload(record, payload):
    """The record of the same header but for its checksums, which are right."""
    rest = struct.pack("<I", zlib.crc32(payload)) + record[12:128]
    return record[:4] + struct.pack("<I", zlib.crc32(rest)) + rest + payload


PAYLOADS = {
    "the same": lambda values: zlib.compress(values, 9),
    "short": lambda values: zlib.compress(values[:-1]),
    "long": lambda values: zlib.compress(values + b"x"),
    "very long": lambda values: zlib.compress(bytes(1 << 22)),
    "empty": lambda values: zlib.compress(b""),
    "cut": lambda values: zlib.compress(values)[:-2],
    "followed by more": lambda values: zlib.compress(values) + b"more",
    "not deflated": lambda values: values,
    "nothing": lambda values: b"",
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_deflated_values_of_another_length_are_found(packed, name):
    record = get(packed["s1"], record_key(2, 1))
    put(packed["s1"], record_key(2, 1), with_payload(record, PAYLOADS[name](zlib.decompress(record[128:]))))
    told = [one for one in found(examine(packed.values())) if one[0] != "manifest"]  # which has the old checksum
    assert told == ([] if name == "the same" else [("record", "s1", 2, 1)])


@pytest.mark.parametrize("start", ["first", "second"])
@pytest.mark.parametrize("new", [b"\0", b"\xff"])
def test_a_damaged_page_of_a_record_is_found(stores, start, new):
    """LMDB looks at the first page of a value, not at the next."""
    data, record = stores["s2"] / "data.mdb", get(stores["s2"], record_key(3, 0))
    content = data.read_bytes()
    at = content.index(record[:128]) // 4096 * 4096 + 4096 * (start == "second")
    data.write_bytes(content[:at] + new * 4096 + content[at + 4096 :])
    forget_environment(os.path.realpath(stores["s2"]))
    assert found(examine(stores.values())) == [("record", "s2", 3, 0)]


def test_records_of_another_location_or_kind_are_found(stores):
    put(stores["s1"], record_key(1, 0), get(stores["s1"], record_key(4, 0)))
    put(stores["s1"], record_key(2, 0), get(stores["s2"], record_key(2, 0)))
    told = found(examine(stores.values()))
    assert ("wrong-id", "s1", 1, 0) in told
    assert ("shape", "s1", 2, 0) in told


def test_ids_twice_or_changed_are_found(stores):
    put(stores["s1"], id_key(3), IDS[1].encode())
    told = found(examine(stores.values()))
    assert {("ids", "s1", None, None), ("same-id", "s1", 3, None)} <= set(told)
    assert "ids-differ" in {code for code, *_ in told}


def test_a_manifest_of_another_store_is_found(stores):
    path = stores["s1"] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checksum": "0" * 64}))
    assert found(examine(stores.values())) == [("manifest", "s1", None, None)]


def test_a_manifest_that_tells_little_is_found(stores):
    (stores["s1"] / "manifest.json").write_text('{"format": 1}')
    assert {one[:2] for one in found(examine(stores.values()))} == {("manifest", "s1"), ("entries", "s1")}


def test_other_sizes_are_found(world, tmp_path):
    arrays = copied(world)
    arrays["labels"][2] = [mask[:60] for mask in arrays["labels"][2]]
    wanted = [("sizes-differ", store, 2, None) for store in ("s1", "s2")]
    assert found(examine(write_set(tmp_path, arrays))) == wanted


def test_stores_of_other_locations_are_found(stores, tmp_path):
    with LmdbWriter(tmp_path / "other", LmdbReader(stores["labels"]).meta) as writer:
        for name in (*IDS[:2], "9", IDS[2]):
            writer.write(name, [np.zeros((SIZE, SIZE), np.uint8)] * SEASONS)
        writer.finish()
    told = [f for f in examine([stores["s1"], tmp_path / "other"]).findings if f.severity == DAMAGED]
    assert [f.code for f in told] == ["ids-differ"]
    assert told[0].what == f"5 and 4 locations; 2 missing ({IDS[3]}, {IDS[4]}); 1 extra (9); first at index 2"


def test_what_cannot_be_opened_is_one_line(stores):
    data = stores["s1"] / "data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(StoreError, match="truncated"):
        examine(stores.values())


def test_a_sample_says_so_and_findings_are_plain_values(stores):
    flip(stores["s1"], record_key(0, 1), 700)
    examination = examine(stores.values(), max_records=4)
    assert [report["num_examined"] for report in examination.reports] == [2, 2, 2]
    lines = list(report_lines(examination))
    assert lines[0].startswith("DAMAGED: do not train on this before it is repaired (1 damaged; of a sample")
    (finding,) = [f for f in as_json(examination)["findings"] if f["severity"] == DAMAGED]
    assert (finding["index"], finding["location_id"], finding["season"]) == (0, IDS[0], 1)
    assert finding["remedy"]
    assert json.loads(json.dumps(as_json(examination)))["healthy"] is False
    assert all(f.severity == NOTE for f in examination.findings if f.index is None)
