"""The map of a scene: tiles through the network, blended row by row, kept as they come, written at the end."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import nn

from cromss import __version__
from cromss.disk_space import check_space
from cromss.gpus import enough_gpu_memory
from cromss.legends import IGNORE_INDEX
from cromss.mapping.blending import Side
from cromss.mapping.feeding import open_feed
from cromss.mapping.geotiff import Product, write_product
from cromss.mapping.partial import PartialMap
from cromss.mapping.predictor import Predictor, open_predictor
from cromss.mapping.scene import Scene
from cromss.mapping.tile_run import TileRun
from cromss.settings.common import require
from cromss.training.common import device_of

RASTER_CACHE = 200_000_000
"""Bytes of decoded rasters that are kept; by default it would be a share of the machine's memory."""


@dataclass(frozen=True)
class MapReport:
    """What became of a scene.

    Attributes:
        path: The map.
        shares: Class -> its share of the pixels with data, in [0, 1].
        without_data: Share of the pixels of the scene without data.
        pixels: Pixels mapped now, without those that an earlier call had done.
        seconds: Time that they took, reading and blending included.
        network_seconds: Time of the network alone, transfers included.
    """

    path: Path
    shares: dict[str, float]
    without_data: float
    pixels: int
    seconds: float
    network_seconds: float


@enough_gpu_memory("lower --batch_size or --tile_size, or say --accelerator cpu")
def predict_map(
    model: Predictor | str | Path,
    rasters: Mapping[str, str | Path],
    out: str | Path,
    *,
    confidence: str | Path = "",
    probabilities: str | Path = "",
    tile_size: int = 640,
    overlap: int = 192,
    batch_size: int = 1,
    workers: int = 2,
    s2_offset: int | None = None,
    accelerator: str = "auto",
) -> MapReport:
    """Map the land cover of a scene of any size; what was killed goes on where it stopped.

    Memory grows with the width of the scene, whatever its height. The map has the grid of Sentinel-2's finest bands,
    of radar alone that of Sentinel-1. Tiles begin at multiples of what the encoder divides, are normalised as in the
    evaluation of the training, and blended in their overlaps. Pixels without data in any band of any image are 255.

    Args:
        model: Run folder or checkpoint of pretraining or transfer, or one opened by `open_predictor`.
        rasters: Modality (`"s1"`, `"s2"`) -> a multi-band raster with named bands or all in the sensor's order, or a
            folder of a file for each band, or a `.SAFE` folder or zip of Sentinel-2. Of a pretrained twin, one or both.
        out: The map, a cloud-optimised GeoTIFF of class ids with colours; `<out>.aux.xml` holds the class names.
        confidence: GeoTIFF of the probability of the mapped class in percent; empty for none.
        probabilities: GeoTIFF of the probabilities of all classes in percent; empty for none.
        tile_size: Side of the tiles in pixels.
        overlap: Pixels that neighbouring tiles have in common, at least; see `Side` for how they are blended.
        batch_size: Tiles a step.
        workers: Threads that read and prepare tiles ahead of the network; the map is the same for any number.
        s2_offset: DN offset of Sentinel-2, 0 or 1000; `None` to go by metadata and pixels.
        accelerator: `auto`, `cpu` or `gpu`.

    Raises:
        ValueError: The checkpoint, a raster or a target cannot be used, another process writes the map, or no pixel
            has data; one line that says which and why.
    """
    device = device_of(accelerator)
    given = {name: Path(path) for name, path in rasters.items() if str(path)}
    predictor = model if isinstance(model, Predictor) else open_predictor(str(model))
    predictor = predictor.fed_with(given)
    least = overlap + predictor.stride
    require(tile_size >= least, "tile_size", tile_size, f"at least {least}: --overlap and what the encoder divides")
    products = _products(predictor, Path(out), str(confidence), str(probabilities))
    for product in products:
        product.check_target()
    with (
        ExitStack() as locks,
        rasterio.Env(GDAL_CACHEMAX=RASTER_CACHE, GDAL_NUM_THREADS=workers),
        Scene(given, predictor.bands, predictor.sensors) as scene,
    ):
        _refuse_overwriting(products, scene.files)
        for product in products:
            locks.enter_context(product.locked())
        height, width = scene.grid.shape
        rows, columns = (Side(side, tile_size, overlap, predictor.stride) for side in (height, width))
        num_bands = products[-1].bands.stop
        check_space(Path(out), 2 * num_bands * height * width, "a smaller scene")
        partial = PartialMap(Path(out), num_bands, width)
        feed = open_feed(scene, predictor, s2_offset)
        settings = {"tile_size": tile_size, "overlap": overlap, "batch_size": batch_size, "device": device.type}
        settings |= {"s2_offset": feed.offset, "products": [product.flag for product in products]}
        ends = [rows.final_before(index) for index in range(len(rows.spans))]
        done = partial.open(_made_of(predictor, scene, settings), ends)
        if done:
            print(f"{partial.path}: {done} of {height} rows are done")
        run = TileRun(feed, rows, columns, batch_size, workers, device)
        start = time.monotonic()
        for canvas_rows, valid in run.finished_rows(done):
            partial.append(_encoded(canvas_rows, valid, products))
        seconds = time.monotonic() - start
        counts = _class_counts(partial, len(predictor.legend.classes))
        if counts.any():
            _write_products(products, scene, partial)
        partial.remove()
    if not counts.any():
        told = " and ".join(image.name for image in scene.images.values())
        raise ValueError(f"{told}: no pixel has data in both; give scenes that overlap")
    total, with_data = height * width, counts.sum()
    shares = dict(zip(predictor.legend.classes, (counts / with_data).tolist()))
    return MapReport(
        Path(out), shares, float(1 - with_data / total), (height - done) * width, seconds, run.network_seconds
    )


