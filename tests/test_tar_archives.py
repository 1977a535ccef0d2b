"""SSL4EO-S12 in tar archives: the same records as from folders, and archives that are refused."""

import io
import os
import re
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import load_script
from rasters import write_ssl4eo, write_tiff

from cromss.archives import TarPath, TarTree, find_tree
from cromss.store import LmdbReader

IDS = ("0000001", "0000002", "0000010")
FOLDERS = ("s1", "s2c", "labels")
script = load_script("write_pretrain_lmdb")


@pytest.fixture
def root(tmp_path) -> Path:
    write_ssl4eo(tmp_path / "raw", IDS)
    return tmp_path / "raw"


def write(root: Path, out: Path, **options) -> dict[str, list]:
    """Ids and records of every store, and the ledgers."""
    script.main(script.PretrainSet(root, out, **{"workers": 2, "size": 12, **options}))
    stores = {path.name: LmdbReader(path) for path in sorted(out.glob("*.lmdb"))}
    records = {
        name: [(s.location_id(i), s.read(i, t).tobytes()) for i in range(len(s)) for t in range(s.num_seasons)]
        for name, s in stores.items()
    }
    return records | {name: (out / name).read_text() for name in ("skipped.csv", "scenes.csv", "s2_offsets.csv")}


def pack(path: Path, *files: tuple[Path, str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for file, name in files:
            tar.add(file, name)
    return path


def member(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def info(name: str, **fields) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize("inside", [".", "", "./{}", "{}"])
def test_one_archive_a_modality_gives_the_same_records(root, tmp_path, inside):
    expected = write(root, tmp_path / "expected")
    for folder in FOLDERS:
        if inside:
            pack(tmp_path / "tars" / f"{folder}.tar", (root / folder, inside.format(folder)))
        else:
            pack(tmp_path / "tars" / f"{folder}.tar", *((path, path.name) for path in (root / folder).iterdir()))
    assert write(tmp_path / "tars", tmp_path / "out") == expected
    assert sum(map(len, expected.values())) > 18


def test_parts_and_folders_mix(root, tmp_path):
    expected = write(root, tmp_path / "expected")
    for number, name in enumerate(IDS):
        pack(tmp_path / "mixed" / "s2c" / f"{number}.tar", (root / "s2c" / name, name))
    pack(tmp_path / "mixed" / "s1.tar", (root / "s1", "s1"))
    shutil.copytree(root / "labels", tmp_path / "mixed" / "labels")
    assert write(tmp_path / "mixed", tmp_path / "out") == expected


def test_metadata_beside_the_bands_decide_the_offset(root, tmp_path):
    scene = next((root / "s2c" / IDS[0]).iterdir())
    (scene / "metadata.json").write_text('{"properties": {"PROCESSING_BASELINE": "02.08"}}')
    pack(tmp_path / "tars" / "s2c.tar", (root / "s2c", "."))
    assert "0,metadata" in write(tmp_path / "tars", tmp_path / "out", modalities=("s2",))["s2_offsets.csv"]


def test_an_error_names_archive_and_member(root, tmp_path):
    scene = next((root / "s2c" / IDS[1]).iterdir())
    (scene / "B4.tif").write_bytes(b"II*\0" + bytes(40))
    pack(tmp_path / "tars" / "s2c.tar", (root / "s2c", "."))
    with pytest.raises(ValueError, match=rf"s2c\.tar/{IDS[1]}/{scene.name}/B4\.tif: cannot be read"):
        write(tmp_path / "tars", tmp_path / "out", modalities=("s2",))


def test_threads_read_one_archive(tmp_path):
    for number in range(40):
        write_tiff(tmp_path / "a" / f"{number}.tif", np.full((4, 4), number, np.uint8))
    pack(tmp_path / "a.tar", (tmp_path / "a", "."))
    shutil.rmtree(tmp_path / "a")
    files = list(find_tree(tmp_path, "a").iterdir())

    def read(path: TarPath) -> bool:
        with path.open_raster() as dataset:
            return (dataset.read(1) == int(path.stem)).all()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, files * 5))
        assert len(files) == 40


def test_a_path_in_an_archive_reads_like_a_path(root, tmp_path):
    pack(tmp_path / "s1.tar", (root / "s1", "."))
    tree = find_tree(tmp_path, "s1")
    for path in sorted((root / "s1").rglob("*")):
        inside = tree
        for part in path.relative_to(root / "s1").parts:
            inside = inside / part
        assert (inside.name, inside.stem, inside.suffix) == (path.name, path.stem, path.suffix)
        assert (inside.is_dir(), inside.is_file(), inside.parent.name) == (
            path.is_dir(),
            path.is_file(),
            path.parent.name if path.parent != root / "s1" else "",
        )
        assert sorted(p.name for p in inside.glob("*.tif")) == sorted(p.name for p in path.glob("*.tif"))
    assert not (tree / "none").is_file()
    assert not (tree / "none").is_dir()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([info("../up.tif")], "leads out of the archive"),
        ([info("/etc/passwd")], "leads out of the archive"),
        ([info("a/../../b.tif")], "leads out of the archive"),
        ([info("a\\b.tif")], "leads out of the archive"),
        ([info("a\nb.tif")], "leads out of the archive"),
        ([info("a.tif", type=tarfile.SYMTYPE, linkname="b")], r"a\.tif is no plain file"),
        ([info("a.tif", type=tarfile.LNKTYPE, linkname="b")], r"a\.tif is no plain file"),
        ([info("a.tif", type=tarfile.FIFOTYPE)], r"a\.tif is no plain file"),
        ([info("a/b.tif", size=3), info("a/b.tif", size=3)], r"a/b\.tif is in .* twice"),
        ([info("a/b.tif"), info("./a//b.tif")], r"a/b\.tif is in .* twice"),
    ],
)
def test_hostile_members(tmp_path, members, message):
    path = member(tmp_path / "s1.tar", *members)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}"):
        find_tree(tmp_path, "s1")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.52, 0.7, 0.77])
