"""Look into LMDB stores: counts, ids, class shares, band statistics, and whether the stores match.

    python data_prepare/inspect_lmdb.py lmdb/0k_251k_uint8_s1.lmdb lmdb/0k_251k_uint8_s2c.lmdb lmdb/dw_labels.lmdb

Exit status: 0 all match, 1 mismatches between the stores, 2 a store cannot be read.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import tyro

from cromss.config import run
from cromss.legend_files import stored_legend
from cromss.legends import NOL, OSCD
from cromss.sensors import MODALITIES
from cromss.store import LmdbReader, PublishedReader, open_store

Store = LmdbReader | PublishedReader

SHOWN = 5
"""Ids and mismatches listed at most."""

_SHOWN_BANDS = {"s1": (0,), "s2": (3, 2, 1), "ortho": (1, 2, 3)}


@dataclass(frozen=True)
class Inspection:
    """Stores to look into."""

    stores: tyro.conf.Positional[tuple[Path, ...]]
    """One or several stores of the same locations."""
    max_records: int = 256
    """Records (one season of one location) sampled from each store, evenly spread."""
    json: Path | None = None
    """Also write the report to this file."""
    panel: Path | None = None
    """Draw a few locations into this picture."""


def main(settings: Inspection) -> int:
    """Report on standard output; 1 where the stores do not match, else 0."""
    if not settings.stores or settings.max_records < 1:
        raise ValueError("wanted: at least one store, and --max_records of at least 1")
    stores = {str(path): open_store(path) for path in settings.stores}
    reports = {name: describe(store, settings.max_records) for name, store in stores.items()}
    problems = find_mismatches(stores, settings.max_records)
    for name, report in reports.items():
        print("\n".join([name, *(f"  {line}" for line in report_lines(report))]))
    print("\n".join(f"MISMATCH {problem}" for problem in problems) or "the stores match")
    if settings.json:
        content = {"stores": reports, "mismatches": problems}
        settings.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if settings.panel:
        draw_panel(stores, settings.panel)
    return int(bool(problems))


def describe(store: Store, max_records: int) -> dict:
    """Everything about one store, as plain values."""
    records = sample_records(len(store), store.num_seasons, max_records)
    shapes = {tuple(store.read(index, season).shape) for index, season in records}
    report = {
        "modality": store.meta.modality,
        "dtype": store.meta.dtype,
        "unit": store.meta.unit,
        "source": store.meta.source,
        "num_locations": len(store),
        "num_seasons": store.num_seasons,
        "num_sampled": len(records),
        "shapes": sorted(map(list, shapes)),
        "ids": [store.location_id(index) for index in range(min(len(store), SHOWN))],
    }
    if store.meta.modality in MODALITIES:
        return report | {"bands": describe_bands(store, records)}
    return report | {"classes": class_shares(store, records)}


def sample_records(num_locations: int, num_seasons: int, max_records: int) -> list[tuple[int, int]]:
    """Evenly spread `(index, season)`, the seasons in turn; all records where there are few."""
    total = num_locations * num_seasons
    if total <= max_records:
        return [divmod(record, num_seasons) for record in range(total)]
    indices = np.linspace(0, num_locations - 1, max_records).astype(int)
    return [(int(index), position % num_seasons) for position, index in enumerate(indices)]


def describe_bands(store: Store, records: Sequence[tuple[int, int]]) -> dict[str, dict]:
    """Mean and standard deviation of each band beside the expected ones, in the store's values.

    Orthophotos differ by camera and city, so that nothing is expected of theirs.
    """
    mean, std = band_statistics(store, records)
    expected_mean, expected_std = expected_statistics(store.meta.modality, store.meta.dtype)
    bands = store.meta.bands or MODALITIES[store.meta.modality].bands
    return {
        band: {
            "mean": float(mean[i]),
            "std": float(std[i]),
            "expected_mean": float(expected_mean[i]),
            "expected_std": float(expected_std[i]),
            "out_of_range": store.meta.modality != "ortho" and bool(abs(mean[i] - expected_mean[i]) > expected_std[i]),
        }
        for i, band in enumerate(bands)
    }


def band_statistics(store: Store, records: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the sampled pixels, each `(C,)` float64."""
    count, total, squares = 0, 0.0, 0.0
    for index, season in records:
        values = np.asarray(store.read(index, season), np.float64)
        count += values[0].size
        total = total + values.sum(axis=(1, 2))
        squares = squares + np.square(values).sum(axis=(1, 2))
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def expected_statistics(modality: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation that data of the sensor's own statistics would have, each `(C,)`.

    Quantised values (uint8) are those of a normal distribution clipped at +- 2 std and scaled to
    0..255. With `p = P(|x| < 2)` and the density `phi`, the clipped variance is
    `p - 4 phi(2) + 4 (1 - p)`; truncation takes half a grey level off the mean.
    """
    sensor = MODALITIES[modality]
    if dtype != "uint8":
        return np.asarray(sensor.mean), np.asarray(sensor.std)
    inside, density = math.erf(math.sqrt(2)), math.exp(-2) / math.sqrt(2 * math.pi)
    variance = inside - 4 * density + 4 * (1 - inside)
    num_bands = len(sensor.bands)
    return np.full(num_bands, 127.0), np.full(num_bands, 255 / 4 * math.sqrt(variance))


def class_shares(store: Store, records: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Share of the sampled pixels by class name; `ignored` is 255, `unknown` any other id."""
    counts = np.zeros(256, np.int64)
    for index, season in records:
        counts += np.bincount(np.asarray(store.read(index, season)).ravel(), minlength=256)
    legend = stored_legend(store.meta) or NOL
    named = dict(zip(legend.classes, counts.tolist()))
    named |= {"ignored": int(counts[255]), "unknown": int(counts[legend.num_classes : 255].sum())}
    return {name: count / int(counts.sum()) for name, count in named.items()}


def num_dates(store: Store) -> int:
    """Images that go with the store's seasons: one each, but two with a label of change."""
    return store.num_seasons * (2 if store.meta.legend == OSCD.name else 1)


def find_mismatches(stores: Mapping[str, Store], max_records: int) -> list[str]:
    """What differs between the first store and each other: counts, seasons, ids, sizes of sampled tiles."""
    (first_name, first), *others = stores.items()
    problems = []
    for name, store in others:
        pair = f"{first_name} and {name}"
        if len(first) != len(store):
            problems.append(f"{pair}: {len(first)} and {len(store)} locations")
        if num_dates(first) != num_dates(store):
            problems.append(f"{pair}: {first.num_seasons} and {store.num_seasons} seasons")
        pairs = enumerate(zip_longest(first.location_ids(), store.location_ids()))
        different = [f"{index}: {a} and {b}" for index, (a, b) in pairs if a != b]
        if different:
            shown = "; ".join(different[:SHOWN])
            problems.append(f"{pair}: {len(different)} ids differ, at index {shown}")
        shared = sample_records(min(len(first), len(store)), 1, max_records)
        sizes = [(index, first.read(index, 0).shape[-2:], store.read(index, 0).shape[-2:]) for index, _ in shared]
        unequal = [f"{index}: {a} and {b}" for index, a, b in sizes if a != b]
        if unequal:
            problems.append(f"{pair}: tile sizes differ, at index {'; '.join(unequal[:SHOWN])}")
    return problems


def report_lines(report: Mapping) -> list[str]:
    """The report of one store for people."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in report["shapes"])
    lines = [
        f"{report['modality']}: {report['num_locations']} locations x {report['num_seasons']} seasons, "
        f"{shapes} {report['dtype']} ({report['unit']})",
        f"ids: {', '.join(report['ids'])}{', ...' if report['num_locations'] > SHOWN else ''}",
    ]
    for name, share in report.get("classes", {}).items():
        lines.append(f"{name:20s} {100 * share:6.2f} %")
    for name, band in report.get("bands", {}).items():
        flag = "  OUT OF RANGE by more than 1 sigma" if band["out_of_range"] else ""
        measured, expected = (f"{band[p + 'mean']:9.2f} +- {band[p + 'std']:8.2f}" for p in ("", "expected_"))
        lines.append(f"{name:4s} {measured}   expected {expected}{flag}")
    return lines


def draw_panel(stores: Mapping[str, Store], path: Path, num_locations: int = 4) -> None:
    """A picture: a row for each of a few locations, a column for each store's first season, or for both of two."""
    from matplotlib.figure import Figure

    records = sample_records(min(map(len, stores.values())), 1, num_locations)
    columns = [(s, season) for s in stores.values() for season in range(s.num_seasons if s.num_seasons == 2 else 1)]
    figure = Figure(figsize=(2.2 * len(columns), 2.4 * len(records)), layout="constrained")
    axes = figure.subplots(len(records), len(columns), squeeze=False)
    for row, (index, _) in zip(axes, records):
        for axis, (store, season) in zip(row, columns):
            image = displayable(store, index, season)
            axis.imshow(image, cmap="gray", interpolation="nearest")
            axis.set_title(f"{store.location_id(index)}\n{store.meta.modality}", fontsize=7)
            axis.set_axis_off()
    figure.savefig(path, dpi=120)


def displayable(store: Store, index: int, season: int = 0) -> np.ndarray:
    """A season of a location as a picture: RGB, VV in grey, or classes in legend colours."""
    values = np.asarray(store.read(index, season))
    if store.meta.modality not in MODALITIES:
        return (stored_legend(store.meta) or NOL).palette()[values]
    picture = values[list(_SHOWN_BANDS[store.meta.modality])].astype(np.float64)
    low, high = np.percentile(picture, [2, 98])
    picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(picture, 0, -1).squeeze()


if __name__ == "__main__":
    run(main, Inspection)
