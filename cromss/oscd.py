"""Onera satellite change detection (OSCD): two Sentinel-2 dates of a city and the mask of what changed.

The raw set keeps every band on its native grid, and date 2 may have another pixel size. Everything is
put on the grid of date 1's B02 (10 m).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from cromss.input_checks import check_values, refuse_offset
from cromss.layouts import Location, check_location
from cromss.legends import IGNORE_INDEX, OSCD, Legend
from cromss.scenes import Grid, band_files, read_labels, read_on_grid, scene_grid
from cromss.sensors import S2

TRAIN_CITIES = (
    *("aguasclaras", "bercy", "bordeaux", "nantes", "paris", "rennes", "saclay_e"),
    *("abudhabi", "cupertino", "pisa", "beihai", "hongkong", "beirut", "mumbai"),
)
TEST_CITIES = (
    *("brasilia", "montpellier", "norcia", "rio", "saclay_w"),
    *("valencia", "dubai", "lasvegas", "milano", "chongqing"),
)
"""The official split (Daudt et al., IGARSS 2018), where the set does not name its own."""

DEVELOPMENT_CITIES = ("bordeaux", "hongkong", "mumbai", "pisa")
"""Official training cities that the development split tests on."""

IMAGE_FOLDERS = ("Onera Satellite Change Detection dataset - Images", "images")
MASK_FOLDERS = tuple(f"Onera Satellite Change Detection dataset - {part} Labels" for part in ("Train", "Test"))
MASK_FOLDERS += ("labels",)
"""Where cities are looked for under the set's folder, in this order."""

MASK_THRESHOLD = 127
"""Grey values of the PNG masks above it are change."""


