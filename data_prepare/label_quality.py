"""Score noisy masks against exact ones: OA, precision, recall and IoU, confusion, and noise near class borders.

python data_prepare/label_quality.py --noisy lmdb/dw_labels.lmdb --exact lmdb/exact_labels.lmdb --out quality
python data_prepare/label_quality.py --noisy NYC/train/noisy --noisy_codes NYC_LIDAR --exact NYC/train/label \
    --exact_codes NYC_MERGED --pixel_size 1 --out quality
python data_prepare/label_quality.py --noisy tiles --noisy_pattern "*/nlcd.tif" --exact tiles \
    --exact_pattern "*/landcover.tif" --noisy_codes data_prepare/rules/nlcd.yaml \
    --exact_codes data_prepare/rules/landcover.yaml --out quality

Written are quality.md (the page to read), quality.csv, confusion.csv, distance.csv, confusion.png, distance.png,
worst.png and, where locations were left out, skipped.csv.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from heapq import nsmallest
from itertools import islice
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rasterio.errors import NotGeoreferencedWarning
from tqdm import tqdm

from cromss.config import run
from cromss.layouts import check_out
from cromss.mask_pairs import ANY_FILE, Pairs, open_masks
from cromss.tables import to_csv

if TYPE_CHECKING:  # PyTorch comes with it, which --help need not wait for
    from cromss.label_quality import Quality

SHOWN = 5
"""Locations listed or drawn at most."""


@dataclass(frozen=True)
class Comparison:
    """Noisy and exact masks of the same locations, and where the report goes."""

    noisy: Path
    """Noisy masks: a store of labels, or a folder of GeoTIFFs."""
    exact: Path
    """Exact masks of the same locations: a store, or a folder."""
    out: Path
    """Folder for the report."""
    noisy_codes: str | None = None
    """Legend of the noisy masks' codes: a name such as NoL, or a YAML file; stores name theirs."""
    exact_codes: str | None = None
    """Legend of the exact masks' codes; it must have the same classes."""
    noisy_pattern: str = ANY_FILE
    """Noisy files in the folder; what each * matches, as in */noisy.tif, is the id that pairs them."""
    exact_pattern: str = ANY_FILE
    """Exact files in the folder; * is the only wildcard in both."""
    pixel_size: float | None = None
    """Side of a pixel in metres, to tell distances in metres too."""
    max_distance: int = 32
    """Distance to class borders up to which pixels are told apart, in pixels."""
    on_error: Literal["stop", "skip"] = "stop"
    """Stop at masks without a partner or with anything wrong, or list them in skipped.csv and go on."""


@dataclass(frozen=True)
class Result:
    """What was counted.

    Attributes:
        quality: Counts over all pairs of masks.
        worst: OA, location and season of the pairs with the lowest OA, one a place (the first part of a location's id).
        left_out: Id of a location -> why it was.
    """

    quality: "Quality"
    worst: Sequence[tuple[float, str, int]]
    left_out: Mapping[str, str]