def test_a_truncated_archive_is_named(root, tmp_path, share):
    path = pack(tmp_path / "s1.tar", (root / "s1", "."))
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: (truncated|not an uncompressed)"):
        find_tree(tmp_path, "s1")


def test_an_archive_cut_between_members(tmp_path):
    path = member(tmp_path / "s1.tar", info("a", size=512), info("b", size=512))
    os.truncate(path, 1024)
    with pytest.raises(ValueError, match=r"s1\.tar: truncated or damaged at byte 1024"):
        find_tree(tmp_path, "s1")


def test_what_lies_behind_the_end_is_not_lost_unseen(tmp_path):
    path = member(tmp_path / "s1.tar", info("a", size=512), info("b", size=512))
    whole, other = path.read_bytes(), member(tmp_path / "other.tar", info("c")).read_bytes()
    zeroed = whole[:1024] + bytes(1024) + whole[1024:]
    for content in (whole + other, whole + bytes(1 << 20) + b"1", zeroed):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"s1\.tar: goes on behind its end at byte \d+: .*; copy it again"):
            find_tree(tmp_path, "s1")
    path.write_bytes(whole + bytes(1 << 20))
    assert [inside.name for inside in find_tree(tmp_path, "s1").iterdir()] == ["a", "b"]


@pytest.mark.parametrize("size", ["-512", "-1", "9" * 30])
def test_impossible_sizes(tmp_path, size):
    path = tmp_path / "s1.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for one in (info("a"), info("b", pax_headers={"size": size})):
            archive.addfile(one)
    with pytest.raises(ValueError, match=r"s1\.tar: truncated in b; copy it again"):
        find_tree(tmp_path, "s1")


def test_a_damaged_header(tmp_path):
    path = member(tmp_path / "s1.tar", info("a", size=512), info("b", size=512))
    content = bytearray(path.read_bytes())
    content[1100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"s1\.tar: "):
        find_tree(tmp_path, "s1")


@pytest.mark.parametrize("name", ["s1.tar.gz", "s1.tgz", "s1/part.tar.gz"])
def test_compressed_archives(root, tmp_path, name):
    path = pack(tmp_path / name, (root / "s1", "."), mode="w:gz")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: compressed .* gunzip"):
        find_tree(tmp_path, "s1")
    path.rename(path.with_name("s1.tar"))
    with pytest.raises(ValueError, match=r"s1\.tar: not an uncompressed tar archive"):
        TarTree(tmp_path, [path.with_name("s1.tar")])


def test_a_folder_goes_before_an_archive_and_none_is_said(root, tmp_path):
    pack(root / "s1.tar", (root / "s2c", "."))
    assert find_tree(root, "s1") == root / "s1"
    with pytest.raises(ValueError, match="s3: no such folder"):
        write(root, tmp_path / "out", s1_dir="s3")


def test_vsisubfile_reads_the_bytes_of_the_file(tmp_path):
    path = write_tiff(tmp_path / "a, b.tif", np.arange(12, dtype=np.uint16).reshape(3, 4), ("B4",), note="tag")
    pack(tmp_path / "x, y.tar", (path, "a, b.tif"))
    with (find_tree(tmp_path, "x, y") / "a, b.tif").open_raster() as inside, rasterio.open(path) as outside:
        np.testing.assert_array_equal(inside.read(), outside.read())
        assert inside.tags() == outside.tags()
        assert inside.descriptions == outside.descriptions
