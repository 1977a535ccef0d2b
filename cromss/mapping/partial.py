"""Finished rows of a map, kept in a file until all are there: what was killed goes on from it."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cromss.config import replace_text


class PartialMap:
    """Rows of uint8 `(rows, bands, W)`, appended; beside them, in a JSON file, what they were made of.

    Attributes:
        path: The file.
        about: The JSON file.
        shape: Bands and width.
    """

    def __init__(self, out: Path, num_bands: int, width: int) -> None:
        self.path, self.about = (out.with_name(f".{out.name}.{end}") for end in ("partial", "partial.json"))
        self.shape = num_bands, width

    def open(self, made_of: Mapping[str, Any], ends: Sequence[int]) -> int:
        """Rows that are there already, up to the last one of `ends`; none where they were made of something else."""
        text, row = json.dumps(made_of, indent=2) + "\n", int(np.prod(self.shape))
        size = self.path.stat().st_size if self.path.exists() else 0
        there = size // row
        if there and not (self.about.exists() and self.about.read_text() == text):
            print(f"{self.path}: made with other settings, weights or rasters; beginning anew")
            there = 0
        elif size > max(ends) * row:
            print(f"{self.path}: holds more rows than the scene; beginning anew")
            there = 0
        done = max((end for end in ends if end <= there), default=0)
        if not done:
            self.about.unlink(missing_ok=True)
        with self.path.open("ab") as file:
            file.truncate(done * row)
        replace_text(self.about, text)
        return done

    def append(self, rows: np.ndarray) -> None:
        """Add finished rows `(rows, bands, W)`, and wait until they are on the disk."""
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(rows).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def blocks(self, height: int = 512) -> Iterator[tuple[int, np.ndarray]]:
        """First row and pixels `(bands, rows, W)` of blocks of at most `height` rows."""
        with self.path.open("rb") as file:
            size, row = height * int(np.prod(self.shape)), 0
            while block := file.read(size):
                pixels = np.frombuffer(block, np.uint8).reshape(-1, *self.shape)
                yield row, pixels.swapaxes(0, 1)
                row += len(pixels)

    def remove(self) -> None:
        """Remove both files."""
        self.path.unlink()
        self.about.unlink()
