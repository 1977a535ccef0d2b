"""OSCD: the grid of date 1, tiles, masks, splits, and what is refused; the real cities where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasters import BOX, OSCD_FOLDERS, fake_dn, write_grey, write_mask, write_oscd, write_tiff

from cromss import oscd
from cromss.layouts import check_location
from cromss.legends import NOL
from cromss.sensors import S2

WANTED = {"s2": 2, "labels": 1}


def images(root: Path, city: str = "paris", date: int = 1) -> Path:
    return root / OSCD_FOLDERS["images"] / city / f"imgs_{date}"


def band(root: Path, name: str, date: int = 1) -> Path:
    return next(images(root, date=date).glob(f"*_{name}.tif"))


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def make_folders(root: Path, *cities: str) -> None:
    for city in cities:
        (root / "images" / city).mkdir(parents=True)


def test_splits_are_those_of_the_paper_and_the_design(tmp_path):
    make_folders(tmp_path, "a", "b", "c", "paris")
    official, development = (oscd.split_cities(tmp_path, split) for split in ("official", "development"))
    assert (len(official["train"]), len(official["test"])) == (14, 10)
    assert development["test"] == ("bordeaux", "hongkong", "mumbai", "pisa")
    assert set(development["train"]) == set(official["train"]) - set(development["test"])
    chosen = oscd.split_cities(tmp_path, "official", test=["paris"])
    assert (chosen["test"], len(chosen["train"])) == (("paris",), 13)
    assert oscd.split_cities(tmp_path, "official", ["a", "b"], ["c"]) == {"train": ("a", "b"), "test": ("c",)}
    with pytest.raises(ValueError, match=r"--train_cities .*: a named twice"):
        oscd.split_cities(tmp_path, "official", ["a", "b", "a"], ["c"])
    with pytest.raises(ValueError, match="b, c would train and test"):
        oscd.split_cities(tmp_path, "official", ["c", "b", "a"], ["b", "c"])


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"train": ["a", "pari"]}, r"^--train_cities pari: not in .*images; it has a paris$"),
        ({"train": ["a"], "test": ["b", "paris", "c"]}, r"^--test_cities b c: not in .*images; it has a paris$"),
        ({"test": ["Paris"]}, "^--test_cities Paris: not in"),
        ({"test": ["train.txt"]}, "^--test_cities train.txt: not in"),
    ],
)
def test_named_cities_must_be_there(tmp_path, named, message):
    make_folders(tmp_path, "a", "paris")
    (tmp_path / "images" / "train.txt").write_text("a")
    with pytest.raises(ValueError, match=message):
        oscd.split_cities(tmp_path, "official", **named)
    (tmp_path / "none" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"it has no city$"):
        oscd.split_cities(tmp_path / "none", "official", **named)


def test_a_set_that_names_its_own_cities_is_followed(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train.txt").write_text("city00,city01\n")
    (tmp_path / "images" / "test.txt").write_text("city02\n")
    assert oscd.split_cities(tmp_path, "official") == {"train": ("city00", "city01"), "test": ("city02",)}


def test_lists_of_cities_are_text(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train.txt").write_bytes("\ufeffcity00, city01".encode())
    assert oscd.split_cities(tmp_path, "official")["train"] == ("city00", "city01")
    (tmp_path / "images" / "train.txt").write_text("city00", "utf-16")
    with pytest.raises(ValueError, match=r"train\.txt: not a list of cities"):
        oscd.split_cities(tmp_path, "official")


def test_no_such_set(tmp_path):
    with pytest.raises(ValueError, match="no folder 'Onera Satellite Change Detection dataset - Images'"):
        oscd.list_cities(tmp_path)


def test_cities_are_listed_whole(tmp_path):
    write_oscd(tmp_path, ["paris", "abudhabi"])
    write_oscd(tmp_path, ["dubai"], part="test")
    assert [city.id for city in oscd.list_cities(tmp_path)] == ["abudhabi", "dubai", "paris"]
    for city in oscd.list_cities(tmp_path, ["dubai", "paris"]):
        check_location(city, WANTED)
        assert [path.parent.name for path in city.scenes["s2"]] == ["imgs_1", "imgs_2"]
        assert city.scenes["labels"][0].name == f"{city.id}-cm.tif"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("Images/paris/imgs_2", "1 s2 scenes, wanted 2"),
        ("Images/paris", "no s2 scenes, wanted 2"),
        ("Train Labels/paris", "no labels scenes, wanted 1"),
    ],
)
def test_incomplete_cities_are_refused(tmp_path, missing, message):
    write_oscd(tmp_path, ["paris"])
    (tmp_path / f"Onera Satellite Change Detection dataset - {missing}").rename(tmp_path / "gone")
    images(tmp_path).parent.mkdir(parents=True, exist_ok=True)
    (city,) = oscd.list_cities(tmp_path, ["paris"])
    for refuse in (lambda: check_location(city, WANTED), lambda: oscd.read_city(city)):
        with pytest.raises(ValueError, match=f"^location paris: {message}$"):
            refuse()


@pytest.mark.parametrize("second", [(60, 66), (59, 65), (57, 70), (62, 61)])
def test_both_dates_fall_on_the_first_grid(tmp_path, second):
    """The scene is a smooth function of the place, so that every grid must give the same function."""
    masks = write_oscd(tmp_path, ["paris"], second_shape=second)
    seasons = oscd.read_city(*oscd.list_cities(tmp_path))
    first, other = (image.astype(float) for image in seasons["s2"])
    assert [image.dtype for image in seasons["s2"]] == [np.uint16] * 2
    np.testing.assert_array_equal(first[1], pixels(band(tmp_path, "B02")))
    assert np.abs(other - first - 100)[:, 6:-6, 6:-6].max() < 15
    assert np.abs(other - first - 100).max() < 60
    assert np.abs(np.roll(other, 3, axis=-1) - first - 100)[1, 6:-6, 6:-6].max() > 40
    np.testing.assert_array_equal(seasons["labels"][0], masks["paris"])


def bicubic(image: np.ndarray, step: int) -> np.ndarray:
    """Each pixel cut into `step` x `step` by cubic convolution (a = -0.5), the edge repeated."""

    def weight(x):
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    for axis in (0, 1):
        length = image.shape[axis]
        centres, taps = (np.arange(length * step) + 0.5) / step - 0.5, np.arange(-3, length + 3)
        weights = weight(np.abs(centres[:, None] - taps[None]))
        padded = np.pad(image.astype(float), [(3, 3) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        image = np.moveaxis(np.tensordot(weights, padded, (1, axis)), 0, axis)
    return image


def test_coarse_bands_are_resampled_bicubically_to_the_very_edge(tmp_path):
    write_oscd(tmp_path, ["paris"])
    path = band(tmp_path, "B01")
    write_tiff(path, np.random.default_rng(0).integers(500, 3000, (10, 11), np.uint16), box=BOX)
    seasons = oscd.read_city(*oscd.list_cities(tmp_path))
    assert np.abs(seasons["s2"][0][0] - bicubic(pixels(path), 6)).max() <= 1


def test_where_date_2_ends_earlier_its_edge_is_repeated(tmp_path):
    write_oscd(tmp_path, ["paris"])
    west, south, east, north = BOX
    size = (east - west) / 66
    for path in images(tmp_path, date=2).glob("*.tif"):
        if pixels(path).shape == (60, 66):
            write_tiff(path, pixels(path)[:, :-1], box=(west, south, east - size, north))
    image = oscd.read_city(*oscd.list_cities(tmp_path))["s2"][1]
    np.testing.assert_array_equal(image[1, :, -1], image[1, :, -2])
    assert image.min() > 0


def move(root):
    write_tiff(band(root, "B03", 2), pixels(band(root, "B03", 2)), box=(115, 22, 115.006, 22.005))


def shorten(root):
    write_tiff(band(root, "B04", 2), pixels(band(root, "B04", 2)), box=(114.0, 22.0, 114.005, 22.005))


def remove_place(root):
    write_tiff(band(root, "B11"), pixels(band(root, "B11")))


def remove_first_place(root):
    write_tiff(band(root, "B02"), pixels(band(root, "B02")))


def change_crs(root):
    with rasterio.open(band(root, "B8A"), "r+") as dataset:
        dataset.crs = "EPSG:32650"


def truncate(root):
    band(root, "B08").write_bytes(band(root, "B08").read_bytes()[:-2000])


def remove_band(root):
    band(root, "B10", 2).unlink()


def double_band(root):
    write_tiff(images(root) / "T50QKK_20160928T024539_B07.tif", pixels(band(root, "B07")), box=BOX)


def make_multi_band(root):
    write_tiff(band(root, "B05"), fake_dn(np.random.default_rng(0), 33), box=BOX)


def make_reflectance(root):
    for path in images(root, date=2).glob("*.tif"):
        write_tiff(path, pixels(path).astype(np.float32) / 10000, box=BOX)


def make_nodata(root):
    values = pixels(band(root, "B06"))
    values[3, 4] = 7
    write_tiff(band(root, "B06"), values, nodata=7, box=BOX)


def make_nan(root):
    values = pixels(band(root, "B02", 2)).astype(np.float32)
    values[5, 5] = np.nan
    write_tiff(band(root, "B02", 2), values, box=BOX)


def make_mask_of_zero_and_one(root):
    write_mask(root, "paris", (np.arange(60 * 66).reshape(60, 66) % 2).astype(np.uint8))


def make_small_mask(root):
    write_mask(root, "paris", np.ones((59, 66), np.uint8))
    write_grey(root, "paris", np.zeros((59, 66), np.uint8))


def make_masks_of_two_sizes(root):
    write_grey(root, "paris", np.zeros((61, 66), np.uint8))


def make_masks_contradict(root):
    write_grey(root, "paris", np.full((60, 66), 255, np.uint8))


def break_png(root):
    (root / OSCD_FOLDERS["train"] / "paris" / "cm" / "cm.png").write_bytes(b"\x89PNG\r\n")


def rotate(root):
    with rasterio.open(band(root, "B05"), "r+") as dataset:
        dataset.transform *= rasterio.Affine.rotation(5)


def empty_place(root):
    with rasterio.open(band(root, "B05"), "r+") as dataset:
        dataset.transform = rasterio.Affine(0, 1e-4, BOX[0], -1e-4, 0, BOX[3])


def rotate_first(root):
    for path in images(root).glob("*.tif"):
        with rasterio.open(path, "r+") as dataset:
            dataset.transform *= rasterio.Affine.rotation(5)


def add_offset(root):
    for path in images(root, date=2).glob("*.tif"):
        write_tiff(path, pixels(path) + np.uint16(1000), box=BOX)


def make_black_band(root):
    write_tiff(band(root, "B04", 2), np.zeros_like(pixels(band(root, "B04", 2))), box=BOX)


def empty_first_place(root):
    with rasterio.open(band(root, "B02"), "r+") as dataset:
        dataset.transform = rasterio.Affine(0, 0, BOX[0], 0, 0, BOX[3])


def make_first_place_nan(root):
    with rasterio.open(band(root, "B02"), "r+") as dataset:
        dataset.transform = rasterio.Affine(np.nan, 0, BOX[0], 0, -1e-4, BOX[3])


def make_png(root, dtype, table=None):
    path = root / OSCD_FOLDERS["train"] / "paris" / "cm" / "cm.png"
    with rasterio.open(path, "w", driver="PNG", count=1, height=60, width=66, dtype=dtype) as dataset:
        dataset.write(np.full((1, 60, 66), 200, dtype))
        if table:
            dataset.write_colormap(1, table)


def make_16_bit_png(root):
    make_png(root, "uint16")


def make_palette_png(root):
    make_png(root, "uint8", {200: (0, 0, 0, 255)})


def make_png_of_zero_and_one(root):
    write_grey(root, "paris", (np.arange(60 * 66).reshape(60, 66) % 2).astype(np.uint8))
    (root / OSCD_FOLDERS["train"] / "paris" / "cm" / "paris-cm.tif").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (move, r"_B03\.tif: \d+ pixels short of the first date's grid"),
        (shorten, r"_B04\.tif: \d+ pixels short of the first date's grid"),
        (remove_place, r"_B11\.tif: its CRS is None, wanted is EPSG:4326"),
        (remove_first_place, r"_B02\.tif: has no CRS"),
        (change_crs, r"_B8A\.tif: its CRS is EPSG:32650, wanted is EPSG:4326"),
        (truncate, r"_B08\.tif: cannot be read"),
        (remove_band, "imgs_2: no file for band B10"),
        (double_band, "imgs_1: S2A_.*_B07.tif and T50.*_B07.tif are both band B7"),
        (make_multi_band, r"_B05\.tif: 13 bands where 1 are wanted"),
        (make_reflectance, "imgs_2: .* looks like reflectance"),
        (make_nodata, r"_B06\.tif: 1 nodata pixels \(7\)"),
        (make_nan, "imgs_2: .* NaN or infinite"),
        (make_mask_of_zero_and_one, r"paris-cm\.tif: label codes outside the OSCD legend: 0"),
        (make_small_mask, r"paris-cm\.tif: 59x66 pixels, not on the 60x66 pixels of S2A"),
        (make_masks_of_two_sizes, r"paris-cm\.tif: differs from cm\.png beside it in size"),
        (make_masks_contradict, r"paris-cm\.tif: differs from cm\.png beside it in \d+ pixels"),
        (break_png, r"cm\.png: cannot be read"),
        (rotate, r"_B05\.tif: geotransform .* is rotated or empty"),
        (empty_place, r"_B05\.tif: geotransform .* is rotated or empty"),
        (rotate_first, r"_B01\.tif: geotransform .* is rotated or empty"),
        (add_offset, "imgs_2: the pixels show a DN offset of 1000, but these data predate it"),
        (make_black_band, "imgs_2: every pixel of band B4 is 0"),
        (empty_first_place, r"_B02\.tif: geotransform .* is rotated or empty"),
        (make_first_place_nan, r"_B02\.tif: geotransform .* is rotated or empty"),
        (make_16_bit_png, r"cm\.png: uint16 or with a palette; grey or RGB of 8 bits is wanted"),
        (make_palette_png, r"cm\.png: uint8 or with a palette; grey or RGB of 8 bits is wanted"),
        (make_png_of_zero_and_one, r"cm\.png: grey values 0 and 1, wanted are 0 .* and 255"),
    ],
    ids=lambda case: getattr(case, "__name__", None),
)
def test_bad_cities_are_refused_in_one_line(tmp_path, spoil, message):
    write_oscd(tmp_path, ["paris"])
    spoil(tmp_path)
    (city,) = oscd.list_cities(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        oscd.read_city(city)
    assert "\n" not in str(error.value)


def test_a_png_alone_counts_as_change_above_127(tmp_path):
    mask = write_oscd(tmp_path, ["paris"])["paris"]
    (tmp_path / OSCD_FOLDERS["train"] / "paris" / "cm" / "paris-cm.tif").unlink()
    write_grey(tmp_path, "paris", np.where(mask, 128, 127).astype(np.uint8))
    np.testing.assert_array_equal(oscd.read_city(*oscd.list_cities(tmp_path))["labels"][0], mask)


def test_antialiasing_is_no_contradiction(tmp_path):
    mask = write_oscd(tmp_path, ["paris"])["paris"]
    write_grey(tmp_path, "paris", np.where(mask, 90, 0).astype(np.uint8))
    np.testing.assert_array_equal(oscd.read_city(*oscd.list_cities(tmp_path))["labels"][0], mask)


@pytest.mark.parametrize("with_png", [True, False])
def test_unknown_pixels_stay_unknown(tmp_path, with_png):
    """The PNG cannot say that a pixel is unknown: whatever it has there contradicts nothing."""
    change = write_oscd(tmp_path, ["paris"])["paris"]
    unknown = np.random.default_rng(1).random(change.shape) < 0.3
    path = write_mask(tmp_path, "paris", np.where(unknown, 255, np.where(change, 2, 1)).astype(np.uint8))
    if not with_png:
        path.with_name("cm.png").unlink()
    expected = np.where(unknown, 255, change)
    assert {0, 1, 255} == set(np.unique(expected))
    labels = oscd.read_city(*oscd.list_cities(tmp_path))["labels"][0]
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint8


def test_known_pixels_are_compared_beside_unknown_ones(tmp_path):
    change = write_oscd(tmp_path, ["paris"])["paris"]
    codes = np.where(change, 2, 1).astype(np.uint8)
    codes[:30] = 255
    path = write_mask(tmp_path, "paris", codes)
    grey = np.where(change, 255, 0).astype(np.uint8)
    grey[29:31, 5:9] = 255 - grey[29:31, 5:9]
    write_grey(tmp_path, "paris", grey)
    with pytest.raises(ValueError, match=r"differs from cm\.png beside it in 4 pixels"):
        oscd.read_mask(path)


def write_land_cover(folder: Path, shape=(60, 66), box=BOX, cities=("paris",)) -> dict[tuple[str, int], np.ndarray]:
    rng = np.random.default_rng(3)
    made = {(city, date): rng.integers(0, 9, shape, np.uint8) for city in cities for date in (1, 2)}
    for (city, date), codes in made.items():
        write_tiff(folder / f"{city}_{date}.tif", codes, box=box)
    return made


def test_land_cover_of_both_dates_instead_of_the_mask(tmp_path):
    write_oscd(tmp_path, ["paris"])
    made = write_land_cover(tmp_path / "dw")
    (city,) = oscd.list_cities(tmp_path, labels=tmp_path / "dw")
    labels = oscd.read_city(city, NOL)["labels"]
    for date in (1, 2):
        np.testing.assert_array_equal(labels[date - 1], made["paris", date])
    (tmp_path / "dw" / "paris_2.tif").unlink()
    with pytest.raises(ValueError, match="paris: 1 labels scenes, wanted 2"):
        oscd.read_city(*oscd.list_cities(tmp_path, labels=tmp_path / "dw"), NOL)


@pytest.mark.parametrize(
    ("shape", "box", "message"),
    [
        ((60, 67), BOX, "60x67 pixels, not on the 60x66"),
        ((60, 66), (114.1, 22.0, 114.106, 22.005), "not on the 60x66 pixels"),
    ],
)
def test_land_cover_on_another_grid_is_refused(tmp_path, shape, box, message):
    write_oscd(tmp_path, ["paris"])
    write_land_cover(tmp_path / "dw", shape, box)
    with pytest.raises(ValueError, match=message):
        oscd.read_city(*oscd.list_cities(tmp_path, labels=tmp_path / "dw"), NOL)


def test_a_city_without_a_grid_has_no_shape(tmp_path):
    write_oscd(tmp_path, ["paris"])
    (city, other) = oscd.list_cities(tmp_path, ["paris", "nowhere"])
    assert oscd.city_shape(city) == (60, 66)
    assert oscd.city_shape(other) is None
    band(tmp_path, "B02").write_bytes(b"II*")
    assert oscd.city_shape(city) is None
    with pytest.raises(ValueError, match=r"_B02\.tif: has no CRS, or cannot be opened"):
        oscd.read_city(city)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("name", ["hongkong", "rennes", "bercy"])
def test_real_cities(real, name):
    """Date 2 of Hong Kong has other pixels; the dates must match best where they are, and mask and labels fit."""
    (city,) = oscd.list_cities(real / "oscd", [name])
    check_location(city, WANTED)
    seasons = oscd.read_city(city)
    first, second = (image.astype(float) for image in seasons["s2"])
    assert first.shape == second.shape == (13, *seasons["labels"][0].shape)
    np.testing.assert_array_equal(first[S2.index("B2")], pixels(city.scenes["s2"][0]))
    a, b = first[1], second[1]
    here = correlation(a[3:-3, 3:-3], b[3:-3, 3:-3])
    for down, right in ((3, 0), (-3, 0), (0, 3), (0, -3)):
        moved = b[3 + down : b.shape[0] - 3 + down, 3 + right : b.shape[1] - 3 + right]
        assert correlation(a[3:-3, 3:-3], moved) < here - 0.05
    corners = np.array([[image[:, :40, :40], image[:, -40:, -40:]] for image in (first, second)])
    assert (corners.mean(axis=(-2, -1))[..., 1] > 500).all()
    assert all((image[1, edge] > 0).all() for image in (first, second) for edge in (0, -1))
    grey = pixels(city.scenes["labels"][0].with_name("cm.png"))
    assert seasons["labels"][0].mean() == (grey > 127).mean() > 0


def test_real_land_cover_lies_on_the_same_grid(real):
    (city,) = oscd.list_cities(real / "oscd", ["hongkong"], real / "oscd_dw")
    seasons = oscd.read_city(city, NOL)
    for date, (image, labels) in enumerate(zip(seasons["s2"], seasons["labels"])):
        np.testing.assert_array_equal(labels, pixels(real / "oscd_dw" / f"hongkong_{date + 1}.tif"))
        infrared = image[S2.index("B8")].astype(float)
        assert infrared[labels == 0].mean() < 0.5 * infrared[labels == 1].mean()
