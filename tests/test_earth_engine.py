"""The adapter to Earth Engine, against a stand-in of its package: no request leaves the machine."""

import io
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from cromss.downloads import Unavailable
from cromss.downloads.earth_engine import HIGH_VOLUME, QUOTA_WAIT, EarthEngine, told
from cromss.downloads.places import Place, patch_grid
from cromss.downloads.season_scenes import PRODUCTS

GRID = patch_grid(Place("p", 11.5, 48.1), 4)
SPAN = (datetime(2020, 5, 22, tzinfo=UTC), datetime(2020, 7, 22, tzinfo=UTC))


class Image:
    """An expression that remembers its steps."""

    def __init__(self, name, steps=()):
        self.name, self.steps = name, steps

    def __getattr__(self, step):
        return lambda *values: Image(self.name, (*self.steps, (step, *values)))


class Package:
    """What the adapter uses of `ee`; `answer` is given or raised by every request."""

    def __init__(self, answer=None):
        self.answer, self.asked, self.data, self.Image = answer, [], self, Image

    def Initialize(self, **options):
        self.asked.append(options)
        if isinstance(self.answer, Exception):
            raise self.answer

    def setMaxRetries(self, count):
        self.asked.append(("retries", count))

    def setDeadline(self, milliseconds):
        self.asked.append(("deadline", milliseconds))

    def listImages(self, params):
        return self._answered(params)

    def computePixels(self, params):
        return self._answered(params)

    def _answered(self, params):
        self.asked.append(params)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def engine(monkeypatch):
    package = Package()
    monkeypatch.setitem(sys.modules, "ee", package)
    engine = EarthEngine("my-project")
    assert package.asked == [{"project": "my-project", "url": HIGH_VOLUME}, ("retries", 0), ("deadline", 120000.0)]
    package.asked.clear()
    engine.package = package
    return engine


def npy(product, dtype=None):
    table = np.zeros((4, 4), [(band, dtype or product.dtype) for band in reversed(product.bands)])
    for number, band in enumerate(product.bands):
        table[band] = number
    return saved(table)


