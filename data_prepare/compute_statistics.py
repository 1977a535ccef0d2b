"""Mean and standard deviation by band of a raw set, in one pass, for --statistics of the writers.

python data_prepare/compute_statistics.py --data_path OWN --layout own --out statistics.yaml
python data_prepare/compute_statistics.py --data_path SSL4EO-S12 --layout ssl4eo --out statistics.yaml --limit 1000

Every file passes the checks of the writers; Sentinel-2 is taken without its offset.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from cromss import layouts, preparation
from cromss.config import run
from cromss.legends import NOL
from cromss.offset import offsets_by_id
from cromss.settings.common import require
from cromss.statistics import MEASURED, Moments, described, moments, write_statistics
from cromss.work_ahead import work_ahead


@dataclass(frozen=True)
class RawStatistics:
    """Raw folders of a set, and where its statistics go."""

    data_path: Path
    """Folder of the raw set; the training part of a set that has parts."""
    out: Path
    """File to write, YAML: modality -> bands, mean, std, unit, count, source."""
    layout: Literal["own", "tiles", "ssl4eo"] = "own"
    """own: <modality>/<id>/<YYYYMMDD>.tif; tiles: <id>/<S1*.tif, S2*.tif>; ssl4eo: {s1,s2c}/<id>/<scene>/<band>.tif."""
    modalities: tuple[Literal["s1", "s2"], ...] = ()
    """What to look at; if empty, the folders there are for own, s1 s2 otherwise."""
    size: int = 264
    """ssl4eo: side to resample to, in pixels, as the writer does."""
    s2_offset: Literal["auto", "0", "1000"] = "auto"
    """DN to subtract from Sentinel-2; auto follows the metadata of each scene, else its pixels."""
    s2_offset_ids: tuple[str, ...] = ()
    """Offset of single locations, as ID=0 ID=1000."""
    on_error: Literal["stop", "skip"] = "stop"
    """Stop at the first bad location, or say it and go on."""
    workers: int = 4
    """Reading threads."""
    limit: int | None = None
    """Look at the first locations only."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, "workers", self.workers, "at least 1")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1")
        require(self.size >= 1, "size", self.size, "at least 1")
        legal = bool(self.measured) and len(set(self.measured)) == len(self.measured)
        require(legal, "modalities", self.measured, f"some of {' '.join(MEASURED)}, each once")

    @property
    def measured(self) -> tuple[str, ...]:
        """The modalities to look at."""
        found = layouts.own_modalities(self.data_path) if self.layout == "own" else MEASURED
        return self.modalities or tuple(modality for modality in found if modality in MEASURED) or MEASURED


def main(settings: RawStatistics) -> None:
    """List, read, merge, write, report."""
    if settings.out.is_dir():
        raise ValueError(f"--out {settings.out}: is a folder; a file is wanted")
    locations = list_locations(settings)[: settings.limit]
    told_by_id = offsets_by_id(settings.s2_offset_ids, {location.id for location in locations})
    measure = partial(
        measure_location,
        num_seasons=layouts.most_seasons(locations),
        size=settings.size if settings.layout == "ssl4eo" else None,
        told=None if settings.s2_offset == "auto" else int(settings.s2_offset),
        told_by_id=told_by_id,
    )
    totals: dict[str, Moments] = {}
    num_skipped = 0
    with closing(work_ahead(measure, locations, settings.workers)) as results:
        for location, future in tqdm(results, total=len(locations), unit="location", disable=None):
            try:
                measured = future.result()
            except ValueError as error:
                if settings.on_error == "stop":
                    raise ValueError(f"{error} (--on_error skip leaves such locations out)") from error
                print(f"skipped: {location.id}: {error}")
                num_skipped += 1
                continue
            totals = {name: totals[name].merged(one) if name in totals else one for name, one in measured.items()}
    if not totals:
        raise ValueError(f"{settings.data_path}: all {len(locations)} locations were skipped, nothing is left")
    used = f"{len(locations) - num_skipped} of {len(locations)}" if num_skipped else len(locations)
    source = f"{used} locations of {settings.data_path.resolve().name}, {settings.layout} layout"
    write_statistics(settings.out, {name: described(total, name, source) for name, total in totals.items()})
    print(f"statistics: {settings.out} ({', '.join(f'{n}: {t.count} pixels' for n, t in totals.items())})")


def list_locations(settings: RawStatistics) -> list[layouts.Location]:
    """Locations of the chosen layout and modalities, without labels."""
    if settings.layout == "own":
        return layouts.list_own(settings.data_path, settings.measured)
    ssl4eo = settings.layout == "ssl4eo"
    names = {"s1": "s1", "s2": "s2c"} if ssl4eo else {"s1": "S1*.tif", "s2": "S2*.tif"}
    wanted = {modality: names[modality] for modality in settings.measured}
    return layouts.list_ssl4eo(settings.data_path, wanted) if ssl4eo else layouts.list_tiles(settings.data_path, wanted)


def measure_location(
    location: layouts.Location,
    num_seasons: int,
    size: int | None,
    told: int | None,
    told_by_id: Mapping[str, int],
) -> dict[str, Moments]:
    """Modality -> moments of all seasons of a location."""
    seasons = layouts.read_location(location, num_seasons, NOL, size)
    ready = preparation.without_offset(seasons, location, told, told_by_id=told_by_id).seasons
    return {modality: reduce(Moments.merged, map(moments, images)) for modality, images in ready.items()}


if __name__ == "__main__":
    run(main, RawStatistics)
