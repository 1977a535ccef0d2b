"""Statistics of raw folders against NumPy on the same pixels, and locations that are left out of them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from conftest import load_script
from rasters import S2_SCENES, fake_db, fake_dn, write_ssl4eo, write_tiff

from cromss.sensors import S1, S2

script = load_script("compute_statistics")

OFFSET, SIZE = 1000, 20
SNOWY = "snowy"
"""Location so bright that its pixels do not tell the offset that is in them."""


def draw_tiles():
    """Id -> Sentinel-1 and Sentinel-2 of tiles of differing sizes, without offset."""
    rng = np.random.default_rng(21)
    made = {name: (fake_db(rng, size), fake_dn(rng, size)) for name, size in (("field", 31), ("9", 24), ("late", 17))}
    made[SNOWY] = fake_db(rng, 20), rng.integers(4500, 9000, (13, 20, 20), np.uint16)
    return made


def write_tiles(root, made):
    """Two of the tiles carry the offset, and one of these says so."""
    for name, (radar, optical) in made.items():
        write_tiff(root / name / "S1.tif", radar)
        tags = {"PROCESSING_BASELINE": "05.09"} if name == "late" else {}
        offset = OFFSET if name in ("late", SNOWY) else 0
        write_tiff(root / name / "S2_L1C.tif", optical + np.uint16(offset), **tags)


def write_holed(root, made):
    """A tile with a NaN, and one with a pixel without data."""
    radar, optical = (image.copy() for image in made["field"])
    radar[1, 3, 4] = np.nan
    write_tiff(root / "nan" / "S1.tif", radar)
    write_tiff(root / "nan" / "S2.tif", optical)
    optical[7, 5, 6] = 65535
    write_tiff(root / "nodata" / "S1.tif", made["field"][0])
    write_tiff(root / "nodata" / "S2.tif", optical, nodata=65535)


def measured(root, out, **options) -> dict:
    """Content of the file that the script writes."""
    script.main(script.RawStatistics(root, out, **options))
    return yaml.safe_load(out.read_text())


def assert_naive(entry, images, sensor):
    """An entry has mean and standard deviation over all pixels of `images`, `(C, H, W)` each."""
    pixels = [
        np.concatenate([image[band].ravel() for image in images]).astype(np.float64)
        for band in range(len(sensor.bands))
    ]
    np.testing.assert_allclose(entry["mean"], [values.mean() for values in pixels], rtol=1e-12)
    np.testing.assert_allclose(entry["std"], [values.std() for values in pixels], rtol=1e-12)
    assert entry["count"] == len(pixels[0])
    assert (entry["bands"], entry["unit"]) == (list(sensor.bands), sensor.unit)


def test_tiles(tmp_path, capsys):
    made = draw_tiles()
    write_tiles(tmp_path / "raw", made)
    write_holed(tmp_path / "raw", made)
    options = {"layout": "tiles", "s2_offset_ids": (f"{SNOWY}={OFFSET}",), "on_error": "skip"}
    told = measured(tmp_path / "raw", tmp_path / "a.yaml", **options)
    for name, position, sensor in (("s1", 0, S1), ("s2", 1, S2)):
        assert_naive(told[name], [images[position] for images in made.values()], sensor)
        assert told[name]["source"] == "4 of 6 locations of raw, tiles layout"
    said = capsys.readouterr().out
    assert "skipped: nan: " in said
    assert "1 NaN or infinite values" in said
    assert "skipped: nodata: " in said
    assert "1 nodata pixels (65535)" in said
    assert measured(tmp_path / "raw", tmp_path / "b.yaml", workers=1, **options) == told
    options["modalities"] = ("s2",)
    holed = measured(tmp_path / "raw", tmp_path / "c.yaml", **options)
    assert_naive(holed["s2"], [optical for _, optical in made.values()] + [made["field"][1]], S2)
    assert list(holed) == ["s2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, rf"of {SNOWY}: the pixels cannot tell .* say --s2_offset_ids {SNOWY}=0 or {SNOWY}=1000 \(--on_error skip"),
        ({"s2_offset_ids": ("snow=1000",)}, "--s2_offset_ids snow=1000: wanted ID=0 or ID=1000 with the id of a"),
        ({"s2_offset": "1000"}, r"9/S2_L1C\.tif of 9: the pixels show no DN offset, --s2_offset 1000 would clip"),
        ({"s2_offset_ids": (f"{SNOWY}=1000",), "limit": 1}, f"--s2_offset_ids {SNOWY}=1000: wanted"),
    ],
)
def test_offsets_that_nothing_tells(options, message, tmp_path):
    write_tiles(tmp_path / "raw", draw_tiles())
    with pytest.raises(ValueError, match=message) as refused:
        measured(tmp_path / "raw", tmp_path / "a.yaml", layout="tiles", **options)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("a.yaml*"))


def test_a_hole_stops_unless_told_otherwise(tmp_path):
    write_holed(tmp_path / "raw", draw_tiles())
    with pytest.raises(ValueError, match=r"nan/S1\.tif: 1 NaN or infinite values; .* \(--on_error skip leaves such"):
        measured(tmp_path / "raw", tmp_path / "a.yaml", layout="tiles")


def read_folder(folder: Path, bands) -> np.ndarray:
    """Single-band files as `(C, H, W)`."""
    images = []
    for band in bands:
        with rasterio.open(folder / f"{band}.tif") as dataset:
            images.append(dataset.read(1))
    return np.stack(images)


@pytest.fixture
def ssl4eo(tmp_path):
    """Five locations of two seasons: one with the offset in both, one with NaN, one with nodata."""
    root, ids = tmp_path / "raw", ("0000000", "0000003", "0000012", "0000100", "0000101")
    write_ssl4eo(root, ids, seed=13, size=SIZE)
    for scene in S2_SCENES:
        for path in (root / "s2c" / "0000012" / scene).iterdir():
            write_tiff(path, read_folder(path.parent, [path.stem])[0] % 4000 + np.uint16(5500))
    (radar,) = sorted((root / "s1" / "0000003").glob("S1A*"))
    band = read_folder(radar, ["VH"])[0]
    band[2, 2] = np.nan
    write_tiff(radar / "VH.tif", band)
    band = read_folder(root / "s2c" / "0000100" / S2_SCENES[0], ["B11"])[0]
    band[0, 0] = 0
    write_tiff(root / "s2c" / "0000100" / S2_SCENES[0] / "B11.tif", band, nodata=0)
    return root


def test_ssl4eo(ssl4eo, tmp_path):
    told = measured(
        ssl4eo, tmp_path / "a.yaml", layout="ssl4eo", size=SIZE, s2_offset_ids=("0000012=1000",), on_error="skip"
    )
    whole = ("0000000", "0000012", "0000101")
    radar = [read_folder(scene, S1.bands) for name in whole for scene in (ssl4eo / "s1" / name).iterdir()]
    optical = [
        read_folder(ssl4eo / "s2c" / name / scene, S2.bands).astype(np.int64) - OFFSET * (name == "0000012")
        for name in whole
        for scene in S2_SCENES
    ]
    assert_naive(told["s1"], radar, S1)
    assert_naive(told["s2"], optical, S2)
    assert told["s2"]["source"] == "3 of 5 locations of raw, ssl4eo layout"


def test_dark_pixels_end_at_zero(ssl4eo, tmp_path):
    """An offset told of a location without it, right or wrong, is clipped as in the writer."""
    options = {"layout": "ssl4eo", "size": SIZE, "modalities": ("s2",), "on_error": "skip"}
    offsets = ("0000000=1000", "0000012=0")
    told = measured(ssl4eo, tmp_path / "a.yaml", s2_offset_ids=offsets, **options)
    images = []
    for name in ("0000000", "0000003", "0000012", "0000101"):
        for scene in S2_SCENES:
            image = read_folder(ssl4eo / "s2c" / name / scene, S2.bands).astype(np.int64)
            images.append(np.maximum(image - OFFSET, 0) if name == "0000000" else image)
    assert_naive(told["s2"], images, S2)
    assert told["s2"]["mean"][10] < 12 + 5500  # the cirrus band of the first is 0


def test_ssl4eo_is_resampled_as_in_the_writer(ssl4eo, tmp_path):
    told = measured(ssl4eo, tmp_path / "a.yaml", layout="ssl4eo", size=30, limit=1)
    images = []
    for scene in S2_SCENES:
        bands = []
        for band in S2.bands:
            with rasterio.open(ssl4eo / "s2c" / "0000000" / scene / f"{band}.tif") as dataset:
                bands.append(dataset.read(1, out_shape=(30, 30), resampling=rasterio.enums.Resampling.cubic))
        images.append(np.stack(bands))
    assert_naive(told["s2"], images, S2)
    assert told["s2"]["source"] == "1 locations of raw, ssl4eo layout"
