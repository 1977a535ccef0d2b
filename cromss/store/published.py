"""The reader of the published layout of SSL4EO-S12@NoL, in place.

The layout is an LMDB folder with keys `str(index)`; a value is the pickle of `(bytes, shape, id)`, all seasons of a
location in one uint8 array, `(4, C, 264, 264)` or, for labels, `(4, 264, 264)`.
"""

from pathlib import Path

from cromss.store.meta import StoreError, StoreMeta
from cromss.store.opcodes import RecordForm
from cromss.store.pickled import PickledReader


class PublishedReader(PickledReader):
    """Reads a published pretraining LMDB: uint8, several seasons a location.

    An index is the key wherever the keys have no holes.

    Args:
        path: Folder of the LMDB.
        modality: `"s1"`, `"s2"` or `"labels"`; for `None` told from the first record's shape.

    Raises:
        StoreError: No such LMDB, truncated, of another layout, or of another modality.
    """

    def __init__(self, path: str | Path, modality: str | None = None):
        super().__init__(path, RecordForm(dtypes=("uint8",), dimensions=(3, 4)))
        found = _modality_of(self._shape)
        if modality in ("s1", "s2", "labels") and modality != found:
            raise StoreError(f"{path}: records of shape {self._shape} are {found!r}, but {modality!r} is wanted")
        self.num_seasons = self._shape[0]
        self.meta = _published_meta(modality or found, self._shape)


def _modality_of(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "labels"
    return "s1" if shape[1] == 2 else "s2"


def _published_meta(modality: str, shape: tuple[int, ...]) -> StoreMeta:
    labels = len(shape) == 3
    return StoreMeta(
        modality=modality,
        bands=(),
        dtype="uint8",
        num_seasons=shape[0],
        unit="class id" if labels else "uint8 of mean +- 2 std",
        legend="NoL" if labels else "",
        source="SSL4EO-S12@NoL, published layout",
    )
