"""The tiles of a scene through the network, and the rows that become final."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby

import numpy as np
import torch
from tqdm import tqdm

from cromss.batch_transforms import as_unit
from cromss.mapping.blending import Canvas, Side
from cromss.mapping.feeding import Feed
from cromss.work_ahead import work_ahead


class TileRun:
    """Rows of tiles, one after the other; the next ones are read while the network works.

    Attributes:
        network_seconds: Time that the network has taken, transfers included.
    """

    def __init__(self, feed: Feed, rows: Side, columns: Side, batch_size: int, device: torch.device) -> None:
        self._feed, self._rows, self._columns = feed, rows, columns
        self._batch_size, self._device = batch_size, device
        self.network_seconds = 0.0
        feed.predictor.network.to(device)

    def finished_rows(self, done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Probabilities `(K, rows, W)` and pixels with data `(rows, W)`, as rows become final.

        Args:
            done: Rows that are not wanted any more, one of the ends of `Side.final_before`. Tiles that reach beyond
                them are computed again, so that the rows that follow are the same as in a single run.
        """
        spans, width = self._rows.spans, self._feed.scene.grid.shape[1]
        if done == spans[-1][1]:
            return
        canvas, first = Canvas(self._feed.predictor.legend.num_classes, width), self._rows.first_reaching(done)
        columns = self._columns.spans
        strips = work_ahead(lambda index: self._feed.strip(spans[index], columns), range(first, len(spans)), workers=1)
        bar = tqdm(total=len(spans) * len(columns), initial=first * len(columns), unit="tile", disable=None)
        with bar, closing(strips):
            for index, strip in strips:
                tiles, valid = strip.result()
                blended = np.zeros((canvas.num_classes, *valid.shape), np.float32)
                for column, probabilities in self._predicted(tiles, bar):
                    left, right = columns[column]
                    blended[..., left:right] += probabilities * self._columns.weights[column]
                canvas.add(spans[index][0], blended, self._rows.weights[index])
                end = self._rows.final_before(index)
                final = canvas.take(end)
                if end > done:
                    yield final, valid[: final.shape[1]]

    def _predicted(self, tiles: Sequence[Mapping[str, np.ndarray]], bar: tqdm) -> Iterator[tuple[int, np.ndarray]]:
        """Position and probabilities `(K, h, w)` of the tiles that hold any data, in batches of one size."""
        bar.update(sum(not tile for tile in tiles))
        some = [(column, tile) for column, tile in enumerate(tiles) if tile]
        for _, alike in groupby(some, lambda entry: next(iter(entry[1].values())).shape):
            group = list(alike)
            for start in range(0, len(group), self._batch_size):
                batch = group[start : start + self._batch_size]
                yield from zip([column for column, _ in batch], self._network([tile for _, tile in batch]))
                bar.update(len(batch))

    def _network(self, tiles: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        start = time.monotonic()
        stacked = {name: torch.from_numpy(np.stack([tile[name] for tile in tiles])) for name in tiles[0]}
        images = {name: as_unit(values.to(self._device)) for name, values in stacked.items()}
        probabilities = self._feed.predictor.probabilities(images).cpu().numpy()
        self.network_seconds += time.monotonic() - start
        return probabilities
