"""DN offset of Sentinel-2 scenes: +1000 since baseline 04.00, told, declared, seen in the pixels, or dated."""

import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from cromss.input_checks import UndecidableOffset, detect_offset, shown_offset
from cromss.scene_names import scene_time
from cromss.scene_sources import Scene, open_raster
from cromss.sensors import S2, S2_OFFSET

OFFSET_BASELINE = 4.0
"""First Sentinel-2 processing baseline whose DN carry the offset (04.00)."""

OFFSET_DATE = "20220125"
"""First day of that baseline. Older scenes carry the offset only where they were processed again."""


def decide_offset(
    image: np.ndarray,
    source: Scene,
    location_id: str,
    told: int | None = None,
    by_date: bool = False,
    told_by_id: Mapping[str, int] | None = None,
) -> tuple[int, str]:
    """DN offset to subtract from a Sentinel-2 scene, and what decided it.

    Args:
        image: `(13, H, W)` DN.
        source: Folder or file of the scene, for its metadata.
        location_id: Named in the error.
        told: 0 or 1000 if the user said so of all scenes; `None` follows the metadata, else the pixels.
        by_date: Where neither tells, a date before `OFFSET_DATE` in the scene's name does.
        told_by_id: What the user said of single locations, right or wrong (see `offsets_by_id`).

    Returns:
        The offset (0 or 1000) and `"told"`, `"metadata"`, `"pixels"` or `"date"`.

    Raises:
        ValueError: Nothing tells, the pixels contradict metadata or date, or 1000 told of all scenes
            would clip dark pixels; the line names the flag.
    """
    told_of_this = (told_by_id or {}).get(location_id)
    if told_of_this is not None:
        return told_of_this, "told"
    if told is not None:
        if told and shown_offset(image) == 0:
            raise ValueError(
                f"{source} of {location_id}: the pixels show no DN offset, --s2_offset {told} would clip the dark "
                f"ones at 0; say --s2_offset auto, or --s2_offset_ids {location_id}={told} if it is true"
            )
        return told, "told"
    declared, early = metadata_offset(source), by_date and (scene_time(source.stem) or OFFSET_DATE) < OFFSET_DATE
    where, advice = f"{source} of {location_id}", f"say --s2_offset_ids {location_id}=0 or {location_id}=1000"
    try:
        seen = detect_offset(image, S2.bands, where)
    except UndecidableOffset as error:
        if declared is not None:
            return declared, "metadata"
        if early:
            return 0, "date"
        raise UndecidableOffset(f"{str(error).rpartition(';')[0]}; {advice}") from error
    if declared not in (None, seen):
        raise ValueError(f"{where}: the metadata declare a DN offset of {declared}, the pixels show {seen}; {advice}")
    if declared is None and early and seen:
        raise ValueError(f"{where}: the pixels show a DN offset of {seen}, its date is before {OFFSET_DATE}; {advice}")
    return (seen, "pixels") if declared is None else (declared, "metadata")


def metadata_offset(source: Scene) -> int | None:
    """DN offset that the metadata of a Sentinel-2 scene declare: 0, 1000, or `None` if they are silent.

    Looks for a harmonised collection in `id`, `RADIO_ADD_OFFSET*` and `PROCESSING_BASELINE`, in the
    GeoTIFF tags and in a `metadata.json` beside them.

    Raises:
        ValueError: `metadata.json` cannot be parsed, or an offset or baseline is not a number.
    """
    folder, file = (source, min(source.glob("*.tif"), key=str)) if source.is_dir() else (source.parent, source)
    with open_raster(file) as dataset:
        entries = dataset.tags() | _json_entries(folder / "metadata.json")
    return declared_offset({key.upper(): value for key, value in entries.items()}, str(source))


def declared_offset(entries: Mapping[str, object], where: str) -> int | None:
    """DN offset that metadata declare, 0, 1000 or `None`, by their names in capitals; see `metadata_offset`.

    Raises:
        ValueError: An offset or baseline is not a number; the line begins with `where`.
    """
    if "HARMONIZED" in str(entries.get("ID", "")).upper():
        return 0
    try:
        offsets = [float(value) for key, value in entries.items() if key.startswith("RADIO_ADD_OFFSET")]
        if offsets:
            return S2_OFFSET if any(offsets) else 0
        baseline = entries.get("PROCESSING_BASELINE")
        return None if baseline is None else S2_OFFSET * (float(baseline) >= OFFSET_BASELINE)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: offset or baseline in the metadata is not a number ({error}); mend them") from error


def offsets_by_id(pairs: Sequence[str], ids: Collection[str]) -> dict[str, int]:
    """Values of `--s2_offset_ids`, `("p7=1000",)` -> `{"p7": 1000}`.

    Raises:
        ValueError: Not `ID=0` or `ID=1000`, both for one, or not one of the `ids` of the locations.
    """
    offsets = {}
    for pair in pairs:
        name, _, value = pair.strip().rpartition("=")
        if value not in ("0", "1000") or name not in ids:
            raise ValueError(f"--s2_offset_ids {pair}: wanted ID=0 or ID=1000 with the id of a location")
        if offsets.setdefault(name, int(value)) != int(value):
            raise ValueError(f"--s2_offset_ids {pair}: {name}={offsets[name]} is told, too; keep one")
    return offsets


def remove_offset(dn: np.ndarray, offset: int) -> np.ndarray:
    """Subtract the DN offset and clip at 0; the dtype stays."""
    return dn if offset == 0 else (np.maximum(dn, offset) - offset).astype(dn.dtype)


def _json_entries(path: Scene) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); mend or remove it") from error
    properties = content.get("properties", {}) if isinstance(content, dict) else {}
    return content | properties if isinstance(properties, dict) and isinstance(content, dict) else {}
