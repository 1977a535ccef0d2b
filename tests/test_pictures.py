"""Pictures: PNG as pixels, swatches of legends, codes of colours."""

import zlib

import numpy as np
import pytest
from map_server import COLOURS, legend, png
from rasterio.io import MemoryFile

from cromss.downloads.pictures import codes_of, legend_colours, read_png


def encoded(bands, table=None, driver="PNG"):
    count, height, width = bands.shape
    with MemoryFile() as file:
        with file.open(driver=driver, count=count, height=height, width=width, dtype=bands.dtype) as picture:
            picture.write(bands)
            if table:
                picture.write_colormap(1, table)
        return file.read()


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_are_read_as_they_are(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, channels), np.uint8)
    picture = read_png(png(pixels), "here")
    np.testing.assert_array_equal(picture[..., :channels], pixels)
    assert channels == 4 or (picture[..., 3] == 255).all()


def test_tables_of_colours_and_greys_are_read():
    indices = np.random.default_rng(1).integers(0, 3, (1, 5, 6), np.uint8)
    table = {0: (1, 2, 3, 255), 1: (40, 50, 60, 255), 2: (7, 8, 9, 0)}
    np.testing.assert_array_equal(read_png(encoded(indices, table), "here"), np.array([*table.values()])[indices[0]])
    grey = read_png(encoded(np.stack([indices[0], indices[0] * 100])), "here")
    np.testing.assert_array_equal(grey, np.stack([indices[0]] * 3 + [indices[0] * 100], axis=-1))


@pytest.mark.parametrize("at", range(8, len(png(COLOURS[None]))))
def test_no_byte_of_a_picture_changes_unseen(at):
    content = bytearray(png(COLOURS[None]))
    content[at] ^= 4
    with pytest.raises(ValueError, match="here: a picture that is cut short or damaged"):
        read_png(bytes(content), "here")
    with pytest.raises(ValueError, match="here: a picture that is cut short or damaged"):
        read_png(png(COLOURS[None])[:at], "here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "here: no PNG picture, it begins with ''"),
        (b"<html><body>Sorry,\n come back</body>", "here: no PNG picture, it begins with '<html><body>Sorry, come"),
        (b'<VRTDataset rasterXSize="1" rasterYSize="1">', "here: no PNG picture, it begins with '<VRTDataset"),
        (encoded(np.zeros((3, 4, 4), np.uint8), driver="GTiff"), "here: no PNG picture"),
        (png(legend())[:-12], "here: a picture that is cut short or damaged"),
        (png(legend())[:8], "here: a picture that is cut short or damaged"),
        (png(legend()).replace(b"IDAT", b"IDAt"), "here: a picture that is cut short or damaged"),
        (png(legend())[:2] + b"NG\r\n\x1a\n garbage", "here: a picture that is cut short or damaged"),
        (png(np.zeros((1, 1, 3), np.uint8), bits=3), "here: unreadable picture"),
        (encoded(np.zeros((3, 4, 4), np.uint16)), "here: a picture of uint16; 8 bits"),
    ],
)
def test_other_pictures_are_refused_in_a_line(content, message):
    with pytest.raises(ValueError, match="here") as error:
        read_png(content, "here")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_large_pictures_are_refused_before_they_are_read():
    header = bytearray(png(np.zeros((2, 2, 3), np.uint8)))
    header[16:24] = (60000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(ValueError, match="here: a picture of 60000 x 60000 px, too large"):
        read_png(bytes(header), "here")


@pytest.mark.parametrize("gap", [0, 6])
@pytest.mark.parametrize("background", [(255, 255, 255, 255), (255, 255, 255, 0), (200, 10, 10, 255)])
def test_swatches_are_found_from_top_to_bottom(gap, background):
    np.testing.assert_array_equal(legend_colours(legend(COLOURS, gap, background), "here", 13), COLOURS)
    np.testing.assert_array_equal(legend_colours(legend(COLOURS[::-1], gap, background), "here", 13), COLOURS[::-1])


def test_swatches_without_frames_touch_one_another():
    picture = np.full((13 * 8 + 4, 30, 4), 255, np.uint8)
    picture[2:-2, 4:14, :3] = np.repeat(COLOURS, 8, axis=0)[:, None]
    np.testing.assert_array_equal(legend_colours(picture, "here", 13), COLOURS)


def twice(colours):
    return np.concatenate([colours[:12], colours[3:4]])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (legend(COLOURS[:12]), "12 swatches where 13 are wanted: e6004d ffffa8"),
        (legend(np.concatenate([COLOURS, [[1, 2, 3]]])), "14 swatches where 13 are wanted: .* 010203$"),
        (np.full((40, 40, 4), 255, np.uint8), "0 swatches where 13 are wanted: none"),
        (np.zeros((40, 40, 4), np.uint8), "0 swatches where 13 are wanted: none"),
        (legend(twice(COLOURS)), "swatches 4 and 13 have one colour, cc4df2"),
    ],
)
def test_other_legends_are_refused_in_a_line(picture, message):
    with pytest.raises(ValueError, match=f"^here: {message}"):
        legend_colours(picture, "here", 13)


def test_swatches_side_by_side_have_no_order():
    picture = np.full((40, 60, 4), 255, np.uint8)
    picture[5:15, 5:15, :3], picture[8:18, 30:40, :3] = COLOURS[0], COLOURS[1]
    with pytest.raises(ValueError, match="here: swatches 1 and 2 are side by side"):
        legend_colours(picture, "here", 2)


def test_codes_are_of_the_nearest_colour_within_reach():
    rng = np.random.default_rng(2)
    codes = rng.integers(1, 14, (20, 21))
    picture = np.full((20, 21, 4), 255, np.uint8)
    near = COLOURS[codes - 1].astype(int) + rng.integers(-10, 11, (20, 21, 3))
    picture[..., :3] = near.clip(0, 255)
    np.testing.assert_array_equal(codes_of(picture, COLOURS, 10), codes)
    assert codes_of(picture, COLOURS, 10).dtype == np.uint8


def test_mixed_and_transparent_pixels_have_no_code():
    picture = np.full((3, 2, 4), 255, np.uint8)
    picture[0, :, :3] = COLOURS[0]
    picture[0, 1, 3] = 127
    picture[1, :, :3] = (COLOURS[0].astype(int) + COLOURS[2]) // 2
    picture[2, :, :3] = COLOURS[0] + np.array([[0, 10, 10], [0, 11, 0]], np.uint8)
    np.testing.assert_array_equal(codes_of(picture, COLOURS, 10), [[1, 0], [0, 0], [1, 0]])
