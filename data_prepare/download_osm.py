"""Download land use of osmlanduse.org on the grids of given images, as labels in the layout of SSL4EO-S12@OSM.

python data_prepare/download_osm.py --like 'SSL4EO-S12@DW/dw_train/image_s2/*.tif' --out SSL4EO-S12@OSM/osm_train
python data_prepare/download_osm.py --like 's2/*.tif' --out own --dry_run

From `s2_<rest>.tif` comes `<out>/label_osm/osm_<rest>.tif`: uint8 on the grid of the image, 0 unlabelled, 1..13 the
classes, in the order of the service's own legend. Where classes meet, the map's mixed colours stay unlabelled. The same
command goes on where it stopped. Wants `pip install 'cromss[osm]'`.
"""

import glob
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rasterio.errors import NotGeoreferencedWarning

from cromss.config import run
from cromss.downloads import FileMark, Unavailable, download
from cromss.downloads.land_use import Extraction, blocks, reference_grid, write_codes
from cromss.downloads.map_service import MapLayer, open_layer
from cromss.downloads.pictures import legend_colours
from cromss.downloads.retries import with_retries
from cromss.layouts import check_out
from cromss.legends import OSM
from cromss.scenes import Grid
from cromss.settings.common import require

FOLDER = "label_osm"

Result = TypeVar("Result")


@dataclass(frozen=True)
class OsmDownload:
    """Which land use to download, and where to."""

    like: str
    """GeoTIFFs of the wanted grids, as 'osm_train/image_s2/*.tif'; any CRS, north up."""
    out: Path
    """Folder for label_osm/ and the account of the download."""
    url: str = "https://maps.heigit.org/osmlanduse/service"
    """Web map service."""
    layer: str = "osmlanduse:osm_lulc"
    """Its layer."""
    style: str = ""
    """Style of the layer; empty for the service's choice."""
    version: Literal["1.3.0", "1.1.1"] = "1.3.0"
    """Version of the protocol."""
    oversample: int = 2
    """Pixels of the map along a pixel of the image."""
    margin: int = 8
    """Pixels of the image that the map reaches beyond it."""
    min_patch: int = 4
    """Patches of less area than so many pixels of the image are given to their largest neighbour; 0 keeps all."""
    min_labelled: float = 0.1
    """Images of which less than this share is labelled are skipped."""
    timeout: float = 60.0
    """Seconds to wait for an answer."""
    attempts: int = 5
    """Tries of a request."""
    pause: float = 2.0
    """Seconds before the second try; they double with each."""
    workers: int = 4
    """Requests at a time."""
    retry_skipped: bool = False
    """Ask again for images that an earlier run skipped."""
    limit: int | None = None
    """Only the first images."""
    dry_run: bool = False
    """Only read images, capabilities and legend, and count the requests."""

    def __post_init__(self) -> None:
        for name in ("attempts", "workers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(1 <= self.oversample <= 8, "oversample", self.oversample, "1 to 8")
        require(0 <= self.margin <= 256, "margin", self.margin, "0 to 256")
        require(0 <= self.min_patch <= 10**6, "min_patch", self.min_patch, "0 to 1000000")
        require(0 <= self.min_labelled <= 1, "min_labelled", self.min_labelled, "a share in 0 to 1")
        require(0 < self.timeout < 1e4, "timeout", self.timeout, "over 0 and under 10000 seconds")
        require(0 <= self.pause < 1e4, "pause", self.pause, "at least 0 and under 10000 seconds")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1")

    @property
    def rules(self) -> dict[str, Any]:
        """Arguments of `Extraction` beside layer and colours."""
        return {name: getattr(self, name) for name in ("oversample", "margin", "min_patch", "min_labelled")}


def main(settings: OsmDownload) -> int:
    """Read grids, capabilities and legend, then fetch what is not there yet; 1 if any of it failed."""
    check_out(settings.out)
    grids = read_grids(settings.like, settings.limit)
    layer = asked(
        settings,
        lambda: open_layer(settings.url, settings.layer, settings.style, settings.version, settings.timeout),
    )
    colours = legend_colours(asked(settings, layer.legend), layer.legend_url, OSM.num_classes)
    extraction = Extraction(layer, colours, **settings.rules)
    num_requests = count_requests(extraction, grids)
    if settings.dry_run:
        print(expected(settings, layer, grids, num_requests))
        return 0

    def fetch(item: tuple[str, Grid]) -> list[FileMark]:
        name, grid = item
        codes = extraction.fetch(grid)
        source = f"{settings.url} {settings.layer}"
        return [write_codes(settings.out / FOLDER / name, settings.out, codes, grid, source)]

    options = {name: getattr(settings, name) for name in ("workers", "attempts", "pause", "retry_skipped")}
    items = {name: (name, grid) for name, grid in grids.items()}
    summary = download(items, fetch, settings.out, described(settings, layer, colours.tolist()), **options)
    print(summary)
    return int(bool(summary.failed))


def read_grids(pattern: str, limit: int | None) -> dict[str, Grid]:
    """Name of each label file -> the grid that it is wanted on.

    Raises:
        ValueError: No file, an unfit one, one outside the service's system, or two of one name.
    """
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))][:limit]
    if not paths:
        raise ValueError(f"--like {pattern}: no such file; quote the pattern")
    sources: dict[str, Path] = {}
    for path in paths:
        name = label_name(path)
        if sources.setdefault(name, path) != path:
            raise ValueError(f"--like {pattern}: {sources[name]} and {path} would both be {name}")
    return {name: reference_grid(path) for name, path in sources.items()}


def label_name(path: Path) -> str:
    """`osm_<rest>.tif` for `s1_<rest>.tif`, `s2_<rest>.tif` and `<rest>.tif`."""
    return f"osm_{re.sub('^(s1|s2)_', '', path.stem)}.tif"


def asked(settings: OsmDownload, call: Callable[[], Result]) -> Result:
    """What the service answers; ValueError once it does not after all attempts."""
    try:
        return with_retries(call, settings.attempts, settings.pause)
    except Unavailable as error:
        raise ValueError(str(error)) from error


def described(settings: OsmDownload, layer: MapLayer, colours: list[list[int]]) -> Mapping[str, Any]:
    """What makes it another download."""
    told = {name: getattr(settings, name) for name in ("url", "layer", "style")}
    return {"kind": "land use"} | told | {"crs": layer.crs, "colours": colours} | settings.rules


def count_requests(extraction: Extraction, grids: Mapping[str, Grid]) -> int:
    """Number of maps to ask for; ValueError names the image that none covers."""
    count = 0
    for name, grid in grids.items():
        try:
            window = extraction.window(grid)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        count += len(list(blocks(window.shape, extraction.layer.max_shape)))
    return count


def expected(settings: OsmDownload, layer: MapLayer, grids: Mapping[str, Grid], num_requests: int) -> str:
    """What a download would ask for."""
    there = sum((settings.out / FOLDER / name).is_file() for name in grids)
    num_bytes = sum(grid.shape[0] * grid.shape[1] for grid in grids.values())
    return (
        f"{len(grids)} images, {there} with labels in {settings.out / FOLDER}; {num_requests} requests for all, "
        f"at most {num_bytes / 1e6:.1f} MB; legend of {OSM.num_classes} classes in {layer.legend_url}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    run(main, OsmDownload)