def _products(predictor: Predictor, out: Path, confidence: str, probabilities: str) -> list[Product]:
    """Files to write, with the bands of the rows that each takes."""
    legend = predictor.legend
    products = [Product("out", out, slice(0, 1), ["land cover"], legend)]
    if confidence:
        products.append(Product("confidence", Path(confidence), slice(1, 2), ["confidence"]))
    if probabilities:
        first = products[-1].bands.stop
        bands = slice(first, first + legend.num_classes)
        products.append(Product("probabilities", Path(probabilities), bands, legend.classes))
    return products


def _refuse_overwriting(products: Sequence[Product], files: Sequence[Path]) -> None:
    taken = {path.resolve() for path in files}
    for product in products:
        if product.path.resolve() in taken:
            raise ValueError(
                f"--{product.flag} {product.path}: is a raster of the scene, or another output; choose another"
            )
        taken.add(product.path.resolve())


def _made_of(predictor: Predictor, scene: Scene, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a map follows from; of files aside of a raster, what they tell."""
    files = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in scene.files}
    fed = {name: [*predictor.bands[name], predictor.normalizations[name]] for name in predictor.bands}
    told = {name: [part.told for part in image.source.parts] for name, image in scene.images.items()}
    weights = _checksum(predictor.network)
    return {"cromss": __version__, "weights": weights, "fed": fed, "rasters": files, "told": told, **settings}


def _checksum(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _encoded(probabilities: np.ndarray, valid: np.ndarray, products: Sequence[Product]) -> np.ndarray:
    """Probabilities `(K, rows, W)` as the uint8 rows `(rows, bands, W)` of the products, 255 without data."""
    bands = []
    for product in products:
        if product.legend:
            bands.append(_classes(probabilities)[None])
        else:
            shown = probabilities if product.flag == "probabilities" else probabilities.max(0)[None]
            bands += [np.rint(100 * band).astype(np.uint8)[None] for band in shown]
    stacked = np.concatenate([band.astype(np.uint8, copy=False) for band in bands])
    return np.where(valid, stacked, np.uint8(IGNORE_INDEX)).swapaxes(0, 1)


def _classes(probabilities: np.ndarray) -> np.ndarray:
    """Most probable class `(rows, W)` uint8; row by row, for `argmax` copies what it looks at."""
    return np.stack([row.argmax(0).astype(np.uint8) for row in probabilities.swapaxes(0, 1)])


def _class_counts(partial: PartialMap, num_classes: int) -> np.ndarray:
    """Number of pixels of each class, `(K,)`."""
    counts = np.zeros(256, np.int64)
    for _, pixels in partial.blocks():
        counts += np.bincount(pixels[0].ravel(), minlength=256)
    return counts[:num_classes]


def _write_products(products: Sequence[Product], scene: Scene, partial: PartialMap) -> None:
    for product in products:
        write_product(product, scene.grid, ((row, pixels[product.bands]) for row, pixels in partial.blocks()))
