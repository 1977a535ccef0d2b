"""Small georeferenced scenes of both sensors, for the tests of maps."""

from zipfile import ZipFile

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform

from cromss.sensors import S1, S2

UTM = CRS.from_epsg(32632)
WEST, NORTH = 500000.0, 5300000.0


def write_scene(path, pixels, step=10.0, crs=UTM, corner=(WEST, NORTH), names=(), nodata=None, compress=None, **tags):
    """`(C, H, W)` -> GeoTIFF with pixels of `step` units, from its upper left `corner` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype}
    profile |= {"crs": crs, "transform": from_origin(*corner, step, step), "nodata": nodata, "compress": compress}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)
        dataset.update_tags(**tags)
        for band, name in enumerate(names, 1):
            dataset.set_band_description(band, name)
    return path


def optical(height, width, seed=0):
    """`(13, H, W)` uint16 DN without offset, in blocks of 16 pixels."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 8, (-(-height // 16), -(-width // 16))).repeat(16, 0).repeat(16, 1)[:height, :width]
    dn = 500 + 300.0 * level + rng.normal(0, 60, (len(S2.bands), height, width))
    dn[S2.index("B10")] = rng.integers(2, 30, (height, width))
    return dn.clip(1).astype(np.uint16)


def radar(height, width, seed=1):
    """`(2, H, W)` float32 dB."""
    rng = np.random.default_rng(seed)
    return rng.normal([[[-12]], [[-20]]], 3, (len(S1.bands), height, width)).astype(np.float32)


def ramp_in_degrees(height, width, step=1e-4, margin=20):
    """A field linear in longitude and latitude on a grid in degrees that surrounds the scenes, and its corner."""
    (lon,), (lat,) = transform(UTM, "EPSG:4326", [WEST], [NORTH])
    corner = lon - margin * step, lat + margin * step
    columns = corner[0] + step * (np.arange(width + 2 * margin) + 0.5)
    rows = corner[1] - step * (np.arange(height + 2 * margin) + 0.5)
    return linear_field(*np.meshgrid(columns, rows)), corner


def linear_field(lon, lat):
    """Decibels at a place, `(2, ...)` float32."""
    value = -15 + 400 * (lon - 9.0) + 300 * (lat - 47.85)
    return np.stack([value, value - 7]).astype(np.float32)


def centres_in_degrees(height, width):
    """Longitude and latitude of the pixels of a scene of 10 m pixels."""
    x, y = np.meshgrid(WEST + 10 * (np.arange(width) + 0.5), NORTH - 10 * (np.arange(height) + 0.5))
    lon, lat = transform(UTM, "EPSG:4326", x.ravel(), y.ravel())
    return np.reshape(lon, x.shape), np.reshape(lat, x.shape)


def read(path):
    """All bands of a file `(C, H, W)`."""
    with rasterio.open(path) as dataset:
        return dataset.read()


def band_step(band):
    """Pixel size of a band of Sentinel-2, in m."""
    return {"B1": 60, "B9": 60, "B10": 60, "B2": 10, "B3": 10, "B4": 10, "B8": 10}.get(band, 20)


def plane(band, step, side=1200):
    """A field linear in place, of its own for each band, `(1, h, w)`; on pixels of `step` m."""
    x, y = np.meshgrid(*[step * (np.arange(side // step) + 0.5)] * 2)
    return (1000 + x + 2 * y + 10 * S2.index(band))[None]


def write_safe(path, level="L1C", offset=None, baseline="02.09", granule="L1C_T32", bands=S2.bands, side=1200):
    """A Sentinel-2 product of planes plus the offset, laid out as level 1C or 2A; DN at half pixels are rounded."""
    images = path / "GRANULE" / granule / "IMG_DATA"
    for band in bands:
        finest, name = band_step(band), band if len(band) == 3 else f"B0{band[1]}"
        for step in [finest] if level == "L1C" else (10, 20, 60):
            if step >= finest:
                place = f"T32_{name}.jp2" if level == "L1C" else f"R{step}m/T32_{name}_{step}m.jp2"
                coarser = 0 if step == finest else 500  # what must not be read
                dn = np.rint(plane(band, step, side) + (offset or 0) + coarser).astype(np.uint16)
                _write_jp2(images / place, dn, step)
    _write_jp2(images / "T32_TCI.jp2", plane("B2", 10, side).astype(np.uint16), 10)
    word = {"L1C": "RADIO_ADD_OFFSET", "L2A": "BOA_ADD_OFFSET"}[level]
    offsets = "".join(f'<{word} band_id="{i}">{-offset}</{word}>' for i in range(13)) if offset is not None else ""
    told = f"<Info><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Info><List>{offsets}</List>"
    (path / f"MTD_MSI{level}.xml").write_text(f'<n1:Product xmlns:n1="https://psd">{told}</n1:Product>')
    (path / "manifest.safe").write_text("<xfdu/>")
    return path


def zipped(path):
    """The folder in a zip of its name."""
    archive = path.with_suffix(".zip")
    with ZipFile(archive, "w") as file:
        for member in sorted(path.rglob("*")):
            file.write(member, member.relative_to(path.parent))
    return archive


def _write_jp2(path, pixels, step):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "JP2OpenJPEG", "count": 1, "height": pixels.shape[1], "width": pixels.shape[2]}
    profile |= {"crs": UTM, "transform": from_origin(WEST, NORTH, step, step), "dtype": pixels.dtype}
    with rasterio.open(path, "w", QUALITY=100, REVERSIBLE="YES", **profile) as dataset:
        dataset.write(pixels)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)
