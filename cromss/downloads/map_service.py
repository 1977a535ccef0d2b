"""A layer of a web map service (WMS 1.3.0 or 1.1.1), spoken to through OWSLib."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin
from xml.etree import ElementTree

import numpy as np

from cromss import __version__
from cromss.downloads.pictures import read_png
from cromss.downloads.retries import Unavailable

USER_AGENT = f"cromss/{__version__}"

SYSTEMS = ("EPSG:3857", "EPSG:4326")
"""Coordinate reference systems to ask for maps in; the first that the layer has is taken."""

MAX_SIDE = 4096
"""Largest height and width of a map in px, where the service names none."""

BUSY = (408, 425, 429)
"""HTTP statuses below 500 that may pass."""


@dataclass(frozen=True)
class MapLayer:
    """A layer, as the service's capabilities describe it.

    Attributes:
        url: The service.
        name: The layer.
        style: Its style; empty for the service's choice.
        crs: System that maps are asked for in.
        legend_url: Picture of the legend.
        max_shape: Largest height and width of a map in px.
        service: OWSLib's service.
    """

    url: str
    name: str
    style: str
    crs: str
    legend_url: str
    max_shape: tuple[int, int]
    service: Any = field(repr=False)

    def legend(self) -> np.ndarray:
        """Picture of the legend, `(H, W, 4)` uint8.

        Raises:
            ValueError: No PNG.
            Unavailable: The service does not answer.
        """
        from owslib.util import openURL

        with _told(self.legend_url):
            answer = openURL(
                self.legend_url, timeout=self.service.timeout, headers=self.service.headers, auth=self.service.auth
            )
        return read_png(answer.read(), self.legend_url)

    def map(self, bounds: tuple[float, float, float, float], shape: tuple[int, int]) -> np.ndarray:
        """Map of a rectangle, `(*shape, 4)` uint8.

        Args:
            bounds: West, south, east and north in `crs`.
            shape: Height and width in px.

        Raises:
            ValueError: The service refuses for good (HTTP 401, 403, 404).
            Unavailable: It does not answer, or with something else than this map.
        """
        with _told(self.url):
            answer = self.service.getmap(
                layers=[self.name],
                styles=[self.style],
                srs=self.crs,
                bbox=bounds,
                size=shape[::-1],
                format="image/png",
                transparent=True,
            )
        try:
            picture = read_png(answer.read(), self.url)
        except ValueError as error:
            raise Unavailable(str(error)) from error
        if picture.shape[:2] != shape:
            raise Unavailable(
                f"{self.url}: a map of {picture.shape[1]} x {picture.shape[0]} px, not {shape[1]} x {shape[0]}"
            )
        return picture


def open_layer(url: str, layer: str, style: str = "", version: str = "1.3.0", timeout: float = 60.0) -> MapLayer:
    """Read a service's capabilities.

    Args:
        url: Address of the service.
        layer: Name of the layer.
        style: Its style; empty for the service's choice, whose legend is that of the first style.
        version: `"1.3.0"` or `"1.1.1"`.
        timeout: Seconds to wait for any answer.

    Raises:
        ValueError: OWSLib is missing, no such service, layer or style, or a layer without legend or known system.
        Unavailable: The service does not answer.
    """
    try:
        from owslib.wms import WebMapService
    except ModuleNotFoundError:
        raise ValueError("map services need OWSLib: pip install 'cromss[osm]'") from None

    options = {"timeout": timeout, "headers": {"User-Agent": USER_AGENT}, "auth": _watched()}
    with _told(url):
        service = WebMapService(url, version=version, **options)
    if layer not in service.contents:
        raise ValueError(f"--layer {layer}: {url} has {', '.join(service.contents) or 'no layer'}")
    content = service.contents[layer]
    styles = content.styles
    if style and style not in styles:
        raise ValueError(f"--style {style}: layer {layer} has {', '.join(styles) or 'none with a name'}")
    legend_url = styles.get(style or next(iter(styles), ""), {}).get("legend")
    if not legend_url:
        raise ValueError(f"--layer {layer}: {url} names no picture of its legend")
    crs = next((system for system in SYSTEMS if system in (content.crsOptions or ())), None)
    if crs is None:
        raise ValueError(f"--layer {layer}: {url} has no map of it in {' or '.join(SYSTEMS)}")
    return MapLayer(url, layer, style, crs, urljoin(url, legend_url), _max_shape(service.getServiceXML()), service)


def _max_shape(capabilities: bytes) -> tuple[int, int]:
    """Largest height and width that capabilities name; `MAX_SIDE` where they name none."""
    service = ElementTree.fromstring(capabilities).find("{*}Service")
    texts = [service.findtext(f"{{*}}{name}", "") for name in ("MaxHeight", "MaxWidth")]
    height, width = (int(text) if text.strip().isdecimal() and int(text) > 0 else MAX_SIDE for text in texts)
    return min(height, MAX_SIDE), min(width, MAX_SIDE)


class _Refused(ValueError):
    """An answer that asking again does not change."""


def _watched() -> Any:
    """OWSLib's way to have each answer's HTTP status looked at, which it does not do for all."""
    from owslib.util import Authentication
    from requests.auth import AuthBase

    class Watch(AuthBase):
        def __call__(self, request):
            request.register_hook("response", _check_status)
            return request

    return Authentication(auth_delegate=Watch())


def _check_status(response, **_) -> None:
    status, wait = response.status_code, response.headers.get("Retry-After")
    where = f"{response.url.partition('?')[0]}: HTTP {status} {response.reason or ''}".strip()
    if status >= 500 or status in BUSY:
        response.close()
        raise Unavailable(where, _seconds(wait, response.headers.get("Date")))
    if status in (401, 403, 404, 410):
        response.close()
        raise _Refused(where)


def _seconds(wait: str | None, now: str | None) -> float | None:
    """What a Retry-After header says, as a number or as a time."""
    if not wait:
        return None
    if wait.strip().isdecimal():
        return float(wait)
    try:
        return max((parsedate_to_datetime(wait) - parsedate_to_datetime(now)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Errors of OWSLib and requests, as ours in one line that names the address."""
    from owslib.util import ServiceException
    from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, RequestException

    try:
        yield
    except _Refused:
        raise
    except (MissingSchema, InvalidSchema, InvalidURL) as error:
        raise ValueError(f"--url {url}: no web address") from error
    except ServiceException as error:
        raise Unavailable(f"{url}: the service says: {' '.join(str(error).split())[:300]}") from error
    except RequestException as error:
        raise Unavailable(f"{url}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    except (SyntaxError, AttributeError, TypeError, ValueError, LookupError) as error:  # OWSLib on other documents
        raise Unavailable(f"{url}: the answer is no document of a map service") from error
