"""Pictures of maps and legends: PNG to pixels, a legend's colours, and pixels to the codes of these colours."""

import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.features import shapes
from rasterio.io import MemoryFile

PNG_START = b"\x89PNG\r\n\x1a\n"

MAX_PIXELS = 1 << 26
"""Pixels of a picture; more are refused before they are read."""

MIN_SWATCH, MIN_FILL = 6, 0.9
"""Least side of a legend's swatch in px, and the least share of its bounding box that it fills."""

OPAQUE = 128
"""Pixels of less alpha are transparent."""

MAX_DISTANCE = 10
"""By how much red, green and blue of a pixel may differ from its legend colour."""


def read_png(content: bytes, where: str) -> np.ndarray:
    """A PNG as `(H, W, 4)` uint8 red, green, blue, alpha.

    Raises:
        ValueError: Something else, too large or cut short; `where` and what it begins with are named.
    """
    if not content.startswith(PNG_START):
        text = " ".join(content[:200].decode("utf-8", "replace").split())
        raise ValueError(f"{where}: no PNG picture, it begins with {text[:80]!r}")
    if not _is_whole(content):
        raise ValueError(f"{where}: a picture that is cut short or damaged")
    try:
        with MemoryFile(content) as file, file.open(driver="PNG") as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{where}: a picture of {picture.width} x {picture.height} px, too large")
            bands, by_table = picture.read(), picture.colorinterp[0] == ColorInterp.palette
            table = picture.colormap(1) if by_table else None
    except RasterioError as error:
        raise ValueError(f"{where}: unreadable picture ({' '.join(str(error).split())})") from error
    if bands.dtype != np.uint8:
        raise ValueError(f"{where}: a picture of {bands.dtype}; 8 bits are wanted")
    return _rgba(bands, table)


def legend_colours(picture: np.ndarray, where: str, wanted: int) -> np.ndarray:
    """Colours of a legend's swatches from top to bottom.

    A swatch is a patch of one opaque colour, not that of the picture's corner, that fills a rectangle. Frames and
    letters are none: they are hollow or thin.

    Args:
        picture: `(H, W, 4)` uint8.
        where: Named in errors.
        wanted: Number of swatches.

    Returns:
        `(wanted, 3)` uint8 red, green, blue.

    Raises:
        ValueError: Another number, equal colours, or swatches side by side, which have no order.
    """
    found = _swatches(picture)
    colours = [_hex(colour) for *_, colour in found]
    if len(found) != wanted:
        raise ValueError(f"{where}: {len(found)} swatches where {wanted} are wanted: {' '.join(colours) or 'none'}")
    twice = next((colour for colour in colours if colours.count(colour) > 1), None)
    if twice:
        raise ValueError(f"{where}: swatches {' and '.join(_places(colours, twice))} have one colour, {twice}")
    for number, ((_, bottom, _), (top, *_)) in enumerate(pairwise(found), 1):
        if top < bottom:
            raise ValueError(f"{where}: swatches {number} and {number + 1} are side by side; one column is wanted")
    return np.array([_channels(colour) for *_, colour in found], np.uint8)


def codes_of(picture: np.ndarray, colours: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Code 1..K of the nearest colour by pixel, 0 where none is near or the pixel is transparent.

    Args:
        picture: `(H, W, 4)` uint8.
        colours: `(K, 3)` uint8.
        max_distance: Largest difference in any of red, green and blue.

    Returns:
        `(H, W)` uint8.
    """
    packed = _packed(picture)
    seen, places = np.unique(packed, return_inverse=True)
    different = np.abs(_channels(seen)[:, None].astype(int) - colours[None].astype(int)).max(axis=2)
    codes = np.where(different.min(axis=1) <= max_distance, different.argmin(axis=1) + 1, 0)
    return np.where(picture[..., 3] >= OPAQUE, codes[places.reshape(packed.shape)], 0).astype(np.uint8)


def _is_whole(content: bytes) -> bool:
    """The chunks of a PNG, to its end, have the checksums that they name; GDAL reads zeros where they do not."""
    at, kind = len(PNG_START), b""
    while kind != b"IEND" and at < len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if zlib.crc32(content[at + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        at = end + 4
    return kind == b"IEND"


def _rgba(bands: np.ndarray, table: dict[int, tuple[int, ...]] | None) -> np.ndarray:
    if table is not None:
        lookup = np.zeros((256, 4), np.uint8)
        lookup[list(table)] = list(table.values())
        return lookup[bands[0]]
    if len(bands) < 3:  # grey, with or without alpha
        bands = np.concatenate([bands[[0, 0, 0]], bands[1:]])
    opaque = np.full((4 - len(bands), *bands.shape[1:]), 255, np.uint8)
    return np.concatenate([bands, opaque]).transpose(1, 2, 0)


def _swatches(picture: np.ndarray) -> list[tuple[float, float, int]]:
    """Top, bottom and packed colour of each swatch, from top to bottom."""
    packed = _packed(picture)
    mask = (picture[..., 3] >= OPAQUE) & ((packed != packed[0, 0]) | (picture[0, 0, 3] < OPAQUE))
    found = []
    for shape, colour in shapes(packed, mask=mask, connectivity=4):
        outer, *holes = (np.array(ring) for ring in shape["coordinates"])
        width, height = np.ptp(outer, axis=0)
        area = _area(outer) - sum(map(_area, holes))
        if min(width, height) >= MIN_SWATCH and area >= MIN_FILL * width * height:
            found.append((outer[:, 1].min(), outer[:, 1].max(), int(colour)))
    return sorted(found)


def _area(ring: np.ndarray) -> float:
    """Area of a closed polygon, by the shoelace formula."""
    x, y = ring.T
    return abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def _packed(picture: np.ndarray) -> np.ndarray:
    """Red, green and blue in one int32."""
    red, green, blue = picture[..., :3].astype(np.int32).transpose(2, 0, 1)
    return red << 16 | green << 8 | blue


def _channels(packed: np.ndarray | int) -> np.ndarray:
    return np.stack([np.asarray(packed) >> shift & 255 for shift in (16, 8, 0)], axis=-1)


def _hex(colour: int) -> str:
    return f"{colour:06x}"


def _places(colours: Sequence[str], colour: str) -> list[str]:
    return [str(number) for number, other in enumerate(colours, 1) if other == colour]
