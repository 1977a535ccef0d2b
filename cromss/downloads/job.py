"""A download job: named items fetched by several threads, each on the account of a manifest."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from tqdm import tqdm

from cromss.downloads.manifest import Entry, FileMark, Manifest
from cromss.downloads.retries import Unavailable, with_retries
from cromss.work_ahead import work_ahead

FAILURES_IN_A_ROW = 10
"""Items that may fail one after the other before a job gives up: the service is gone."""

Item = TypeVar("Item")


class NothingThere(ValueError):
    """A service that answered, and has nothing for this item; asking again would not help."""


@dataclass(frozen=True)
class Summary:
    """What a job did.

    Attributes:
        num_fetched: Items fetched by this run.
        num_kept: Items that an earlier run had done with.
        skipped: Reason -> items without data, those of earlier runs included.
        failed: Item -> why it is to be tried again.
        num_bytes: Bytes fetched by this run.
        seconds: Time that this run took.
    """

    num_fetched: int
    num_kept: int
    skipped: Mapping[str, int]
    failed: Mapping[str, str]
    num_bytes: int
    seconds: float

    def __str__(self) -> str:
        rate = self.num_bytes / 1e6 / max(self.seconds, 1e-9)
        lines = [
            f"fetched: {self.num_fetched} items, {self.num_bytes / 1e6:.1f} MB ({rate:.1f} MB/s); "
            f"there already: {self.num_kept}"
        ]
        lines += [f"skipped: {count} x {reason}" for reason, count in self.skipped.items()]
        lines += [f"failed: {name}: {reason}" for name, reason in list(self.failed.items())[:10]]
        if self.failed:
            lines.append(f"{len(self.failed)} items failed; the same command tries them again")
        return "\n".join(lines)


def download(
    items: Mapping[str, Item],
    fetch: Callable[[Item], Sequence[FileMark]],
    folder: Path,
    described: Mapping[str, Any],
    workers: int = 4,
    attempts: int = 5,
    pause: float = 2.0,
    retry_skipped: bool = False,
    show: bool = True,
    left: Event | None = None,
) -> Summary:
    """Fetch all items that are not there yet, with a progress bar.

    Args:
        items: Name -> item; the names are what the manifest knows them by.
        fetch: Fetches one item into `folder` and returns its files (see `written` for writing them whole). It raises
            `Unavailable` to be called again, `NothingThere` to skip the item, any other error to stop the job.
        folder: Folder of the job.
        described: See `Manifest`.
        workers: Threads.
        attempts: Tries of an item.
        pause: First pause between them, in seconds.
        retry_skipped: Ask again for items that an earlier run found nothing for.
        show: Show a bar that counts items; not wanted where `fetch` shows its own.
        left: Set when the job is left early, for a `fetch` of long items to end at once.

    Raises:
        ValueError: As `Manifest` and `fetch`, or `FAILURES_IN_A_ROW` items failed one after the other.
    """
    for flag, value in (("workers", workers), ("attempts", attempts)):
        if value < 1:
            raise ValueError(f"--{flag} {value}: at least 1")
    start, in_a_row, num_bytes, num_fetched = time.monotonic(), 0, 0, 0
    with Manifest(folder, described) as manifest:
        wanted = {name: item for name, item in items.items() if not manifest.is_done(name, retry_skipped)}

        def fetch_named(named: tuple[str, Item]) -> Sequence[FileMark]:
            return with_retries(lambda: fetch(named[1]), attempts, pause)

        results = work_ahead(fetch_named, wanted.items(), workers)
        with closing(results), _told(left), tqdm(total=len(wanted), unit="item", disable=None if show else True) as bar:
            for (name, _), future in results:
                entry = _outcome(name, future)
                manifest.add(entry)
                num_bytes += sum(mark.num_bytes for mark in entry.files)
                num_fetched += entry.state == "done"
                in_a_row = in_a_row + 1 if entry.state == "failed" else 0
                if in_a_row == FAILURES_IN_A_ROW:
                    raise ValueError(f"{in_a_row} items failed one after the other, last {name}: {entry.reason}")
                bar.set_postfix_str(f"{num_bytes / 1e6:.1f} MB", refresh=False)
                bar.update()
        told = [manifest.entries[name] for name in items if name in manifest.entries]
    return Summary(
        num_fetched,
        len(items) - len(wanted),
        Counter(entry.reason for entry in told if entry.state == "skipped"),
        {entry.name: entry.reason for entry in told if entry.state == "failed"},
        num_bytes,
        time.monotonic() - start,
    )


@contextmanager
def _told(left: Event | None) -> Iterator[None]:
    """Set the event where the context is left by an error."""
    try:
        yield
    except BaseException:
        if left:
            left.set()
        raise


def _outcome(name: str, future: Future[Sequence[FileMark]]) -> Entry:
    try:
        return Entry(name, "done", tuple(future.result()))
    except NothingThere as error:
        return Entry(name, "skipped", reason=_one_line(error))
    except Unavailable as error:
        return Entry(name, "failed", reason=_one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