def main(settings: Comparison) -> None:
    """Pair, compare, write the report, and print its table of classes."""
    check_out(settings.out)
    noisy = open_masks(settings.noisy, settings.noisy_pattern, settings.noisy_codes, "noisy")
    exact = open_masks(settings.exact, settings.exact_pattern, settings.exact_codes, "exact")
    pairs = Pairs(noisy, exact)
    if settings.on_error == "stop":
        refuse_unpaired(pairs.alone)
    refuse_settings(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        result = count(pairs, settings.max_distance, settings.on_error)
        settings.out.mkdir(parents=True, exist_ok=True)
        draw_pictures(settings, pairs, result)
        print(write_text(settings, pairs, result))
    print(f"\nreport: {settings.out / 'quality.md'}")


def refuse_settings(settings: Comparison) -> None:
    """Raise ValueError for numbers out of range."""
    from cromss.label_quality import MAX_DISTANCE

    if not 1 <= settings.max_distance <= MAX_DISTANCE:
        raise ValueError(f"--max_distance {settings.max_distance}: 1 to {MAX_DISTANCE} pixels")
    if settings.pixel_size is not None and not 0 < settings.pixel_size < math.inf:
        raise ValueError(f"--pixel_size {settings.pixel_size}: metres, above 0")


def refuse_unpaired(alone: Mapping[str, str]) -> None:
    """Raise ValueError where a location has masks on one side only."""
    if alone:
        shown = "; ".join(f"{name}: {reason}" for name, reason in islice(alone.items(), SHOWN))
        more = "; ..." if len(alone) > SHOWN else ""
        raise ValueError(f"{len(alone)} locations without a partner: {shown}{more} (--on_error skip leaves them out)")


def count(pairs: Pairs, max_distance: int, on_error: str) -> Result:
    """Compare all pairs; `"stop"` at the first bad one, or `"skip"` it."""
    left_out, lowest, total = pairs.alone | pairs.excluded, {}, []
    for name in tqdm(pairs.names, unit="location", disable=None):
        try:
            seasons = compare_location(name, pairs, max_distance)
        except ValueError as error:
            if on_error == "stop":
                raise
            left_out[name] = str(error)
            continue
        total = [reduce(add, [*total, *seasons])]
        place = name.partition("/")[0]
        for season, quality in enumerate(seasons):
            if quality.num_compared:
                found = quality.scores()["oa"], name, season
                lowest[place] = min(lowest.get(place, found), found)
    if not lowest:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in islice(left_out.items(), SHOWN))
        raise ValueError(f"nothing to compare, no pixel has a class in both masks{reasons and f' ({reasons})'}")
    return Result(total[0], nsmallest(SHOWN, lowest.values()), left_out)


def compare_location(name: str, pairs: Pairs, max_distance: int) -> list["Quality"]:
    """Counts of each season of a location; an error names it."""
    from cromss.label_quality import compare

    seasons = zip(*pairs.read(name))
    try:
        return [compare(noisy, exact, pairs.legend.num_classes, max_distance) for noisy, exact in seasons]
    except ValueError as error:
        raise ValueError(f"{pairs.where(name)}: {error}") from error


def write_text(settings: Comparison, pairs: Pairs, result: Result) -> str:
    """The page and the CSV files; the table of classes for the terminal."""
    from cromss import quality_report as report

    counted = result.quality, pairs.legend.classes
    tables = {
        "quality": report.class_rows(*counted),
        "confusion": report.confusion_rows(*counted),
        "distance": report.distance_rows(*counted, settings.pixel_size),
    }
    (settings.out / "skipped.csv").unlink(missing_ok=True)
    if result.left_out:
        tables["skipped"] = [{"id": name, "reason": reason} for name, reason in result.left_out.items()]
    for name, rows in tables.items():
        (settings.out / f"{name}.csv").write_text(to_csv(rows), encoding="utf-8")
    told = [
        f"{side}: `{masks.path}`, classes of {codes or masks.legend.name}"
        for side, masks, codes in (
            ("Noisy", pairs.noisy, settings.noisy_codes),
            ("Exact", pairs.exact, settings.exact_codes),
        )
    ]
    page = report.page(*counted, told, len(result.left_out), settings.pixel_size)
    (settings.out / "quality.md").write_text(page, encoding="utf-8")
    return report.class_table(*counted)


def draw_pictures(settings: Comparison, pairs: Pairs, result: Result) -> None:
    """The heat map, the curves and the worst masks."""
    from matplotlib.image import imsave

    from cromss import quality_figures as figures

    examples = []
    for oa, name, season in result.worst:
        noisy, exact = pairs.read(name)
        title = name if len(noisy) == 1 else f"{name}, season {season + 1}"
        examples.append(figures.Example(title, oa, noisy[season], exact[season]))
    pictures = {
        "confusion": figures.confusion_picture(result.quality, pairs.legend.classes),
        "distance": figures.distance_picture(result.quality, pairs.legend, settings.pixel_size),
        "worst": figures.worst_picture(examples, pairs.legend),
    }
    for name, picture in pictures.items():
        imsave(settings.out / f"{name}.png", picture)


if __name__ == "__main__":
    run(main, Comparison)