def split_cities(
    root: Path, split: str, train: Sequence[str] = (), test: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Cities to train and to test on.

    Args:
        root: Folder of the set; `train.txt` and `test.txt` beside its images name the official split.
        split: `"official"`, or `"development"` to test on `DEVELOPMENT_CITIES`.
        train: Other training cities; for none those of `train.txt` that are not tested.
        test: Other test cities; for none those of the split.

    Raises:
        ValueError: No folder of images, a list that is no text, a named city without images, or a city that trains
            and tests or is named twice.
    """
    images = _image_folder(root)
    _refuse_unknown(images, {"--train_cities": train, "--test_cities": test})
    official = DEVELOPMENT_CITIES if split == "development" else _named(images / "test.txt", TEST_CITIES)
    tested = tuple(test) or official
    trained = tuple(train) or tuple(city for city in _named(images / "train.txt", TRAIN_CITIES) if city not in tested)
    if both := set(trained) & set(tested):
        raise ValueError(f"--train_cities, --test_cities: {', '.join(sorted(both))} would train and test; choose one")
    for part, cities in (("train", trained), ("test", tested)):
        if twice := sorted({city for city in cities if cities.count(city) > 1}):
            raise ValueError(f"--{part}_cities (or {part}.txt): {', '.join(twice)} named twice; name every city once")
    return {"train": trained, "test": tested}


def list_cities(root: Path, cities: Sequence[str] | None = None, labels: Path | None = None) -> list[Location]:
    """Cities of the raw layout `<images>/<city>/{imgs_1,imgs_2}/*_<band>.tif`, `<labels>/<city>/cm/`.

    A scene is named by its B02 file; the other bands lie beside it. A city is listed even if files are missing, for
    `read_city` to refuse, so that a run can skip it.

    Args:
        root: Folder of the set (see `IMAGE_FOLDERS`, `MASK_FOLDERS`).
        cities: Which; all that have images for `None`.
        labels: Folder of land-cover labels `<city>_<date 1 or 2>.tif`, to list instead of the masks; their codes are
            those of the legend that `read_city` is told.

    Raises:
        ValueError: No folder of images.
    """
    images = _image_folder(root)
    locations = []
    for city in _folders(images) if cities is None else cities:
        dates = [sorted((images / city / f"imgs_{date}").glob("*B02.tif")) for date in (1, 2)]
        masks = _masks(root, city)[:1] if labels is None else _existing([labels / f"{city}_{d}.tif" for d in (1, 2)])
        locations.append(Location(city, {"s2": (*dates[0], *dates[1]), "labels": masks}))
    return locations


def city_shape(city: Location) -> tuple[int, int] | None:
    """Height and width of a city in pixels; `None` where its B02 cannot be read."""
    grid = scene_grid(city.scenes["s2"][0]) if city.scenes["s2"] else None
    return grid and grid.shape


def read_city(city: Location, legend: Legend = OSCD) -> dict[str, list[np.ndarray]]:
    """A city on the grid of date 1's B02.

    Args:
        city: From `list_cities`.
        legend: `OSCD` for the mask of change, else that of the land-cover labels of both dates.

    Returns:
        `"s2"`: two images `(13, H, W)` DN, resampled bicubically; `"labels"`: `(H, W)` uint8 class
        ids (255 unknown), one array for change and two for land cover.

    Raises:
        ValueError: A band, date or label is missing, unreadable, elsewhere or of another size.
    """
    check_location(city, {"s2": 2, "labels": 1 if legend is OSCD else 2})
    grid = scene_grid(city.scenes["s2"][0])
    if grid is None:
        raise ValueError(f"{city.scenes['s2'][0]}: has no CRS, or cannot be opened; the native OSCD files are wanted")
    if not abs(grid.transform.determinant) > 0:
        raise ValueError(f"{city.scenes['s2'][0]}: geotransform {grid.transform.to_gdal()} is rotated or empty")
    dates = [_read_date(first.parent, grid) for first in city.scenes["s2"]]
    read = read_mask if legend is OSCD else lambda path: read_labels(path, legend)
    labels = [read(path) for path in city.scenes["labels"]]
    for path, values in zip(city.scenes["labels"], labels):
        place = scene_grid(path)
        if values.shape != grid.shape or (place and not place.starts_at(grid)):
            there, wanted = ("x".join(map(str, shape)) for shape in (values.shape, grid.shape))
            raise ValueError(f"{path}: {there} pixels, not on the {wanted} pixels of {city.scenes['s2'][0].name}")
    return {"s2": dates, "labels": labels}


def read_mask(path: Path) -> np.ndarray:
    """A mask of change, `(H, W)` uint8: 0 no change, 1 change, 255 unknown.

    `<city>-cm.tif` holds codes 1 and 2 (255 unknown), `cm.png` grey values. Where both are there, they must agree but
    for pixels that are unknown, and for grey values between black and white, which are antialiased.

    Raises:
        ValueError: Unreadable, codes outside the legend, grey values 0 and 1, or two masks that contradict each other.
    """
    mask = _change(path) if path.suffix == ".png" else read_labels(path, OSCD)
    other = path.with_name("cm.png")
    if path != other and other.is_file():
        grey, opposite = _grey(other), np.where(mask == 1, 0, 255)
        if grey.shape != mask.shape or (contradicting := int((grey == opposite)[mask != IGNORE_INDEX].sum())):
            found = f"in {contradicting} pixels" if grey.shape == mask.shape else "in size"
            raise ValueError(f"{path}: differs from cm.png beside it {found}; remove the wrong one")
    return mask


def _image_folder(root: Path) -> Path:
    for name in IMAGE_FOLDERS:
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"{root}: no folder {IMAGE_FOLDERS[0]!r} in it; is it the folder of OSCD?")


def _folders(images: Path) -> list[str]:
    return sorted(path.name for path in images.iterdir() if path.is_dir())


def _refuse_unknown(images: Path, named: Mapping[str, Sequence[str]]) -> None:
    there = _folders(images)
    for flag, cities in named.items():
        if unknown := [city for city in cities if city not in there]:
            raise ValueError(f"{flag} {' '.join(unknown)}: not in {images}; it has {' '.join(there) or 'no city'}")


def _named(path: Path, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Names in a list separated by commas or white space; `otherwise` where there is no such file."""
    if not path.is_file():
        return otherwise
    try:
        return tuple(path.read_text(encoding="utf-8-sig").replace(",", " ").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a list of cities ({error}); save it as UTF-8") from error


def _read_date(folder: Path, grid: Grid) -> np.ndarray:
    image = np.stack([read_on_grid(path, grid) for path in band_files(folder, S2).values()])
    check_values(image, S2, str(folder))
    refuse_offset(image, str(folder))
    return image


def _masks(root: Path, city: str) -> tuple[Path, ...]:
    """Masks of a city, the GeoTIFF first."""
    folders = [root / name / city / "cm" for name in MASK_FOLDERS]
    return _existing([folder / name for folder in folders for name in (f"{city}-cm.tif", "cm.png")])


def _existing(paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(path for path in paths if path.is_file())


def _change(path: Path) -> np.ndarray:
    grey = _grey(path)
    if grey.max() == 1:
        raise ValueError(f"{path}: grey values 0 and 1, wanted are 0 (no change) and 255 (change); multiply by 255")
    return (grey > MASK_THRESHOLD).astype(np.uint8)


def _grey(path: Path) -> np.ndarray:
    try:
        with rasterio.open(path) as dataset:
            if dataset.dtypes[0] != "uint8" or dataset.colorinterp[0] == ColorInterp.palette:
                raise ValueError(f"{path}: {dataset.dtypes[0]} or with a palette; grey or RGB of 8 bits is wanted")
            return dataset.read(1)
    except RasterioError as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())}); copy it again") from error
