"""Download Sentinel-1/2 patches and Dynamic World labels of places through Google Earth Engine.

python data_prepare/download_earth_engine.py --places places.csv --out SSL4EO-own --project my-project \\
    --seasons 2020-03-20 2020-06-21 2020-09-22 2020-12-21

What comes is the layout of SSL4EO-S12, with ids.csv of the complete places: write_pretrain_lmdb.py reads it.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cromss.config import run
from cromss.downloads import download
from cromss.downloads.earth_engine import MAX_REQUEST, EarthEngine
from cromss.downloads.manifest import Manifest
from cromss.downloads.patches import PlaceFetcher, complete_places, write_ids
from cromss.downloads.places import Place, read_places
from cromss.downloads.season_scenes import MAX_DW_CLOUD, PRODUCTS, Archive, Rules, read_seasons
from cromss.layouts import check_out
from cromss.preparation import check_space
from cromss.settings.common import require

DEFAULT_SIZE = 264


@dataclass(frozen=True)
class EarthEnginePlaces:
    """Places and seasons to download through Google Earth Engine, which needs an account: pip install
    'cromss[earth-engine]', then run `earthengine authenticate` once."""

    places: Path
    """CSV of the places, with the header id,lon,lat (degrees)."""
    out: Path
    """Folder for s1, s2c, labels (each <id>/<scene>/<band>.tif), ids.csv and the account of the job."""
    seasons: tuple[str, ...]
    """Date of each season, YYYY-MM-DD in time order, such as 2020-03-20 2020-06-21 2020-09-22 2020-12-21."""
    modalities: tuple[Literal["s1", "s2", "labels"], ...] = ("s1", "s2", "labels")
    """What to download: Sentinel-1 (dB), Sentinel-2 level 1C (DN without the offset), Dynamic World labels."""
    project: str = ""
    """Cloud project that the requests are booked on; that of the credentials if empty."""
    window_days: int = 30
    """Days between a season's date and its Sentinel-2 scene, either side. Of those with labels the least cloudy is
    taken, then the nearest to the date, then the first by name; the next one where pixels are missing."""
    max_cloud: float = 20.0
    """Percent of cloud that the whole Sentinel-2 scene stays under; Dynamic World has labels up to 35."""
    s1_days: int = 12
    """Days between the Sentinel-2 and the Sentinel-1 scene, either side; the nearest in time is taken."""
    size: int = DEFAULT_SIZE
    """Side of a patch in pixels of 10 m, in the UTM zone of the place; images bicubic, labels nearest."""
    workers: int = 4
    """Places fetched at once."""
    attempts: int = 5
    """Tries of each request, with longer and longer pauses."""
    limit: int | None = None
    """Download only the first places."""
    dry_run: bool = False
    """Only list the places and estimate the disk space; asks nothing of the service."""
    retry_skipped: bool = False
    """Ask again for places that had no scene in some season."""

    def __post_init__(self) -> None:
        chosen = self.modalities
        require(bool(chosen) and len(set(chosen)) == len(chosen), "modalities", chosen, "s1 s2 labels, each once")
        for flag in ("workers", "attempts", "s1_days"):
            require(getattr(self, flag) >= 1, flag, getattr(self, flag), "at least 1")
        require(0 <= self.window_days <= 180, "window_days", self.window_days, "0 to 180")
        require(self.s1_days <= 60, "s1_days", self.s1_days, "1 to 60")
        most = 100.0 if "labels" not in chosen else MAX_DW_CLOUD
        require(0 < self.max_cloud <= most, "max_cloud", self.max_cloud, f"above 0 and at most {most:g}")
        largest = int((MAX_REQUEST / max(PRODUCTS[modality].pixel_bytes for modality in chosen)) ** 0.5)
        require(1 <= self.size <= largest, "size", self.size, f"1 to {largest}, what the service gives at once")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1")
        read_seasons(self.seasons, self.window_days)

    @property
    def described(self) -> dict[str, object]:
        """What would make another set of it."""
        same = ("seasons", "modalities", "window_days", "max_cloud", "s1_days", "size")
        return {"source": "Earth Engine"} | {flag: getattr(self, flag) for flag in same}


def main(settings: EarthEnginePlaces) -> int:
    """List, estimate, download, write the ids; the exit status is 1 where places failed."""
    check_out(settings.out)
    settings = replace(settings, modalities=tuple(m for m in PRODUCTS if m in settings.modalities))
    places = read_places(settings.places)
    asked = places[: settings.limit]
    report_space(settings, asked)
    if settings.dry_run:
        return 0
    summary = download(
        {str(place): place for place in asked},
        fetcher(settings, EarthEngine(settings.project)),
        settings.out,
        settings.described,
        settings.workers,
        attempts=1,
        retry_skipped=settings.retry_skipped,
    )
    print(summary)
    finish(settings, places)
    return 1 if summary.failed else 0


def fetcher(settings: EarthEnginePlaces, archive: Archive) -> PlaceFetcher:
    """What fetches a place; it tries each request again itself, so that the requests before are not repeated."""
    rules = Rules(settings.window_days, settings.max_cloud, settings.s1_days)
    seasons = read_seasons(settings.seasons, settings.window_days)
    return PlaceFetcher(
        archive, settings.out, seasons, settings.modalities, rules, settings.size, attempts=settings.attempts
    )


def report_space(settings: EarthEnginePlaces, places: Sequence[Place]) -> None:
    """Say how many places there are and what those to come take at most, before compression."""
    bytes_each = sum(PRODUCTS[m].pixel_bytes for m in settings.modalities) * settings.size**2 * len(settings.seasons)
    folders = [settings.out / PRODUCTS[modality].folder for modality in settings.modalities]
    missing = sum(not all((folder / place.id).is_dir() for folder in folders) for place in places)
    free = check_space(settings.out, missing * bytes_each)
    what = f"{len(settings.seasons)} seasons ({', '.join(settings.modalities)}), {settings.size} px"
    print(f"{len(places)} places x {what}; {len(places) - missing} there already")
    print(f"disk: up to {missing * bytes_each / 1e9:.3f} GB wanted, {free / 1e9:.1f} GB free")
    if settings.dry_run:
        shown = [str(place) for place in places[:10]] + ["..."] * (len(places) > 10)
        print("\n".join(shown))


def finish(settings: EarthEnginePlaces, places: Sequence[Place]) -> None:
    """Write ids.csv of the complete places, and say how the stores are written from it."""
    with Manifest(settings.out, settings.described) as manifest:
        done = {str(p): manifest.entries[str(p)] for p in places if manifest.is_done(str(p))}
    complete = complete_places(done, places, settings.modalities)
    if not complete:
        print("no place is complete")
        return
    ids = settings.out / "ids.csv"
    write_ids(ids, complete, len(settings.seasons))
    flags = {"data_path": settings.out, "out": settings.out / "lmdb", "ids_csv": ids}
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    words += ["--size", str(settings.size)] if settings.size != DEFAULT_SIZE else []
    words += ["--modalities", *settings.modalities] if len(settings.modalities) < len(PRODUCTS) else []
    print(f"{len(complete)} complete places in {ids}; write the stores with")
    print(shlex.join(["python", "data_prepare/write_pretrain_lmdb.py", *words]))


if __name__ == "__main__":
    run(main, EarthEnginePlaces)
