"""A web map service on the loopback interface, with a world of land use that any place can be looked up in."""

import threading
import zlib
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from rasterio.warp import transform

COLOURS = np.array(
    [
        *((230, 0, 77), (255, 255, 168), (77, 255, 0), (204, 77, 242), (255, 166, 255), (166, 0, 204), (230, 230, 77)),
        *((230, 128, 0), (0, 204, 242), (230, 230, 230), (204, 242, 77), (166, 166, 255), (230, 230, 255)),
    ],
    np.uint8,
)
"""The land cover colours of CORINE, one a class."""

CELL = 200.0
"""Side of a field of one class, in metres of EPSG:3857."""

CAPABILITIES = {
    "1.3.0": """<?xml version="1.0"?>
<WMS_Capabilities version="1.3.0" xmlns="http://www.opengis.net/wms" xmlns:xlink="http://www.w3.org/1999/xlink">
<Service><Name>WMS</Name><Title>land use</Title><OnlineResource xlink:href="{url}"/>{limits}</Service>
<Capability><Request>
<GetCapabilities><Format>text/xml</Format><DCPType><HTTP><Get><OnlineResource xlink:href="{url}"/></Get></HTTP>
</DCPType></GetCapabilities>
<GetMap><Format>image/png</Format><DCPType><HTTP><Get><OnlineResource xlink:href="{url}"/></Get></HTTP></DCPType>
</GetMap></Request><Exception><Format>XML</Format></Exception>
<Layer><Title>all</Title><CRS>{crs}</CRS><Layer queryable="1"><Name>osmlanduse:osm_lulc</Name><Title>OSM</Title>
{style}</Layer><Layer><Name>roads</Name><Title>Roads</Title></Layer></Layer></Capability></WMS_Capabilities>""",
    "1.1.1": """<?xml version="1.0"?>
<WMT_MS_Capabilities version="1.1.1" xmlns:xlink="http://www.w3.org/1999/xlink">
<Service><Name>WMS</Name><Title>land use</Title><OnlineResource xlink:href="{url}"/></Service>
<Capability><Request>
<GetCapabilities><Format>text/xml</Format><DCPType><HTTP><Get><OnlineResource xlink:href="{url}"/></Get></HTTP>
</DCPType></GetCapabilities>
<GetMap><Format>image/png</Format><DCPType><HTTP><Get><OnlineResource xlink:href="{url}"/></Get></HTTP></DCPType>
</GetMap></Request><Exception><Format>application/vnd.ogc.se_xml</Format></Exception>
<Layer><Title>all</Title><SRS>{crs}</SRS><Layer queryable="1"><Name>osmlanduse:osm_lulc</Name><Title>OSM</Title>
{style}</Layer><Layer><Name>roads</Name><Title>Roads</Title></Layer></Layer></Capability></WMT_MS_Capabilities>""",
}
STYLE = """<Style><Name>default</Name><Title>default</Title><LegendURL width="20" height="20">
<Format>image/png</Format><OnlineResource xlink:type="simple" xlink:href="/legend.png"/></LegendURL></Style>"""
EXCEPTION = """<?xml version="1.0"?><ServiceExceptionReport version="1.3.0" xmlns="http://www.opengis.net/ogc">
<ServiceException code="NoApplicableCode">the database
 is asleep</ServiceException></ServiceExceptionReport>"""


def png(pixels, bits=8):
    """`(H, W, 3 or 4)` uint8 -> a PNG, by the standard alone; its header may tell other bits."""
    height, width, channels = pixels.shape
    header = b"".join(n.to_bytes(4, "big") for n in (width, height)) + bytes([bits, {3: 2, 4: 6}[channels], 0, 0, 0])
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )


