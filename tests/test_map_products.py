"""Maps of products as they are handed out: Sentinel-2's `.SAFE` folders and zips, Sentinel-1's refused."""

import numpy as np
import pytest
import rasterio
from map_scenes import plane, radar, write_safe, zipped
from rasterio.control import GroundControlPoint
from test_mapping import CPU, SENSORS, Pixelwise, predictor_of

from cromss.mapping import predict_map
from cromss.mapping.scene import Scene
from cromss.sensors import S1, S2

pytestmark = pytest.mark.usefixtures("one_thread")

LEVEL_2A = tuple(band for band in S2.bands if band != "B10")


@pytest.mark.parametrize(("level", "offset"), [("L1C", None), ("L1C", 1000), ("L2A", 1000)])
@pytest.mark.parametrize("pack", [lambda path: path, zipped], ids=["folder", "zip"])
def test_a_product_is_read_at_its_finest_pixels_with_its_offset(tmp_path, level, offset, pack):
    bands = S2.bands if level == "L1C" else LEVEL_2A
    product = pack(write_safe(tmp_path / "S2A_MSI.SAFE", level, offset, bands=bands))
    with Scene({"s2": product}, {"s2": bands}, SENSORS) as scene:
        assert (scene.grid.shape, scene.grid.transform.a) == ((120, 120), 10)
        values, valid = scene.images["s2"].read(slice(20, 90), slice(30, 100))
        assert scene.images["s2"].source.offset == (offset or 0)
        assert all(file.exists() for file in scene.files)
    expected = np.concatenate([plane(band, 10) for band in bands])[:, 20:90, 30:100] + (offset or 0)
    assert valid.all()
    assert np.abs(values - expected).max() <= 1.5  # of rounding, and of the cubic on rounded pixels


def test_the_metadata_of_a_product_decide_and_are_told(tmp_path, capsys):
    """Its pixels look offset, and are bright: the metadata say that they are not."""
    product = write_safe(tmp_path / "S2A_MSI.SAFE", baseline="02.09", side=600)
    predict_map(predictor_of(Pixelwise()), {"s2": product}, tmp_path / "map.tif", **CPU)
    assert "values in DN, offset of 0 DN (by the metadata); level 1C, baseline 02.09" in capsys.readouterr().out
    predict_map(predictor_of(Pixelwise()), {"s2": product}, tmp_path / "map.tif", s2_offset=1000, **CPU)
    assert "offset of 1000 DN (told)" in capsys.readouterr().out


def write_gcps(path):
    """A file as in `measurement` of a Sentinel-1 product: places of a few pixels, no grid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (radar(40, 40) + 100).astype(np.uint16)
    profile = {"driver": "GTiff", "count": 2, "height": 40, "width": 40, "dtype": "uint16"}
    places = [GroundControlPoint(r, c, 9 + c / 4000, 48 - r / 4000, 0) for r in (0, 40) for c in (0, 40)]
    with rasterio.open(path, "w", gcps=places, crs="EPSG:4326", **profile) as dataset:
        dataset.write(pixels)
    return path


def radar_product(path):
    write_gcps(path / "measurement" / "s1a-iw-grd-vv.tiff")
    (path / "manifest.safe").write_text("<xfdu/>")
    return path


def several_granules(path):
    write_safe(path, granule="B", side=60)
    return write_safe(path, side=60)


def several_products(path):
    write_safe(path / "a.SAFE", side=60)
    write_safe(path / "b.SAFE", side=60)
    return zipped(path)


def damaged_metadata(path):
    (write_safe(path, side=60) / "MTD_MSIL1C.xml").write_text("<cut")
    return path


def truncated_zip(path):
    archive = zipped(write_safe(path, side=600))
    archive.write_bytes(archive.read_bytes()[:-1000])
    return archive


def truncated_image(path):
    image = next(write_safe(path, side=600).rglob("*_B04.jp2"))
    image.write_bytes(image.read_bytes()[:200])
    return path


def other_zip(path):
    write_safe(path, side=60)
    (path / "MTD_MSIL1C.xml").unlink()
    return zipped(path)


BROKEN = {
    radar_product: "a product of Sentinel-1, not geocoded; terrain-correct it",
    lambda path: write_gcps(path / "B1.tif"): "B1.tif: not geocoded; terrain-correct it",
    several_granules: "holds 2 granules; give one, as B/IMG_DATA",
    several_products: "holds 2 products; give a whole .SAFE",
    other_zip: "has no MTD_MSIL1C.xml or MTD_MSIL2A.xml; give a whole .SAFE",
    damaged_metadata: "MTD_MSIL1C.xml cannot be read, damaged",
    truncated_zip: "cannot be read, truncated or no zip",
    truncated_image: "cannot be read",
    lambda path: write_safe(path, bands=S2.bands[1:], side=60): "no file for B1 of Sentinel-2; found B2 B3",
    lambda path: write_safe(path, "L2A", bands=LEVEL_2A, side=60): "no file for B10 of Sentinel-2 (level 2A has none",
}


@pytest.mark.parametrize(("write", "words"), BROKEN.items(), ids=[words[:20] for words in BROKEN.values()])
def test_products_that_cannot_be_mapped_are_refused_in_a_line(tmp_path, write, words):
    product = write(tmp_path / "X.SAFE")
    with pytest.raises(ValueError, match=r"^--s2 ") as error:
        predict_map(predictor_of(Pixelwise()), {"s2": product}, tmp_path / "map.tif", **CPU)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "map.tif").exists()


def test_sentinel_1_products_are_refused_as_such_too(tmp_path):
    with (
        pytest.raises(ValueError, match=r"^--s1 .*: a product of Sentinel-1, not geocoded; terrain-correct"),
        Scene({"s1": radar_product(tmp_path / "S1A.SAFE")}, {"s1": S1.bands}, SENSORS),
    ):
        pass
