"""The reader of the published layout of the transfer sets, in place.

The layout is one LMDB folder for each part (training, test) with keys `s1_<i>`, `s2_<i>` and `<label key>_<i>`; the
label key is `lbl` (DFC2020), `dw` (SSL4EO-S12@DW) or `osm` (SSL4EO-S12@OSM, where `dw` is there, too). A value is the
pickle of `(bytes, shape)` (DFC2020) or `(bytes, shape, id)`, one date a location, in the sensor's own unit.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cromss.store.meta import StoreError, StoreMeta
from cromss.store.opcodes import RecordForm
from cromss.store.pickled import PickledReader

ToClassIds = Callable[[np.ndarray, str], np.ndarray]
"""Label codes and their place (store and key, for an error) -> class ids."""

_FORMS = {
    "s1": RecordForm(dtypes=("float32", "float64"), dimensions=(3,), id_optional=True),
    "s2": RecordForm(dtypes=("uint16",), dimensions=(3,), id_optional=True),
    "labels": RecordForm(dtypes=("uint8",), dimensions=(2, 3), id_optional=True),
}
_UNITS = {"s1": "dB", "s2": "DN"}
_LEGENDS = {"lbl": "DFC2020", "dw": "DW", "osm": "OSM"}


class PublishedTransferReader(PickledReader):
    """Reads one modality of a published transfer LMDB: images as they are, labels as class ids; one season.

    The id of a location is that of its record less the prefix `<key>_` and the suffix `.tif`, so that it is the same in
    all modalities: `<lon>_<lat>-<date>`. The date is that of the label's name, whichever day the radar passed: all
    files of a location were named alike, and records named differently do not belong together. Without an id in the
    record (DFC2020) it is the patch's own, `p<i>`.

    Args:
        path: Folder of the LMDB.
        modality: `"s1"`, `"s2"` or `"labels"`.
        key: What stands before the underscore and number in the keys: `"s1"`, `"s2"`, `"lbl"`, `"dw"` or `"osm"`.
        to_class_ids: Raw label codes -> class ids, as `Legend.to_class_ids`: refuses codes outside the legend with a
            ValueError that begins with the place; `None` where the records hold class ids. Workers that are not forked
            need one that can be pickled.

    Raises:
        StoreError: No such LMDB, truncated, of another layout, without this key, or with holes in the numbers.
    """

    num_seasons = 1

    def __init__(self, path: str | Path, modality: str, key: str, to_class_ids: ToClassIds | None = None):
        if modality not in _FORMS:
            raise StoreError(f"{path}: a published LMDB holds {', '.join(_FORMS)}, but {modality!r} is wanted")
        super().__init__(path, _FORMS[modality], f"{key}_")
        if not isinstance(self._numbers, range):
            missing = next(number for number, found in enumerate(self._numbers) if number != found)
            have, last = len(self._numbers), self._numbers[-1]
            raise StoreError(f"{path}: no key {key}_{missing}, but {have} others up to {key}_{last}; copy it whole")
        if modality == "labels" and self._shape[:-2] not in ((), (1,)):
            raise StoreError(f"{path}: key {key}_0: shape {self._shape}, expected (H, W) or (1, H, W) for labels")
        self._to_class_ids = to_class_ids
        self.meta = _transfer_meta(modality, key, self._dtype)

    def _seasons(self, array: np.ndarray) -> np.ndarray:
        is_mask = self.meta.modality == "labels" and array.ndim == 3
        return array if is_mask else array[np.newaxis]

    def _name(self, location_id: str | None, index: int) -> str:
        if location_id is None:
            return f"p{self._numbers[index]}"
        return location_id.removeprefix(self._prefix).replace(".tif", "", 1) or location_id

    def _owned(self, view: np.ndarray, index: int) -> np.ndarray:
        values = super()._owned(view, index)
        if self._to_class_ids is None:
            return values
        return self._to_class_ids(values, f"{self.path}: key {self._key(index)}")


def _transfer_meta(modality: str, key: str, dtype: np.dtype) -> StoreMeta:
    return StoreMeta(
        modality=modality,
        bands=(),
        dtype=dtype.name,
        num_seasons=1,
        unit=_UNITS.get(modality, "class id"),
        legend=_LEGENDS.get(key, ""),
        source="published transfer layout",
    )
