"""The tiles of a scene through the network, and the rows that become final."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby, islice

import numpy as np
import torch
from tqdm import tqdm

from cromss.batch_transforms import as_unit
from cromss.gpus import as_in_training
from cromss.mapping.blending import Canvas, Side
from cromss.mapping.feeding import Feed
from cromss.work_ahead import work_ahead


class TileRun:
    """Rows of tiles, one after the other; the next tiles are read and prepared while the network works.

    Attributes:
        network_seconds: Time that the network has taken, transfers included.
    """

    def __init__(
        self, feed: Feed, rows: Side, columns: Side, batch_size: int, workers: int, device: torch.device
    ) -> None:
        self._feed, self._rows, self._columns = feed, rows, columns
        self._batch_size, self._workers, self._device = batch_size, workers, device
        self.network_seconds = 0.0
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        feed.predictor.network.to(device, memory_format=layout)

    def finished_rows(self, done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Probabilities `(K, rows, W)` and pixels with data `(rows, W)`, as rows become final; use them at once.

        Args:
            done: Rows that are not wanted any more, one of the ends of `Side.final_before`. Tiles that reach beyond
                them are computed again, so that the rows that follow are the same as in a single run.
        """
        spans, columns, width = self._rows.spans, self._columns.spans, self._feed.scene.grid.shape[1]
        if done == spans[-1][1]:
            return
        first, num_classes = self._rows.first_reaching(done), self._feed.predictor.legend.num_classes
        canvas = Canvas(num_classes, max(end - start for start, end in spans), width, spans[first][0])
        steps = [(row, batch) for row in range(first, len(spans)) for batch in self._batches()]
        prepared = work_ahead(
            lambda step: self._feed.tiles(spans[step[0]], [columns[column] for column in step[1]]), steps, self._workers
        )
        bar = tqdm(total=len(spans) * len(columns), initial=first * len(columns), unit="tile", disable=None)
        with bar, closing(prepared):
            for row, batches in groupby(prepared, key=lambda entry: entry[0][0]):
                valid = np.zeros((spans[row][1] - spans[row][0], width), bool)
                for (_, batch), future in batches:
                    tiles, there = future.result()
                    valid[:, columns[batch[0]][0] : columns[batch[-1]][1]] = there
                    self._add(canvas, row, batch, tiles)
                    bar.update(len(batch))
                end = self._rows.final_before(row)
                final = canvas.take(end)
                if end > done:
                    yield final, valid[: final.shape[1]]

    def _batches(self) -> Iterator[list[int]]:
        """Neighbouring columns of one width."""
        spans = self._columns.spans
        for _, alike in groupby(range(len(spans)), key=lambda column: spans[column][1] - spans[column][0]):
            while batch := list(islice(alike, self._batch_size)):
                yield batch

    def _add(self, canvas: Canvas, row: int, batch: Sequence[int], tiles: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Put the tiles that hold any data on the canvas."""
        some = [(column, tile) for column, tile in zip(batch, tiles) if tile]
        for (column, _), probabilities in zip(some, self._network([tile for _, tile in some]) if some else ()):
            weights = self._rows.weights[row][:, None] * self._columns.weights[column]
            canvas.add(self._rows.spans[row][0], self._columns.spans[column][0], probabilities, weights)

    def _network(self, tiles: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        start = time.monotonic()
        stacked = {name: torch.from_numpy(np.stack([tile[name] for tile in tiles])) for name in tiles[0]}
        images = {name: as_unit(values.to(self._device)) for name, values in stacked.items()}
        with as_in_training(self._device):
            probabilities = self._feed.predictor.probabilities(images).cpu().numpy()
        self.network_seconds += time.monotonic() - start
        return probabilities
