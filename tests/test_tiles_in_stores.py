"""Writers that cut into tiles and compress: the same pixels, in smaller pieces."""

from pathlib import Path

import numpy as np
import pytest
from conftest import load_script
from rasters import write_dwosm, write_nyc, write_ssl4eo, write_tiff

from cromss.store import LmdbReader

pretrain, downstream = load_script("write_pretrain_lmdb"), load_script("write_downstream_lmdb")
ORDER = ("NIR", "R", "G", "B")
IDS = ("0000001", "0000002", "0000003")
STORES = ("0k_251k_uint8_s1.lmdb", "0k_251k_uint8_s2c.lmdb", "dw_labels.lmdb")


def write_pretrain(root: Path, out: Path, **options) -> Path:
    pretrain.main(pretrain.PretrainSet(root, out, **{"workers": 2, "size": 12, **options}))
    return out


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Id -> `(T, ...)`."""
    reader = LmdbReader(path)
    return {name: reader.read_seasons(index) for index, name in enumerate(reader.location_ids())}


def pieces(whole: dict[str, np.ndarray], size: int, starts: list[int]) -> dict[str, np.ndarray]:
    """Naive tiles."""
    return {
        f"{name}_r{row}_c{column}": values[..., row : row + size, column : column + size]
        for name, values in whole.items()
        for row in starts
        for column in starts
    }


def check_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.fixture
def root(tmp_path) -> Path:
    write_ssl4eo(tmp_path / "raw", IDS)
    return tmp_path / "raw"


@pytest.mark.parametrize(("size", "stride", "starts"), [(6, 0, [0, 6]), (8, 0, [0, 4]), (6, 3, [0, 3, 6])])
def test_tiles_are_the_pixels_of_the_whole(root, tmp_path, size, stride, starts):
    whole = write_pretrain(root, tmp_path / "whole")
    cut = write_pretrain(root, tmp_path / "cut", tile_size=size, stride=stride)
    for store in STORES:
        check_same(arrays(cut / store), pieces(arrays(whole / store), size, starts))
    assert f"tiles of {size} px every {stride or size}" in LmdbReader(cut / STORES[0]).meta.source
    for name in ("scenes.csv", "s2_offsets.csv"):
        assert (cut / name).read_text() == (whole / name).read_text()


def test_an_interrupted_run_of_tiles_goes_on_inside_a_location(root, tmp_path, monkeypatch):
    whole = write_pretrain(root, tmp_path / "whole", tile_size=6)
    write, count = pretrain.preparation.write_stores, []

    def interrupted(stores, locations, prepare, *options):
        def stop(location):
            count.append(location)
            if location.id == "0000002_r6_c0":
                raise KeyboardInterrupt
            return prepare(location)

        return write(stores, locations, stop, *options)

    with monkeypatch.context() as patched:
        patched.setattr(pretrain.preparation, "write_stores", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_pretrain(root, tmp_path / "out", tile_size=6, workers=1)
    write_pretrain(root, tmp_path / "out", tile_size=6)
    for store in STORES:
        assert (tmp_path / "out" / store / "manifest.json").read_text() == (whole / store / "manifest.json").read_text()
    for name in ("scenes.csv", "s2_offsets.csv"):
        assert (tmp_path / "out" / name).read_text() == (whole / name).read_text()


def test_offsets_are_told_by_location_and_not_by_tile(root, tmp_path):
    write_pretrain(root, tmp_path / "a", tile_size=6, s2_offset_ids=("0000002=0",))
    assert "0000002,0," in (tmp_path / "a" / "s2_offsets.csv").read_text()
    with pytest.raises(ValueError, match="0000002_r0_c0=0: wanted ID=0 or ID=1000 with the id of a location"):
        write_pretrain(root, tmp_path / "b", tile_size=6, s2_offset_ids=("0000002_r0_c0=0",))


def test_a_bad_location_is_left_out_tile_by_tile(root, tmp_path, capsys):
    next((root / "s2c" / "0000002").glob("*/B5.tif")).unlink()
    write_pretrain(root, tmp_path / "out", tile_size=6, on_error="skip")
    for store in STORES:
        assert {name[:7] for name in arrays(tmp_path / "out" / store)} == {"0000001", "0000003"}
    assert "skipped: 4 x no file for band B" in capsys.readouterr().out


def test_stores_of_other_tiles_are_not_taken_for_their_own(root, tmp_path):
    write_pretrain(root, tmp_path / "out", tile_size=6)
    with pytest.raises(ValueError, match=r"finished with source '.*tiles of 6 px every 6.*remove it"):
        write_pretrain(root, tmp_path / "out", tile_size=4)


def test_test_tiles_stay_whole(tmp_path):
    for split in ("train", "test"):
        write_dwosm(tmp_path / "raw", "dw", split, ("1.5_2.5-20190422", "3.5_4.5-20190501"))
    for out, options in (("whole", {}), ("cut", {"tile_size": 4})):
        settings = downstream.DownstreamFolders("DW", tmp_path / "raw", tmp_path / out, workers=2, **options)
        downstream.main(settings)
    for store in ("s1.lmdb", "s2.lmdb", "labels.lmdb"):
        whole, cut = (
            {part: arrays(tmp_path / out / part / store) for part in ("train", "test")} for out in ("whole", "cut")
        )
        check_same(cut["test"], whole["test"])
        assert len(cut["train"]) > len(whole["train"])
        assert {a.shape[-2:] for a in cut["train"].values()} == {(4, 4)}


def test_orthophotos_are_cut_by_the_size_of_their_files(tmp_path):
    write_nyc(tmp_path / "raw", ("a", "b"))
    for name in ("a", "b"):
        write_tiff(tmp_path / "raw" / "train" / "noisy" / f"{name}.tif", np.eye(9, dtype=np.uint8))
    stores = ("orthophotos.lmdb", "dw_labels.lmdb", "exact_labels.lmdb")
    for out, options in (("whole", {}), ("cut", {"tile_size": 5})):
        pretrain.main(pretrain.PretrainSet(tmp_path / "raw", tmp_path / out, layout="nyc", band_order=ORDER, **options))
    for store in stores:
        whole, cut = arrays(tmp_path / "whole" / store), arrays(tmp_path / "cut" / store)
        for name, tile in cut.items():
            place, row, column = name.rsplit("_", 2)
            row, column = int(row[1:]), int(column[1:])
            np.testing.assert_array_equal(tile, whole[place][..., row : row + 5, column : column + 5])


def test_compressed_stores_hold_the_same(root, tmp_path):
    plain, small = write_pretrain(root, tmp_path / "plain"), write_pretrain(root, tmp_path / "small", compress=True)
    for store in STORES:
        check_same(arrays(small / store), arrays(plain / store))
        assert (LmdbReader(small / store).meta.compression, LmdbReader(plain / store).meta.compression) == (
            "deflate",
            "",
        )
    with pytest.raises(ValueError, match="finished with compression '', not 'deflate'"):
        write_pretrain(root, tmp_path / "plain", compress=True)


@pytest.mark.parametrize("options", [{}, {"tile_size": 6}, {"on_error": "skip"}])
def test_a_finished_set_is_left_unless_there_are_more_locations_now(root, tmp_path, capsys, options):
    write_ssl4eo(tmp_path / "more", ("0000009",))
    if options.get("on_error"):
        next((root / "s1" / IDS[1]).glob("*/*.tif")).write_bytes(b"torn")
    out = write_pretrain(root, tmp_path / "out", **options)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    write_pretrain(root, out, **options)
    assert capsys.readouterr().out.endswith("finished already, left as it is; changed files want another --out\n")
    for folder in (tmp_path / "more").iterdir():
        (folder / "0000009").rename(root / folder.name / "0000009")
    with pytest.raises(ValueError, match=r"out: finished without 1 of 4 locations that are there now \(0000009\)"):
        write_pretrain(root, out, **options)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
