"""Google Earth Engine: every call into its package `ee`, and what its errors mean.

The package is imported where it is first needed. Only this room knows it; the rest sees an `Archive`.
"""

import io
from collections.abc import Callable
from datetime import datetime
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from cromss.downloads.retries import LONGEST_PAUSE, Unavailable
from cromss.downloads.season_scenes import Product, Scene
from cromss.scenes import Grid

HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
"""Endpoint for many small requests (https://developers.google.com/earth-engine/cloud/highvolume)."""

MAX_REQUEST = 48_000_000
"""Bytes that `computePixels` gives at once, uncompressed
(https://developers.google.com/earth-engine/reference/rest/v1/projects.image/computePixels)."""

DEADLINE = 120.0
"""Seconds that a request may take."""

QUOTA_WAIT = 30.0
"""Seconds to wait where too much was asked for and the service does not say how long."""

_BUSY = ("too many", "quota exceeded", "rate limit")
_LATER = ("timed out", "timeout", "internal error", "try again", "unavailable", "deadline exceeded")
_TOO_LARGE = ("memory limit", "request size", "too large")
_LOG_IN = "run `earthengine authenticate` once, and say --project with a cloud project that may use Earth Engine"

Answer = TypeVar("Answer")


class EarthEngine:
    """The live service as an `Archive`; needs an account. Several threads may ask at once.

    Args:
        project: Cloud project that the requests are booked on; that of the credentials for an empty one.

    Raises:
        ValueError: The package is missing, there are no credentials, or the service refuses them.
    """

    def __init__(self, project: str = ""):
        self._ee = _import_ee()
        try:
            self._ee.Initialize(project=project or None, url=HIGH_VOLUME)
            self._ee.data.setMaxRetries(0)
            self._ee.data.setDeadline(1000 * DEADLINE)
        except Exception as error:  # of ee, google.auth, googleapiclient or requests, none of which share a base
            raise ValueError(f"Earth Engine does not let us in ({_first_line(error)}); {_LOG_IN}") from error

    def scenes(self, collection: str, lon: float, lat: float, start: datetime, end: datetime) -> list[Scene]:
        """Scenes over a point that start in a span of time; see `Archive`."""
        params = {
            "parent": collection,
            "startTime": _iso(start),
            "filter": f'startTime < "{_iso(end)}"',
            "region": {"type": "Point", "coordinates": [lon, lat]},
        }
        listed = _asked(lambda: self._ee.data.listImages(params), f"the scenes of {collection}")
        return [_scene(image, collection) for image in listed["images"]]

    def pixels(self, product: Product, scene: str, grid: Grid) -> np.ndarray:
        """Pixels of a scene on a grid, `(C, H, W)` in the product's type; see `Archive`."""
        request = {"expression": self._expression(product, scene), "fileFormat": "NPY", "grid": _grid(grid)}
        content = _asked(lambda: self._ee.data.computePixels(request), f"{product.collection}/{scene}")
        try:
            table = np.load(io.BytesIO(content), allow_pickle=False)
            return np.stack([table[band] for band in product.bands])
        except (ValueError, EOFError, IndexError) as error:
            raise Unavailable(f"{product.collection}/{scene}: the pixels came cut short ({error})") from error

    def _expression(self, product: Product, scene: str) -> Any:
        """The image as it is to be computed: resampled, in its type, the fill value where it is masked."""
        image = self._ee.Image(f"{product.collection}/{scene}").select(list(product.bands))
        if product.smooth:
            image = image.resample("bicubic")
        if product.dtype == "uint16":
            image = image.clamp(0, product.fill - 1).round()
        filled = image.unmask(product.fill, False)
        return {"float32": filled.toFloat, "uint16": filled.toUint16, "uint8": filled.toUint8}[product.dtype]()


def _import_ee() -> ModuleType:
    try:
        import ee
    except ImportError as error:
        raise ValueError(
            f"Earth Engine wants the package earthengine-api ({error}): pip install 'cromss[earth-engine]'"
        ) from error
    return ee


def _asked(call: Callable[[], Answer], what: str) -> Answer:
    """What a call gives; an error of it as `Unavailable` if it may pass, else as ValueError."""
    try:
        return call()
    except Exception as error:  # as in EarthEngine
        raise told(error, what) from error


def told(error: Exception, what: str) -> Exception:
    """What an error of the service means for a job: `Unavailable` if asking again may help, else ValueError.

    The package drops the HTTP status of its own errors; it is read off the error that they were raised for.
    """
    response = getattr(error.__context__, "resp", None) or getattr(error, "resp", None) or {}
    status, reason = int(response.get("status", 0)), _first_line(error)
    said = f"{what}: {reason}"
    if status == 429 or _says(reason, _BUSY):
        return Unavailable(said, _wait(response.get("retry-after")))
    if status in (401, 403) or type(error).__name__ in ("RefreshError", "DefaultCredentialsError"):
        return ValueError(f"{said}; {_LOG_IN}")
    if _says(reason, _TOO_LARGE):
        return ValueError(f"{said}; a smaller --size asks for less at once")
    if status >= 500 or _says(reason, _LATER) or isinstance(error, OSError) or type(error).__name__ == "TransportError":
        return Unavailable(said)
    return ValueError(f"Earth Engine refused {said}")


def _says(reason: str, words: tuple[str, ...]) -> bool:
    return any(word in reason.lower() for word in words)


def _wait(asked: str | None) -> float:
    return min(float(asked), LONGEST_PAUSE) if asked and asked.strip().isdecimal() else QUOTA_WAIT


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _scene(image: dict[str, Any], collection: str) -> Scene:
    """A scene from the description of an image, as `ee.data.listImages` gives it."""
    try:
        start = datetime.fromisoformat(image["startTime"])
        return Scene(PurePosixPath(image["name"]).name, start, image.get("properties", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{collection}: an image is described without name or startTime ({error})") from error


def _grid(grid: Grid) -> dict[str, Any]:
    place, (height, width) = grid.transform, grid.shape
    return {
        "dimensions": {"width": width, "height": height},
        "affineTransform": {
            **{"scaleX": place.a, "shearX": place.b, "translateX": place.c},
            **{"shearY": place.d, "scaleY": place.e, "translateY": place.f},
        },
        "crsCode": f"EPSG:{grid.crs.to_epsg()}",
    }