def saved(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def refused(status, message, **headers):
    """An error as the package raises it: without the status, for one that has it."""
    error = RuntimeError(message)
    error.__context__ = RuntimeError("http")
    error.__context__.resp = {"status": str(status), **headers}
    return error


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ee", None)
    with pytest.raises(ValueError, match=r"pip install 'cromss\[earth-engine\]'"):
        EarthEngine()


@pytest.mark.parametrize("message", ["Please authorize access\n\nearthengine authenticate", "no project found", ""])
def test_missing_credentials_say_what_to_do(monkeypatch, message):
    monkeypatch.setitem(sys.modules, "ee", Package(RuntimeError(message)))
    with pytest.raises(ValueError, match="run `earthengine authenticate` once, and say --project") as error:
        EarthEngine()
    assert "\n" not in str(error.value)


def test_scenes_become_records(engine):
    name = "projects/earthengine-public/assets/COPERNICUS/S2_HARMONIZED/20200620T100000_20200620T100500_T32UPU"
    image = {"name": name, "startTime": "2020-06-20T10:05:00.123Z", "properties": {"CLOUDY_PIXEL_PERCENTAGE": 3.5}}
    engine.package.answer = {"images": [image]}
    (scene,) = engine.scenes("COPERNICUS/S2_HARMONIZED", 11.5, 48.1, *SPAN)
    assert (scene.name, scene.cloud) == ("20200620T100000_20200620T100500_T32UPU", 3.5)
    assert scene.start == datetime(2020, 6, 20, 10, 5, 0, 123000, UTC)
    (asked,) = engine.package.asked
    assert asked == {
        "parent": "COPERNICUS/S2_HARMONIZED",
        "startTime": "2020-05-22T00:00:00Z",
        "filter": 'startTime < "2020-07-22T00:00:00Z"',
        "region": {"type": "Point", "coordinates": [11.5, 48.1]},
    }


@pytest.mark.parametrize(
    "image", [{}, {"name": "a"}, {"name": "a", "startTime": "noon"}, {"name": "a", "startTime": 3}]
)
def test_scenes_without_name_or_time_are_refused(engine, image):
    engine.package.answer = {"images": [image]}
    with pytest.raises(ValueError, match="without name or startTime"):
        engine.scenes("COPERNICUS/S1_GRD", 0, 0, *SPAN)


@pytest.mark.parametrize("modality", PRODUCTS)
def test_pixels_come_in_the_order_of_the_bands(engine, modality):
    product = PRODUCTS[modality]
    engine.package.answer = npy(product)
    pixels = engine.pixels(product, "scene", GRID)
    assert (pixels.shape, pixels.dtype) == ((len(product.bands), 4, 4), product.dtype)
    assert pixels[:, 2, 3].tolist() == list(range(len(product.bands)))
    (asked,) = engine.package.asked
    assert asked["fileFormat"] == "NPY"
    assert asked["grid"] == {
        "dimensions": {"width": 4, "height": 4},
        "affineTransform": {
            **{"scaleX": 10, "shearX": 0, "translateX": GRID.transform.c},
            **{"shearY": 0, "scaleY": -10, "translateY": GRID.transform.f},
        },
        "crsCode": "EPSG:32632",
    }


def test_images_are_resampled_and_labels_are_not(engine):
    steps = {}
    for modality, product in PRODUCTS.items():
        engine.package.answer = npy(product)
        engine.pixels(product, "scene", GRID)
        expression = engine.package.asked[-1]["expression"]
        assert expression.name == f"{product.collection}/scene"
        steps[modality] = expression.steps
    assert steps["labels"] == (("select", ["label"]), ("unmask", 255, False), ("toUint8",))
    resampled = ("resample", "bicubic")
    assert steps["s1"] == (("select", ["VV", "VH"]), resampled, ("unmask", -9999.0, False), ("toFloat",))
    rounded = (("clamp", 0, 65534), ("round",), ("unmask", 65535, False), ("toUint16",))
    assert steps["s2"] == (("select", list(PRODUCTS["s2"].bands)), resampled, *rounded)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>gateway</html>",
        npy(PRODUCTS["s1"])[:-8],
        saved(np.zeros((4, 4), np.float32)),
        npy(PRODUCTS["labels"]),
        saved(np.array([[{}]], dtype=object)),
    ],
    ids=["empty", "page", "cut short", "plain", "other bands", "pickled"],
)
def test_answers_that_are_no_pixels_are_asked_for_again(engine, content):
    engine.package.answer = content
    with pytest.raises(Unavailable, match="COPERNICUS/S1_GRD/scene: the pixels came cut short"):
        engine.pixels(PRODUCTS["s1"], "scene", GRID)


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (refused(429, "Too Many Requests"), QUOTA_WAIT),
        (refused(429, "slow down", **{"retry-after": "7"}), 7),
        (refused(429, "slow down", **{"retry-after": "99999"}), 300),
        (refused(429, "slow down", **{"retry-after": "Wed, 21 Oct"}), QUOTA_WAIT),
        (RuntimeError("Too many concurrent aggregations."), QUOTA_WAIT),
        (refused(403, "Quota exceeded for quota metric"), QUOTA_WAIT),
        (refused(500, "x"), None),
        (refused(503, "x"), None),
        (refused(400, "Computation timed out."), None),
        (RuntimeError("An internal error has occurred"), None),
        (TimeoutError("read timed out"), None),
        (ConnectionError("reset by peer"), None),
        (type("TransportError", (Exception,), {})("no route"), None),
    ],
)
def test_what_may_pass_is_asked_for_again(engine, error, wait):
    engine.package.answer = error
    with pytest.raises(Unavailable) as raised:
        engine.scenes("COPERNICUS/S1_GRD", 0, 0, *SPAN)
    assert raised.value.wait == wait


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(400, "User memory limit exceeded."), "a smaller --size asks for less at once"),
        (refused(400, "Total request size (60 bytes) must be less"), "a smaller --size"),
        (refused(401, "who?"), "earthengine authenticate"),
        (refused(403, "no permission\nto use project x"), "no permission to use project x; run .*--project"),
        (type("RefreshError", (Exception,), {})("expired"), "earthengine authenticate"),
        (refused(404, "not found"), "Earth Engine refused scene: not found"),
        (RuntimeError(), "Earth Engine refused scene: RuntimeError"),
    ],
)
def test_what_will_not_pass_is_one_line(error, message):
    answer = told(error, "scene")
    assert isinstance(answer, ValueError)
    with pytest.raises(ValueError, match=message) as raised:
        raise answer
    assert "\n" not in str(raised.value)


def test_the_status_of_an_error_itself_counts():
    error = RuntimeError("x")
    error.resp = SimpleNamespace(get=lambda key, default=None: {"status": 502}.get(key, default))
    assert isinstance(told(error, "scene"), Unavailable)
