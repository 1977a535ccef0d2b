"""Download published archives, checkpoints and images from the Hugging Face hub, checked by size and hash.

python data_prepare/download_hub.py --out downloads --names nol mid_13 --extract
python data_prepare/download_hub.py --out downloads --names ssl4eo_v1.1 --split val --modalities S1GRD S2L1C --limit 2
python data_prepare/download_hub.py --out downloads --repo OWNER/NAME --files '*.zip'
python data_prepare/download_hub.py --names nol --list

What a repository gives lies in a folder of its name. The same command goes on where it stopped.
"""

import os
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Literal

from tqdm import tqdm

from cromss.config import run
from cromss.disk_space import check_space
from cromss.downloads import FileMark, Summary, Unavailable, download
from cromss.downloads.archives import unpack
from cromss.downloads.hub import Repository
from cromss.downloads.hub_files import HubFile, select
from cromss.downloads.published import PUBLISHED
from cromss.downloads.retries import with_retries
from cromss.layouts import check_out
from cromss.settings.common import require

PAUSE = 2.0
"""Seconds before a second try."""


@dataclass(frozen=True)
class HubDownload:
    """What to download from the hub."""

    out: Path | None = None
    """Folder to download into; only --list does without."""
    names: tuple[Literal[tuple(PUBLISHED)], ...] = ()
    """Published things. NoLDO-S12: nol (noisy labels of SSL4EO-S12), dw and osm (sets with exact labels), encoders by
    fusion and bands of Sentinel-2; ssl4eo_v1.1: images of SSL4EO-S12."""
    repo: str = ""
    """Any other repository, as OWNER/NAME."""
    repo_type: Literal["dataset", "model"] = "dataset"
    """What --repo is."""
    files: tuple[str, ...] = ()
    """Files of --repo, as '*.zip' or 'val/*'; a pattern without a slash is for names in any folder."""
    revision: str = "main"
    """Branch, tag or commit; a download that was begun with another commit says which to go on with."""
    split: Literal["train", "val"] = "train"
    """ssl4eo_v1.1: which part."""
    modalities: tuple[str, ...] = ("S1GRD", "S2L1C")
    """ssl4eo_v1.1: folders, of S1GRD, S2L1C, S2L2A and others (--list shows all)."""
    limit: int | None = None
    """Download only the first files of each folder."""
    list: bool = False
    """Only list all files of the repositories."""
    dry_run: bool = False
    """Only list the wanted files and estimate the disk space."""
    extract: bool = False
    """Unpack zip archives beside them, into folders of their names; .zarr.zip are read as they are and stay."""
    endpoint: str = ""
    """Address of the hub; HF_ENDPOINT, or https://huggingface.co, if empty."""
    workers: int = 4
    """Files at a time."""
    attempts: int = 5
    """Tries of a file."""

    def __post_init__(self) -> None:
        require(self.list or self.out is not None, "out", self.out, "a folder")
        require(bool(self.names or self.repo), "names", self.names, "given, or --repo OWNER/NAME")
        require(bool(self.files or self.list or not self.repo), "files", self.files, "given with --repo, as '*.zip'")
        require(bool(self.repo or not self.files), "files", self.files, "left out without --repo")
        require(bool(self.modalities), "modalities", self.modalities, "given, as S1GRD S2L1C")
        for flag in ("limit", "workers", "attempts"):
            value = getattr(self, flag)
            require(value is None or value >= 1, flag, value, "at least 1")


@dataclass(frozen=True)
class Job:
    """Files of a repository, and where they go."""

    repository: Repository
    commit: str
    files: Sequence[HubFile]
    folder: Path

    @property
    def missing(self) -> int:
        """Bytes to fetch."""
        return sum(file.missing(self.folder) for file in self.files)


