"""Hostile rasters: GeoTIFFs that are cut, gigantic, empty or nowhere, and products and archives around them."""

import struct
import tarfile
import tempfile
import warnings
import zipfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import rasterio
from hostile import Case
from map_scenes import UTM, optical, radar, write_safe, write_scene
from rasterio.transform import Affine

from cromss.archives import find_tree
from cromss.legends import NOL
from cromss.mapping.scene import Scene
from cromss.oscd import read_mask
from cromss.scenes import Grid, read_image, read_labels, read_on_grid
from cromss.sensors import S1, S2

GRID = Grid(UTM, Affine(10, 0, 500_000, 0, -10, 5_300_000), (64, 64))


@cache
def sound(kind="radar") -> bytes:
    """A small GeoTIFF of two bands of radar, or of one of labels."""
    with tempfile.TemporaryDirectory() as folder:
        pixels = radar(64, 64) if kind == "radar" else np.ones((1, 64, 64), np.uint8)
        return write_scene(Path(folder) / "a.tif", pixels).read_bytes()


def mapped(path):
    """As `predict_map.py` reads a scene."""
    with Scene({"s1": path}, {"s1": S1.bands}, {"s1": S1}) as scene:
        height, width = scene.grid.shape
        for row in range(0, height, 64):
            scene.images["s1"].read(slice(row, min(row + 64, height)), slice(0, width))


def mapped_optical(path):
    with Scene({"s2": path}, {"s2": ("B2", "B3")}, {"s2": S2}) as scene:
        scene.images["s2"].read(slice(0, 64), slice(0, 64))


def imaged(path):
    """As the writers of stores read an image."""
    read_image(path, S1)


def labelled(path):
    read_labels(path, NOL)


def gridded(path):
    read_on_grid(path, GRID)


def put(content, folder, name="a.tif"):
    path = folder / name
    path.write_bytes(content() if callable(content) else content)
    return path


def scene(pixels, folder, **options):
    with warnings.catch_warnings(action="ignore"):
        return write_scene(folder / "a.tif", pixels() if callable(pixels) else pixels, **options)


def placed(transform, folder, crs=UTM):
    with warnings.catch_warnings(action="ignore"):
        path = write_scene(folder / "a.tif", radar(64, 64), crs=crs)
        with rasterio.open(path, "r+") as dataset:
            dataset.transform = transform
    return path


def tagged(kind="radar", **changes):
    """The GeoTIFF with other values of its tags, `t256=...`, or with a tag of another number."""
    raw = bytearray(sound(kind))
    (begin,) = struct.unpack_from("<I", raw, 4)
    (count,) = struct.unpack_from("<H", raw, begin)
    for entry in range(begin + 2, begin + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", raw, entry)
        if f"t{tag}" in changes:
            struct.pack_into("<HHII", raw, entry, tag, 4, 1, changes[f"t{tag}"])
    return bytes(raw)


def vrt(source, side=64):
    band = f'<VRTRasterBand dataType="Float32" band="%d"><SimpleSource><SourceFilename relativeToVRT="1">{source}'
    band += "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    return (
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:32632</SRS>{band % 1}{band % 2}</VRTDataset>'
    )


def safe(change, folder):
    """A product of Sentinel-2 with other metadata."""
    with warnings.catch_warnings(action="ignore"):
        path = write_safe(folder / "a.SAFE", bands=("B2", "B3"), side=120)
    change(path)
    return path


def tar(change, folder):
    """An archive of a tree, changed."""
    path = folder / "s1.tar"
    with tarfile.open(path, "w") as archive, tempfile.TemporaryDirectory() as inner:
        file = Path(inner) / "a.tif"
        file.write_bytes(sound())
        archive.add(file, "1/scene/VV.tif")
        change(archive, file)
    return path


def member(name, kind=None, target=""):
    def add(archive, file):
        info = archive.gettarinfo(file, name)
        info.type, info.linkname = kind or info.type, target
        archive.addfile(info, file.open("rb") if kind is None else None)

    return add


def cut_tar(share, folder):
    path = tar(lambda archive, file: None, folder)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


