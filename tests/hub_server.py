"""A Hugging Face hub on the loopback: listings, files behind a redirect, ranges, and what may go wrong."""

import hashlib
import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/set"
PAGE = 3
"""Files of a listing that are answered at once."""


def stated(path, content):
    """What a hub says of a file: large ones by SHA-256, small ones by git's id."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    row = {"type": "file", "path": path, "size": len(content), "oid": blob}
    if len(content) >= 100:
        row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return row


class FakeHub:
    """State of the server, for a test to set and to look at.

    Attributes:
        files: Path -> content.
        lies: Path -> entries of the listing that are not so.
        faults: What the next requests for content meet, one each: `(status, headers)`, or the number of bytes after
            which the connection is cut; `None` for nothing.
        api_faults: The same for listings, statuses only.
        ranges: Whether ranges are served.
        repositories: Those that exist; others are answered as on the hub.
        ranges_asked: Range headers of the requests for content.
        sent: Path -> bytes of content sent.
        tokens: Server ("hub" or "store") -> Authorization headers that it saw.
        stall_at: Bytes after which content stalls until `go_on` is set.
    """

    def __init__(self, files):
        self.files, self.lies, self.faults, self.api_faults, self.ranges = dict(files), {}, [], [], True
        self.repositories = {f"datasets/{REPOSITORY}"}
        self.ranges_asked, self.sent, self.tokens = [], Counter(), {"hub": set(), "store": set()}
        self.stall_at, self.stalled, self.go_on = None, threading.Event(), threading.Event()
        self.endpoint = self.store = ""


def _handler(hub, role):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, headers=(), body=b""):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            hub.tokens[role].add(self.headers.get("Authorization"))
            url = urlsplit(self.path)
            path = unquote(url.path).strip("/")
            if role == "store":
                return self.content(path)
            if not path.startswith(("api/", "datasets/")):
                path = f"models/{path}"
            parts = path.removeprefix("api/").split("/")
            name, (route, *rest) = "/".join(parts[:3]), parts[3:]
            if name not in hub.repositories:
                return self.answer(401, {"X-Error-Code": "RepoNotFound"})
            if path.startswith("api/"):
                return self.listing(name, route, rest, parse_qs(url.query))
            return self.resolve(rest[0], "/".join(rest[1:]))

        def listing(self, name, route, rest, query):
            if hub.api_faults:
                return self.answer(*hub.api_faults.pop(0))
            if rest[0] not in ("main", COMMIT):
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            if route == "revision":
                return self.answer(
                    200, body=json.dumps({"_id": "1", "id": name.partition("/")[2], "sha": COMMIT}).encode()
                )
            rows = [stated(path, content) | hub.lies.get(path, {}) for path, content in hub.files.items()]
            folders = {path.rpartition("/")[0] for path in hub.files} - {""}
            rows += [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
            start = int(query.get("cursor", ["0"])[0])
            headers = {}
            if start + PAGE < len(rows):
                following = f"{hub.endpoint}/api/{name}/tree/{rest[0]}?recursive=true&cursor={start + PAGE}"
                headers = {"Link": f'<{following}>; rel="next"'}
            return self.answer(200, headers, json.dumps(rows[start : start + PAGE]).encode())

        def resolve(self, revision, path):
            if path not in hub.files:
                return self.answer(404, {"X-Error-Code": "EntryNotFound"})
            row = stated(path, hub.files[path])
            told = {"X-Repo-Commit": COMMIT, "ETag": f'"{row["oid"]}"'}
            if "lfs" not in row:
                return self.content(path, told)
            linked = {"X-Linked-Size": str(row["size"]), "X-Linked-ETag": f'"{row["lfs"]["oid"]}"'}
            return self.answer(302, told | linked | {"Location": f"{hub.store}/{quote(path)}?signature=secret"})

        def content(self, path, headers=()):
            if self.command == "HEAD":
                return self.answer(200, headers, hub.files[path])
            fault = hub.faults.pop(0) if hub.faults else None
            if isinstance(fault, tuple):
                return self.answer(*fault)
            content, asked = hub.files[path], self.headers.get("Range")
            hub.ranges_asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and hub.ranges else 0
            if start and start >= len(content):
                return self.answer(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.send_content(path, content[start:] if fault is None else content[start:][:fault])

        def send_content(self, path, content):
            parts = [content] if hub.stall_at is None else [content[: hub.stall_at], content[hub.stall_at :]]
            for part in parts:
                hub.sent[path] += len(part)
                self.wfile.write(part)
                self.wfile.flush()
                if part is not parts[-1]:
                    hub.stalled.set()
                    hub.go_on.wait(30)

    return Handler


@contextmanager
def serving(files):
    """A hub that runs while the context is open."""
    hub = FakeHub(files)
    servers = []
    try:
        for role in ("hub", "store"):
            servers.append(ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub, role)))
            threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        hub.endpoint, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
        yield hub
    finally:
        hub.go_on.set()
        for server in servers:
            server.shutdown()
            server.server_close()
