"""Files of repositories on a Hugging Face hub: listed with sizes and hashes, fetched in pieces that add up, checked.

Plain HTTP with range requests, so that a killed download goes on: the hub's own client (2.4) begins a new file.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import Request, urlopen

from cromss.downloads.hub_files import HubFile, num_bytes_of
from cromss.downloads.job import NothingThere
from cromss.downloads.manifest import MANIFEST_NAME, FileMark
from cromss.downloads.retries import Unavailable
from cromss.store.folder import LOCK_NAME, sync_folder

TIMEOUT = 60.0
"""Seconds that a hub may be silent."""

CHUNK = 1 << 20
"""Bytes read at once; a connection that was cut after more is taken up again without being counted as a failure."""


_BUSY = {408, 425, 429, 500, 502, 503, 504}
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class Repository:
    """A repository on a hub.

    Attributes:
        name: `OWNER/NAME`.
        kind: What it holds.
        endpoint: Address of the hub.
        token: Of a user who may read it; sent to the hub alone, not to where it redirects.
    """

    name: str
    kind: Literal["dataset", "model"]
    endpoint: str
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name) or {".", ".."} & set(self.name.split("/")):
            raise ValueError(f"--repo {self.name}: wanted is OWNER/NAME")
        if not re.match("https?://[^/]", self.endpoint) or not _is_address(self.endpoint):
            raise ValueError(f"--endpoint {self.endpoint}: wanted is an address such as https://huggingface.co")

    def commit(self, revision: str) -> str:
        """Commit that a branch, tag or commit stands for.

        Raises:
            ValueError: No such repository or revision, not allowed, or no answer of a hub.
            Unavailable: The hub is busy or cannot be reached.
        """
        told, _ = self._json(f"{self._api}/revision/{quote(revision, safe='')}?expand=sha")
        commit = told.get("sha") if isinstance(told, dict) else None
        if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
            raise self._no_hub()
        return commit

    def files(self, commit: str) -> list[HubFile]:
        """All files by path; the errors are those of `commit`."""
        found, url, asked = [], f"{self._api}/tree/{commit}?recursive=true&expand=false", set()
        while url:
            if url in asked:
                raise self._no_hub()
            asked.add(url)
            rows, link = self._json(url)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise self._no_hub()
            found += [self._file(row) for row in rows if row.get("type") == "file"]
            following = re.search(r'<([^>]+)>;\s*rel="?next', link)
            url = urljoin(url, following[1]) if following else ""
        return sorted(found, key=lambda file: file.path)

    def fetch(
        self, file: HubFile, commit: str, folder: Path, tell: Callable[[int], None] = lambda _: None
    ) -> list[FileMark]:
        """Fetch a file into `folder`, from where an earlier try stopped; what is there already is only checked.

        Args:
            file: The file.
            commit: Of the listing that it is from.
            folder: Where it belongs under its path.
            tell: Called with the bytes that came, negative where some have to come again.

        Raises:
            Unavailable: Cut, busy, or not what the hub states; that is removed.
            NothingThere: The file is gone.
            ValueError: As `commit`.
        """
        path, partial = folder / file.path, file.partial(folder)
        if file.is_there(folder):
            partial = path
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._complete(file, commit, partial, tell)
        try:
            mark = file.check(partial)
        except Unavailable:
            tell(-num_bytes_of(partial))
            partial.unlink()
            raise
        with partial.open("rb") as whole:
            os.fsync(whole.fileno())
        partial.replace(path)
        sync_folder(path.parent)
        return [mark]

    def _complete(self, file: HubFile, commit: str, partial: Path, tell: Callable[[int], None]) -> None:
        """Add to a file what it lacks, with as many connections as bring something."""
        partial.touch()
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        url = f"{self.endpoint}/{prefix}{self.name}/resolve/{commit}/{quote(file.path)}"
        while (have := num_bytes_of(partial)) < file.num_bytes:
            with self._open(url, have) as response:
                goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
                if have and not goes_on:
                    tell(-have)
                _refuse_other_size(response, file, have if goes_on else 0, partial)
                _append(response, partial, "ab" if goes_on else "wb", file.num_bytes, tell)
            got = num_bytes_of(partial)
            if got < min(have + CHUNK, file.num_bytes):
                raise Unavailable(f"{file.path}: the connection was cut after {got} of {file.num_bytes} bytes")

    @property
    def _api(self) -> str:
        return f"{self.endpoint}/api/{self.kind}s/{self.name}"

    def _file(self, row: dict[str, Any]) -> HubFile:
        large = row["lfs"] if isinstance(row.get("lfs"), dict) else {}
        path, size, digest = row.get("path"), large.get("size", row.get("size")), large.get("oid", row.get("oid"))
        if not isinstance(path, str) or not isinstance(size, int) or not isinstance(digest, str):
            raise self._no_hub()
        if size < 0 or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest):
            raise self._no_hub()
        parts = path.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in path or not path.isprintable() or path in (MANIFEST_NAME, LOCK_NAME):
            raise ValueError(f"{self.name}: the hub lists {path!r}, which is no path to write to")
        return HubFile(path, size, digest)

    def _json(self, url: str) -> tuple[Any, str]:
        """Content of an answer, and its links."""
        with self._open(url) as response:
            try:
                return json.loads(response.read()), response.headers.get("Link", "")
            except (OSError, HTTPException) as error:
                raise Unavailable(f"{self.name}: {error}") from None
            except (ValueError, RecursionError):
                raise self._no_hub() from None

    def _open(self, url: str, start: int = 0) -> HTTPResponse:
        if urlsplit(url).scheme not in ("http", "https"):
            raise self._no_hub()
        request = Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "cromss"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self.token and urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            return urlopen(request, timeout=TIMEOUT)
        except HTTPError as error:
            with error:
                raise self._refusal(error, is_file="/resolve/" in url) from None
        except (OSError, HTTPException) as error:
            raise Unavailable(f"{urlsplit(url).netloc}: {getattr(error, 'reason', error)}") from None
        except ValueError:  # a redirection to what is no address
            raise self._no_hub() from None

    def _refusal(self, error: HTTPError, is_file: bool) -> Exception:
        """What an answer that is an error means."""
        code, named = error.code, error.headers.get("X-Error-Code", "")
        if code in _BUSY:
            told = error.headers.get("Retry-After", "")
            wait = float(told) if told.isdecimal() else None
            return Unavailable(f"{self.name}: the hub answered {code}", wait)
        if code in (401, 403) and named != "RepoNotFound":
            return ValueError(
                f"{self.name}: private or gated; {_LOGIN}, and ask for access on its page at {self.endpoint}"
            )
        if is_file and code == 404:
            return NothingThere("the hub lists it, but does not have it")
        if named == "RevisionNotFound":
            return ValueError(f"{self.name}: no such --revision")
        if code in (401, 404):
            return ValueError(
                f"{self.name}: no such {self.kind} at {self.endpoint}, or a private one; check the name, or {_LOGIN}"
            )
        return ValueError(f"{self.name}: the hub answered {code}")

    def _no_hub(self) -> ValueError:
        return ValueError(f"--endpoint {self.endpoint}: does not answer as a hub")


def _is_address(url: str) -> bool:
    try:
        return bool((urlsplit(url).hostname or "").encode("idna")) and urlsplit(url).port != 0
    except ValueError:
        return False


def _refuse_other_size(response: HTTPResponse, file: HubFile, have: int, partial: Path) -> None:
    """Remove what came of a file that will not be as large as the hub states."""
    coming = response.headers.get("Content-Length", "")
    if coming.isdecimal() and have + int(coming) != file.num_bytes:
        partial.unlink()
        raise Unavailable(f"{file.path}: {have + int(coming)} bytes are sent, the hub states {file.num_bytes}")


def _append(response: HTTPResponse, path: Path, mode: str, most: int, tell: Callable[[int], None]) -> None:
    """Write what comes to the end of a file, at most a chunk beyond `most` bytes."""
    with path.open(mode) as file:
        for chunk in _chunks(response):
            file.write(chunk)
            tell(len(chunk))
            if file.tell() > most:
                return


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What comes until the end or a cut."""
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, HTTPException):
        return
