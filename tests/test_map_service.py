"""Map services: capabilities, maps in both versions, and whatever goes wrong between here and there."""

import sys

import numpy as np
import pytest
from map_server import COLOURS, EXCEPTION, STYLE, inner, png, serving, world

from cromss import __version__
from cromss.downloads import Unavailable
from cromss.downloads.map_service import MAX_SIDE, open_layer
from cromss.downloads.pictures import codes_of, legend_colours

LAYER = "osmlanduse:osm_lulc"
HTML = (200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><html><body>Back soon<br></body></html>")
XHTML = (200, {"Content-Type": "text/html"}, b"<html><body>Back soon</body></html>")
BOUNDS = (950000.0, 6200000.0, 950640.0, 6200480.0)


@pytest.fixture
def service():
    with serving() as service:
        yield service


@pytest.mark.parametrize("version", ["1.3.0", "1.1.1"])
def test_layer_legend_and_map(service, version):
    layer = open_layer(service.url, LAYER, version=version)
    assert (layer.crs, layer.max_shape) == ("EPSG:3857", (MAX_SIDE, MAX_SIDE))
    np.testing.assert_array_equal(legend_colours(layer.legend(), "here", 13), COLOURS)
    x, y = np.meshgrid(np.arange(950005.0, 950640, 10), np.arange(6200475.0, 6200000, -10))
    np.testing.assert_array_equal(codes_of(layer.map(BOUNDS, (48, 64)), COLOURS), world(x, y))
    assert service.agents == {f"cromss/{__version__}"}


@pytest.mark.parametrize("version", ["1.3.0", "1.1.1"])
def test_degrees_are_sent_in_the_order_of_the_version(service, version):
    service.crs = "EPSG:4326"
    layer = open_layer(service.url, LAYER, version=version)
    assert layer.crs == "EPSG:4326"
    codes = codes_of(layer.map((8.53, 48.1, 8.54, 48.105), (50, 100)), COLOURS)
    longitudes, latitudes = np.meshgrid(np.arange(8.53005, 8.54, 1e-4), np.arange(48.10495, 48.1, -1e-4))
    radius = 6378137.0
    x, y = radius * np.radians(longitudes), radius * np.arctanh(np.sin(np.radians(latitudes)))
    np.testing.assert_array_equal(codes[inner(x, y, 0.1)], world(x, y)[inner(x, y, 0.1)])


def test_limits_of_the_service_are_read(service):
    service.limits = "<MaxWidth>300</MaxWidth><MaxHeight> 200 </MaxHeight>"
    assert open_layer(service.url, LAYER).max_shape == (200, 300)
    service.limits = "<MaxWidth>many</MaxWidth><MaxHeight>999999</MaxHeight>"
    assert open_layer(service.url, LAYER).max_shape == (MAX_SIDE, MAX_SIDE)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ("rivers",), "--layer rivers: http.* has osmlanduse:osm_lulc, roads"),
        ({}, (LAYER, "pastel"), "--style pastel: layer osmlanduse:osm_lulc has default"),
        ({}, ("roads",), "--layer roads: http.* names no picture of its legend"),
        ({"style": ""}, (LAYER,), "--layer osmlanduse:osm_lulc: http.* names no picture of its legend"),
        ({"crs": "EPSG:25832"}, (LAYER,), "has no map of it in EPSG:3857 or EPSG:4326"),
        ({"style": STYLE + STYLE.replace("default", "dark")}, (LAYER, "d"), "has default, dark"),
    ],
)
def test_what_the_service_lacks_is_said(service, changes, arguments, message):
    for name, value in changes.items():
        setattr(service, name, value)
    with pytest.raises(ValueError, match=message):
        open_layer(service.url, *arguments)