def legend(colours=COLOURS, gap=6, background=(255, 255, 255, 255)):
    """A column of framed swatches with thin lines beside them, as letters are."""
    picture = np.full((10 + len(colours) * (14 + gap), 120, 4), background, np.uint8)
    for number, colour in enumerate(colours):
        top = 5 + number * (14 + gap)
        picture[top : top + 14, 5:25] = (0, 0, 0, 255)
        picture[top + 1 : top + 13, 6:24, :3] = colour
        picture[top + 3 : top + 11, 32:100:4] = (20, 20, 20, 255)
        picture[top + 5, 32:100] = (20, 20, 20, 255)
    return picture


def world(x, y):
    """Codes at places of EPSG:3857: square fields of 1..13, and of 0 in one of 14."""
    column, row = np.floor(np.asarray(x) / CELL).astype(int), np.floor(np.asarray(y) / CELL).astype(int)
    return ((column * 5 + row * 3) % 14).astype(np.uint8)


def inner(x, y, border):
    """Places that are farther than `border` metres from any edge of a field."""
    within = [np.abs((np.asarray(v) / CELL) % 1 - 0.5) * CELL < CELL / 2 - border for v in (x, y)]
    return within[0] & within[1]


class MapServer:
    """What the service does; tests change its attributes.

    Attributes:
        answers: Answers `(status, headers, body)` that come first, by kind of request, the next at the end.
        seen: Number of requests of each kind.
        agents: User agents seen.
        sizes: Width and height of the maps asked for.
    """

    def __init__(self, url):
        self.url, self.crs, self.limits, self.style = url, "EPSG:3857", "", STYLE
        self.legend, self.answers = png(legend()), {"capabilities": [], "legend": [], "map": []}
        self.seen, self.agents, self.sizes, self.blend = Counter(), set(), [], False

    def answer(self, path, query):
        """Status, headers and body of an answer."""
        kind = "legend" if path == "/legend.png" else query["request"].removeprefix("Get").lower()
        self.seen[kind] += 1
        if self.answers[kind]:
            return self.answers[kind].pop()
        if kind == "legend":
            return 200, {"Content-Type": "image/png"}, self.legend
        if kind == "capabilities":
            fields = {"url": self.url, "limits": self.limits, "crs": self.crs, "style": self.style}
            return 200, {"Content-Type": "text/xml"}, CAPABILITIES[query["version"]].format(**fields).encode()
        return 200, {"Content-Type": "image/png"}, png(self.map(query))

    def map(self, query):
        """The world in a rectangle; its edges as version and system order them."""
        width, height = int(query["width"]), int(query["height"])
        self.sizes.append((width, height))
        system = query["crs" if query["version"] == "1.3.0" else "srs"]
        assert system == self.crs
        west, south, east, north = map(float, query["bbox"].split(","))
        if query["version"] == "1.3.0" and system == "EPSG:4326":
            south, west, north, east = west, south, east, north
        x = west + (np.arange(width) + 0.5) * (east - west) / width
        y = north - (np.arange(height) + 0.5) * (north - south) / height
        x, y = np.meshgrid(x, y)
        if system != "EPSG:3857":
            x, y = (np.reshape(v, x.shape) for v in transform(system, "EPSG:3857", x.ravel(), y.ravel()))
        codes = world(x, y)
        picture = np.concatenate([np.zeros((1, 4), np.uint8), np.insert(COLOURS, 3, 255, axis=1)])[codes]
        if self.blend:
            picture = _blended(picture)
        return picture


def _blended(picture):
    """Pixels at the left of an edge become the mean of both sides, as a renderer that smooths edges has it."""
    left, right = picture[:, :-1].astype(int), picture[:, 1:].astype(int)
    picture[:, :-1] = (left + right) // 2
    return picture


@contextmanager
def serving():
    """Yield a running service."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {key.lower(): values[0] for key, values in parse_qs(parts.query).items()}
            service.agents.add(self.headers["User-Agent"])
            status, headers, body = service.answer(parts.path, query)
            self.send_response_only(status)
            for key, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = MapServer(f"http://127.0.0.1:{server.server_port}/service")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