def main(settings: HubDownload) -> int:
    """List, check, estimate, download, unpack; 1 where something could not be fetched."""
    if settings.out is not None:
        check_out(settings.out)
    jobs = plan(settings)
    if settings.list or settings.dry_run:
        print_files(jobs)
    if settings.list:
        return 0
    missing = sum(job.missing for job in jobs)
    free = check_space(settings.out, missing, "fewer files (--limit)")
    print(f"disk: {missing / 1e9:.3f} GB to fetch, {free / 1e9:.1f} GB free")
    if settings.dry_run:
        return 0
    summaries = [fetch_all(job, settings.workers, settings.attempts) for job in jobs]
    arrived = [job.folder / f.path for job in jobs for f in job.files if f.is_there(job.folder)]
    for path in arrived:
        if settings.extract and path.suffix == ".zip" and not path.name.endswith(".zarr.zip"):
            print(unpack(path))
    print_next([path for path in arrived if path.suffix == ".ckpt"])
    return int(any(summary.failed or summary.skipped for summary in summaries))


def wanted_files(settings: HubDownload) -> dict[tuple[str, str], list[str]]:
    """Repository and its kind -> patterns of its files."""
    wanted = defaultdict(list)
    for part in (PUBLISHED[name] for name in settings.names):
        wanted[part.repository, "dataset"] += part.patterns(settings.split, settings.modalities)
    if settings.repo:
        wanted[settings.repo, settings.repo_type] += settings.files
    return wanted


def plan(settings: HubDownload) -> list[Job]:
    """A job for each repository, from what its hub lists."""
    from huggingface_hub import get_token

    endpoint = settings.endpoint or os.environ.get("HF_ENDPOINT", "") or "https://huggingface.co"
    jobs = []
    for (name, kind), patterns in wanted_files(settings).items():
        repository = Repository(name, kind, endpoint.rstrip("/"), get_token())
        try:
            commit = with_retries(partial(repository.commit, settings.revision), settings.attempts, PAUSE)
            files = with_retries(partial(repository.files, commit), settings.attempts, PAUSE)
        except Unavailable as error:
            raise ValueError(f"{error}; try again later, or another --endpoint") from None
        try:
            chosen = files if settings.list else select(files, patterns, settings.limit)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        jobs.append(Job(repository, commit, chosen, (settings.out or Path()) / name.partition("/")[2]))
    return jobs


def print_files(jobs: Sequence[Job]) -> None:
    """Files with their sizes in bytes, and what they are together."""
    for job in jobs:
        print(f"{job.repository.name} at {job.commit}")
        for file in job.files:
            print(f"{file.num_bytes:>15,}  {file.path}")
        print(f"{sum(file.num_bytes for file in job.files):>15,}  in {len(job.files)} files")


def fetch_all(job: Job, workers: int, attempts: int) -> Summary:
    """Download the files of a job, with one bar for all their bytes; says what it did."""
    described = {"repository": job.repository.name, "kind": job.repository.kind, "revision": job.commit}
    items = {file.path: file for file in job.files}
    options = {"workers": workers, "attempts": attempts, "pause": PAUSE, "retry_skipped": True, "show": False}
    left = Event()
    with tqdm(total=job.missing, unit="B", unit_scale=True, desc=job.repository.name, disable=None) as bar:

        def tell(num_bytes: int) -> None:
            if left.is_set():
                raise ValueError("the download was left; the same command goes on")
            bar.update(num_bytes)

        def fetch(file: HubFile) -> list[FileMark]:
            return job.repository.fetch(file, job.commit, job.folder, tell)

        summary = download(items, fetch, job.folder, described, left=left, **options)
    print(f"{job.folder}: {summary}")
    return summary


def print_next(checkpoints: Sequence[Path]) -> None:
    """Checkpoints, and the two commands that follow: stores of a set with exact labels, transfer to it."""
    for path in checkpoints:
        bands = " --n_channels 9" if "-9B-" in path.name else ""
        print(f"{path}; next:")
        print("  python data_prepare/write_downstream_lmdb.py --dataset DFC2020 --data_path DFC2020 --out lmdb/dfc2020")
        print(f"  DATA=lmdb/dfc2020 bash ft_scripts/ft_dfc2020.sh s2 {shlex.quote(str(path))} frozen{bands}")


if __name__ == "__main__":
    run(main, HubDownload)