@pytest.mark.parametrize("kind", ["capabilities", "legend", "map"])
@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": "12"}, 12.0),
        (500, {}, None),
        (502, {"Retry-After": "soon"}, None),
        (504, {"Date": "Sat, 28 Nov 2026 21:00:00 GMT", "Retry-After": "Sat, 28 Nov 2026 21:01:30 GMT"}, 90.0),
        (507, {}, None),
    ],
)
def test_busy_services_may_be_asked_again(service, kind, status, headers, wait):
    def ask():
        layer = open_layer(service.url, LAYER)
        layer.legend()
        layer.map(BOUNDS, (48, 64))

    service.answers[kind] = [(status, headers, b"later")]
    with pytest.raises(Unavailable, match=f"http.*: HTTP {status}") as error:
        ask()
    if "Date" not in headers:
        assert error.value.wait == wait
    else:
        assert error.value.wait == pytest.approx(wait, abs=1)
    ask()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusals_are_final(service, status):
    service.answers["map"] = [(status, {}, b"<html>no</html>")]
    with pytest.raises(ValueError, match=f"/service: HTTP {status}"):
        open_layer(service.url, LAYER).map(BOUNDS, (48, 64))


@pytest.mark.parametrize(
    "kind", ["text/xml", "application/vnd.ogc.se_xml", "text/xml; charset=utf-8", "application/xml"]
)
@pytest.mark.parametrize("version", ["1.3.0", "1.1.1"])
def test_exceptions_of_the_service_are_passed_on_in_a_line(service, kind, version):
    service.answers["map"] = [(200, {"Content-Type": kind}, EXCEPTION.encode())]
    with pytest.raises(Unavailable, match=r"the service says: the database is asleep|begins with '<.xml") as error:
        open_layer(service.url, LAYER, version=version).map(BOUNDS, (48, 64))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (HTML, "no PNG picture, it begins with '<!DOCTYPE html>"),
        ((200, {"Content-Type": "image/png"}, b""), "no PNG picture"),
        ((200, {"Content-Type": "image/png"}, b"\x89PNG\r\n\x1a\n\0\0"), "cut short"),
        ((200, {"Content-Type": "image/png", "Content-Length": "9999"}, b"\x89PNG"), "http.*: "),
        ((200, {"Content-Type": "text/xml"}, b"<a/>"), "no document of a map service"),
        ((200, {"Content-Type": "text/xml"}, b"<a"), "no document of a map service"),
        ((400, {}, b"bad\nbbox"), "the service says: bad bbox"),
    ],
)
def test_answers_that_are_no_map(service, answer, message):
    service.answers["map"] = [answer]
    with pytest.raises(Unavailable, match=message) as error:
        open_layer(service.url, LAYER).map(BOUNDS, (48, 64))
    assert "\n" not in str(error.value)


def test_maps_of_another_size_are_no_answer(service):
    service.answers["map"] = [(200, {}, png(np.zeros((9, 8, 3), np.uint8)))]
    with pytest.raises(Unavailable, match=r"a map of 8 x 9 px, not 64 x 48"):
        open_layer(service.url, LAYER).map(BOUNDS, (48, 64))


@pytest.mark.parametrize(
    "body", [HTML, XHTML, (200, {}, b""), (200, {}, b"<?xml version='1.0'?><a/>"), (200, {}, b"\xff\xfe")]
)
@pytest.mark.parametrize("version", ["1.3.0", "1.1.1"])
def test_documents_that_are_no_capabilities(service, body, version):
    service.answers["capabilities"] = [body]
    with pytest.raises(Unavailable, match=r"http.*: the answer is no document of a map service") as error:
        open_layer(service.url, LAYER, version=version)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["nowhere", "ftp://127.0.0.1/x", "http://"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match="no web address") as error:
        open_layer(url, LAYER)
    assert str(error.value).startswith(f"--url {url}:")


def test_nobody_listens_or_answers_in_time(service):
    with pytest.raises(Unavailable, match=r"http://127.0.0.1:9: ConnectionError"):
        open_layer("http://127.0.0.1:9", LAYER)
    service.answers["capabilities"] = [(200, {"Content-Length": "99"}, b"<?xml")]
    with pytest.raises(Unavailable, match=service.url):
        open_layer(service.url, LAYER, timeout=0.2)


def test_without_owslib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "owslib.wms", None)
    with pytest.raises(ValueError, match=r"map services need OWSLib: pip install 'cromss\[osm\]'"):
        open_layer("http://127.0.0.1:9", LAYER)
