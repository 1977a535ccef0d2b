"""Maps as cloud-optimised GeoTIFFs: tiled, compressed, with overviews, colours and class names."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter

from cromss.legends import IGNORE_INDEX, Legend
from cromss.scenes import Grid
from cromss.store.folder import lock_file

_BLOCK = 512


@dataclass(frozen=True)
class Product:
    """One file to write.

    Attributes:
        flag: Flag that told it.
        path: The file.
        bands: Which bands of the rows it takes.
        names: Names of these bands.
        legend: Classes, of a map of class ids; `None` of percentages.
    """

    flag: str
    path: Path
    bands: slice
    names: Sequence[str]
    legend: Legend | None = None

    def check_target(self) -> None:
        """Make its folder and see that it can be written, before any work.

        Raises:
            ValueError: It cannot.
        """
        probe = self.path.with_name(f".{self.path.name}.probe")
        try:
            if self.path.is_dir():
                raise OSError("is a folder")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"--{self.flag} {self.path}: cannot be written ({reason}); choose another place") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing it.

        Raises:
            ValueError: One is writing it.
        """
        path = self.path.with_name(f".{self.path.name}.lock")
        with lock_file(path, f"--{self.flag} {self.path}"):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)


def write_product(product: Product, grid: Grid, blocks: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write a file whole or not at all.

    Args:
        product: Which file.
        grid: Where its pixels lie.
        blocks: First row and pixels `(bands, rows, W)` of all rows, top to bottom.
    """
    path = product.path
    plain, optimised = (path.with_name(f".{path.name}.{end}.tif") for end in ("plain", "cog"))
    try:
        _write(plain, grid, len(product.names), blocks, lambda dataset: _describe(dataset, product))
        rasterio.shutil.copy(
            plain,
            optimised,
            driver="COG",
            compress="DEFLATE",
            blocksize=_BLOCK,
            overview_resampling="MODE" if product.legend else "AVERAGE",
            bigtiff="IF_SAFER",
            num_threads=1,  # bytes do not depend on --workers
        )
        optimised.replace(path)
    except RasterioError as error:
        raise ValueError(f"--{product.flag} {path}: cannot be written ({error})") from None
    finally:
        for temporary in (plain, optimised):
            temporary.unlink(missing_ok=True)
    if product.legend:
        path.with_name(f"{path.name}.aux.xml").write_text(_category_names(product.legend), encoding="utf-8")


def _write(
    path: Path,
    grid: Grid,
    count: int,
    blocks: Iterable[tuple[int, np.ndarray]],
    describe: Callable[[DatasetWriter], None],
) -> None:
    height, width = grid.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint8"}
    profile |= {"crs": grid.crs, "transform": grid.transform, "nodata": IGNORE_INDEX}
    profile |= {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate"}
    with rasterio.open(path, "w", BIGTIFF="IF_SAFER", **profile) as dataset:
        describe(dataset)
        for row, pixels in blocks:
            dataset.write(pixels, window=((row, row + pixels.shape[1]), (0, width)))


def _describe(dataset: DatasetWriter, product: Product) -> None:
    for band, name in enumerate(product.names, 1):
        dataset.set_band_description(band, name)
    if product.legend:
        palette = product.legend.palette()
        dataset.write_colormap(1, {i: (*map(int, palette[i]), 255) for i in range(product.legend.num_classes)})
        dataset.update_tags(1, **{f"class_{i}": name for i, name in enumerate(product.legend.classes)})
    else:
        dataset.update_tags(unit="percent")


def _category_names(legend: Legend) -> str:
    """Class names as GDAL keeps them beside a GeoTIFF, for the legend of a GIS."""
    names = "".join(f"      <Category>{escape(name)}</Category>\n" for name in legend.classes)
    band = f'  <PAMRasterBand band="1">\n    <CategoryNames>\n{names}    </CategoryNames>\n  </PAMRasterBand>\n'
    return f"<PAMDataset>\n{band}</PAMDataset>\n"
