"""Small georeferenced scenes of both sensors, for the tests of maps."""

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import transform

from cromss.sensors import S1, S2

UTM = CRS.from_epsg(32632)
WEST, NORTH = 500000.0, 5300000.0


def write_scene(path, pixels, step=10.0, crs=UTM, corner=(WEST, NORTH), names=(), nodata=None, **tags):
    """`(C, H, W)` -> GeoTIFF with pixels of `step` units, from its upper left `corner` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype}
    profile |= {"crs": crs, "transform": from_origin(*corner, step, step), "nodata": nodata}
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
