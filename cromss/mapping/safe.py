"""Sentinel-2 products as they are handed out: `.SAFE` folders and their zips."""

import re
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

from cromss.offset import declared_offset
from cromss.sensors import canonical_band

GEOCODE = "not geocoded; terrain-correct it to gamma0 or sigma0 in dB first (SNAP, or an RTC product)"
"""What to do with a Sentinel-1 product."""

MAX_METADATA = 10**7
"""Bytes of metadata that are read; products have a twentieth."""

_IMAGE = re.compile(r"(?:.*/)?GRANULE/([^/]+)/IMG_DATA/(?:R\d\dm/)?[^/]+_(B\d\d|B8A)(?:_(\d\d)m)?\.jp2", re.IGNORECASE)
_METADATA = re.compile(r"(?:.*/)?MTD_MSI(L1C|L2A)\.xml")
_RADAR = re.compile(r"(?:.*/)?measurement/[^/]+\.tiff")


class Safe(NamedTuple):
    """One granule of one product.

    Attributes:
        files: Band -> its image of the finest pixels, as GDAL opens it.
        note: Level and processing baseline.
        offset: DN offset that the metadata declare; `None` if they are silent.
    """

    files: dict[str, str]
    note: str
    offset: int | None


def is_safe(path: Path) -> bool:
    """A zip, or a folder that is named or filled as a product."""
    if path.is_dir():
        return path.suffix.upper() == ".SAFE" or (path / "manifest.safe").exists() or any(path.glob("MTD_MSIL*.xml"))
    return path.suffix.lower() == ".zip" and path.exists()


def read_safe(where: str, path: Path) -> Safe:
    """What a product holds, without opening its images.

    Args:
        where: The product behind its flag, to begin the line of an error.
        path: `.SAFE` folder or its zip.

    Raises:
        ValueError: Damaged, of Sentinel-1, of none or several products or granules.
    """
    names = _names(where, path)
    if any(map(_RADAR.fullmatch, names)):
        raise ValueError(f"{where}: a product of Sentinel-1, {GEOCODE}")
    metadata = [match for match in map(_METADATA.fullmatch, names) if match]
    if len(metadata) != 1:
        found = f"holds {len(metadata)} products" if metadata else "has no MTD_MSIL1C.xml or MTD_MSIL2A.xml"
        raise ValueError(f"{where}: {found}; give a whole .SAFE of Sentinel-2, or a folder of <band>.tif")
    images = [match for match in map(_IMAGE.fullmatch, names) if match]
    granules = sorted({match[1] for match in images})
    if len(granules) > 1:
        raise ValueError(f"{where}: holds {len(granules)} granules; give one, as {granules[0]}/IMG_DATA")
    root = str(path) if path.is_dir() else f"/vsizip/{path}"
    coarse_first = sorted(images, key=lambda match: -int(match[3] or 0))
    files = {canonical_band(match[2]): f"{root}/{match[0]}" for match in coarse_first}
    entries = _entries(where, path, metadata[0][0])
    baseline = entries.get("PROCESSING_BASELINE", "unknown")
    return Safe(files, f"level {metadata[0][1][1:]}, baseline {baseline}", declared_offset(entries, where))


def _names(where: str, path: Path) -> list[str]:
    if path.is_dir():
        return [file.relative_to(path).as_posix() for file in sorted(path.rglob("*"))]
    try:
        with ZipFile(path) as archive:
            return archive.namelist()
    except (BadZipFile, OSError) as error:
        raise ValueError(f"{where}: cannot be read, truncated or no zip ({error}); get it anew") from None


def _content(path: Path, name: str) -> bytes:
    if path.is_dir():
        with (path / name).open("rb") as file:
            return file.read(MAX_METADATA)
    with ZipFile(path) as archive, archive.open(name) as file:
        return file.read(MAX_METADATA)


def _entries(where: str, path: Path, name: str) -> dict[str, str]:
    """Baseline, and the offset of each band."""
    try:
        root = ET.fromstring(_content(path, name))
    except (ET.ParseError, BadZipFile, OSError, zlib.error) as error:
        raise ValueError(f"{where}: {name} cannot be read, damaged ({error}); get the product anew") from None
    offsets = [element for name in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET") for element in root.iter(name)]
    entries = {f"RADIO_ADD_OFFSET_{number}": element.text or "" for number, element in enumerate(offsets)}
    return entries | {element.tag: element.text or "" for element in root.iter("PROCESSING_BASELINE")}