NAN = float("nan")
PLACES = {
    "nan": Affine(NAN, 0, 0, 0, NAN, 0),
    "infinite": Affine(float("inf"), 0, 0, 0, -float("inf"), 0),
    "zero": Affine(0, 0, 500_000, 0, 0, 5_300_000),
    "nowhere": Affine(10, 0, 1e300, 0, -10, 1e300),
    "of nan corner": Affine(10, 0, NAN, 0, -10, NAN),
}

CUTS = (0, 1, 4, 8, 20, 100, 0.3, 0.6, 0.9, 0.95)
OTHERS = {
    "text": b"a raster\n" * 100,
    "zeros": bytes(10_000),
    "noise": np.random.default_rng(1).bytes(10_000),
    "magic alone": b"II*\0",
    "directory beyond": b"II*\0\xff\xff\xff\x7f",
    "directory of itself": b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0",
    "directory of 65535": b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(100),
    "BigTIFF": b"II+\0\x08\0\0\0" + b"\xff" * 8,
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "jpeg": b"\xff\xd8\xff\xe0" + bytes(100),
    "html": b"<html>404</html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\n",
}
TAGS = {
    "gigantic": {"t256": 2**31 - 1, "t257": 2**31 - 1},
    "gigantic columns": {"t256": 2**31 - 1},
    "gigantic rows": {"t257": 2**30},
    "a million square": {"t256": 10**6, "t257": 10**6},
    "zero columns": {"t256": 0},
    "zero rows": {"t257": 0},
    "a bit a value": {"t258": 1},
    "512 bits a value": {"t258": 512},
    "compression": {"t259": 34_712},
    "unknown compression": {"t259": 60_000},
    "no bands": {"t277": 0},
    "65535 bands": {"t277": 65_535},
    "strips beyond": {"t273": 2**31},
}
IMAGES = {
    "no CRS": partial(scene, partial(radar, 64, 64), crs=None),
    "one band": partial(scene, lambda: radar(64, 64)[:1]),
    "three bands": partial(scene, lambda: np.concatenate([radar(64, 64)] * 2)[:3]),
    "other names": partial(scene, partial(radar, 64, 64), names=("B2", "B3")),
    "foreign names": partial(scene, partial(radar, 64, 64), names=("red", "green")),
    "complex": partial(scene, lambda: radar(64, 64).astype(np.complex64)),
}
VALUES = {
    "linear": partial(scene, lambda: np.float32(10) ** (radar(64, 64) / 10)),
    "nan": partial(scene, lambda: radar(64, 64) * np.float32(NAN)),
    "infinite": partial(scene, lambda: radar(64, 64) + np.float32(np.inf)),
    "constant": partial(scene, lambda: radar(64, 64) * 0),
    "nodata": partial(scene, lambda: np.concatenate([radar(64, 63), np.full((2, 64, 1), -99, "f4")], 2), nodata=-99),
    "fill value": partial(scene, lambda: radar(64, 64) - np.float32(3e30)),
    "bytes": partial(scene, lambda: radar(64, 64).astype(np.int8) + 100),
}
LABELS = {
    "unknown codes": partial(scene, lambda: np.full((1, 64, 64), 77, np.uint8)),
    "fractions": partial(scene, lambda: np.full((1, 64, 64), 0.5, np.float32)),
    "nan": partial(scene, lambda: np.full((1, 64, 64), NAN, np.float32)),
    "huge codes": partial(scene, lambda: np.full((1, 64, 64), 1e30, np.float64)),
    "negative": partial(scene, lambda: np.full((1, 64, 64), -1, np.int16)),
    "several bands": partial(scene, partial(optical, 64, 64)),
    "complex": partial(scene, lambda: np.ones((1, 64, 64), np.complex64)),
}
VRTS = {
    "of itself": vrt("a.vrt"),
    "of nothing": vrt("gone.tif"),
    "of a pipe": vrt("/dev/null"),
    "gigantic": vrt("a.vrt", 10**9),
    "zero": vrt("a.vrt", 0),
    "no XML": "<VRTDataset",
    "laughs": '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><VRTDataset>&c;</VRTDataset>',
}
LAUGHS = '<!DOCTYPE a [<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
METADATA = {
    "no XML": "<a",
    "empty": "",
    "laughs": f"{LAUGHS}]><a><PROCESSING_BASELINE>&a9;</PROCESSING_BASELINE></a>",
    "outside": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "deep": "<a>" * 100_000,
    "baseline": "<a><PROCESSING_BASELINE>new</PROCESSING_BASELINE></a>",
    "binary": "\0\1\2",
}
MEMBERS = {
    "climbs": member("../../a.tif"),
    "link": member("1/scene/VH.tif", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": member("1/scene/VH.tif", tarfile.LNKTYPE, "1/scene/VV.tif"),
    "device": member("1/scene/VH.tif", tarfile.CHRTYPE),
    "pipe": member("1/scene/VH.tif", tarfile.FIFOTYPE),
    "twice": member("1/scene/VV.tif"),
    "of lines": member("1/a\nb.tif"),
    "backslash": member("1\\..\\a.tif"),
}


def archived(path):
    """As the writers of stores list an archive."""
    find_tree(path.parent, path.name)


def zipped(change, folder):
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        change(archive)
    return path


ZIPS = {
    "empty": lambda archive: None,
    "of no product": lambda archive: archive.writestr("a.txt", "a"),
    "two products": lambda archive: [archive.writestr(f"{i}/MTD_MSIL1C.xml", "<a/>") for i in range(2)],
    "no XML": lambda archive: archive.writestr("a.SAFE/MTD_MSIL1C.xml", "<a"),
    "bomb": lambda archive: archive.writestr("a.SAFE/MTD_MSIL1C.xml", "<a>" + " " * (30 << 20) + "</a>"),
}


def _cases():
    readers = {"map": mapped, "image": imaged, "on a grid": gridded}
    for name, content in OTHERS.items():
        for where, read in (readers | {"labels": labelled, "mask": read_mask}).items():
            yield f"{where}: {name}", Case(partial(put, content), read, apart=True)
    for share in CUTS:
        for kind, read in (("radar", mapped), ("radar", imaged), ("labels", labelled)):

            def content(share=share, kind=kind):
                return sound(kind)[: share if isinstance(share, int) else int(len(sound(kind)) * share)]

            yield f"{read.__name__}, cut {share}", Case(partial(put, content), read, apart=True)
    for name, changes in TAGS.items():
        for read in (mapped, imaged):
            yield f"{read.__name__}, {name}", Case(partial(put, partial(tagged, **changes)), read, apart=True)
    for name, transform in PLACES.items():
        yield f"on a grid, place {name}", Case(partial(placed, transform), gridded, apart=True)
        yield f"map, place {name}", Case(partial(placed, transform), mapped, apart=True)
    for name, make in IMAGES.items():
        yield f"map, {name}", Case(make, mapped)
    for name, make in VALUES.items():
        yield f"image, {name}", Case(make, imaged)
    for name, make in LABELS.items():
        yield f"labels, {name}", Case(make, labelled)
    for name, content in VRTS.items():
        yield f"vrt {name}", Case(partial(put, content.encode(), name="a.vrt"), mapped, apart=True)
    for name, text in METADATA.items():

        def change(path, text=text):
            (path / "MTD_MSIL1C.xml").write_text(text)

        yield f"safe, {name}", Case(partial(safe, change), mapped_optical, apart=True)
    for name, change in ZIPS.items():
        yield f"zip {name}", Case(partial(zipped, change), mapped_optical, apart=True)
    for name, content in OTHERS.items():
        yield f"zip: {name}", Case(partial(put, content, name="a.zip"), mapped_optical)
        if name != "zeros":  # an archive without members
            yield f"tar: {name}", Case(partial(put, content, name="s1.tar"), archived)
    for name, change in MEMBERS.items():
        yield f"tar {name}", Case(partial(tar, change), archived)
    for share in (0.1, 0.3, 0.5):
        yield f"tar cut {share}", Case(partial(cut_tar, share), archived)
    for name, make in {"missing": lambda folder: folder / "a.tif", "folder": lambda folder: folder}.items():
        yield f"labels {name}", Case(make, labelled)


CASES = dict(_cases())
