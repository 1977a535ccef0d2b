"""Files from a hub on the loopback: what is listed, what is fetched, and what is not believed."""

import hashlib
import os
import re

import numpy as np
import pytest
from hub_server import COMMIT, REPOSITORY, serving

from cromss.downloads import FileMark, NothingThere, Unavailable, download
from cromss.downloads.hub import CHUNK, Repository
from cromss.downloads.hub_files import HubFile, select

RNG = np.random.default_rng(0)
FILES = {
    "README.md": b"a small file\n",
    "set.zip": RNG.bytes(3 * CHUNK + 17),
    "empty.txt": b"",
    "val/S1/shard_2.zarr.zip": RNG.bytes(1000),
    "val/S1/shard_1.zarr.zip": RNG.bytes(2000),
    "val/S2/shard 1 é#?=%.zarr.zip": RNG.bytes(3000),
}
BIG = "set.zip"


@pytest.fixture
def hub():
    with serving(FILES) as served:
        yield served


def repository(hub, token=None):
    return Repository(REPOSITORY, "dataset", hub.endpoint, token)


def listed(hub, path=BIG):
    return next(file for file in repository(hub).files(COMMIT) if file.path == path)


def fetch(hub, folder, path=BIG, **options):
    return repository(hub).fetch(listed(hub, path), COMMIT, folder, **options)


def job(hub, folder, path=BIG, attempts=3):
    file = listed(hub, path)
    return download(
        {path: file}, lambda item: repository(hub).fetch(item, COMMIT, folder), folder, {}, 1, attempts, pause=0.0
    )


def left(folder):
    """Files that a fetch left, but for those of the job itself."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in ("downloads.jsonl", "writer.lock"))


def test_a_listing_has_sizes_and_hashes(hub):
    assert repository(hub).commit("main") == COMMIT
    files = {file.path: file for file in repository(hub).files(COMMIT)}
    assert list(files) == sorted(FILES)
    for path, content in FILES.items():
        assert files[path].num_bytes == len(content)
    assert files[BIG].digest == hashlib.sha256(FILES[BIG]).hexdigest()
    assert files["empty.txt"].digest == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object /dev/null


def test_the_hubs_own_client_sees_the_same(hub, tmp_path, monkeypatch):
    """The fake speaks what the real client understands."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint, token=False)
    rows = [row for row in api.list_repo_tree(REPOSITORY, recursive=True, repo_type="dataset") if hasattr(row, "size")]
    theirs = {row.path: (row.size, row.lfs.sha256 if row.lfs else row.blob_id) for row in rows}
    assert theirs == {file.path: (file.num_bytes, file.digest) for file in repository(hub).files(COMMIT)}
    path = api.hf_hub_download(REPOSITORY, BIG, repo_type="dataset", local_dir=tmp_path / "theirs")
    with open(path, "rb") as file:
        assert file.read() == FILES[BIG]


@pytest.mark.parametrize("path", FILES)
def test_files_arrive_whole_under_their_names(hub, tmp_path, path):
    told = []
    (mark,) = fetch(hub, tmp_path, path, tell=told.append)
    assert (tmp_path / path).read_bytes() == FILES[path]
    assert mark == FileMark(path, len(FILES[path]), hashlib.sha256(FILES[path]).hexdigest())
    assert sum(told) == len(FILES[path])
    assert left(tmp_path) == [path]


def test_a_file_that_is_there_is_checked_and_not_fetched(hub, tmp_path):
    (tmp_path / BIG).write_bytes(FILES[BIG])
    fetch(hub, tmp_path)
    assert not hub.sent
    (tmp_path / BIG).write_bytes(b"\0" + FILES[BIG][1:])
    assert job(hub, tmp_path).num_fetched == 1
    assert (tmp_path / BIG).read_bytes() == FILES[BIG]
    assert hub.sent[BIG] == len(FILES[BIG])


def test_a_cut_connection_goes_on_where_it_was_cut(hub, tmp_path):
    cut = CHUNK + 5
    hub.faults = [cut, cut]
    fetch(hub, tmp_path)
    assert hub.ranges_asked == [None, f"bytes={cut}-", f"bytes={2 * cut}-"]
    assert hub.sent[BIG] == len(FILES[BIG])
    assert (tmp_path / BIG).read_bytes() == FILES[BIG]


def test_cuts_that_bring_little_count_as_failures_and_keep_what_came(hub, tmp_path):
    hub.faults = [10, 10, 10]
    summary = job(hub, tmp_path, attempts=3)
    assert summary.failed == {BIG: f"{BIG}: the connection was cut after 30 of {len(FILES[BIG])} bytes"}
    assert job(hub, tmp_path).num_fetched == 1
    assert hub.ranges_asked[-1] == "bytes=30-"
    assert hub.sent[BIG] == len(FILES[BIG])


def test_a_server_without_ranges_begins_anew(hub, tmp_path):
    hub.ranges, hub.faults = False, [2 * CHUNK]
    told = []
    fetch(hub, tmp_path, tell=told.append)
    assert (tmp_path / BIG).read_bytes() == FILES[BIG]
    assert sum(told) == len(FILES[BIG])
    assert hub.sent[BIG] == 2 * CHUNK + len(FILES[BIG])


def test_a_partial_file_of_other_content_is_removed_and_fetched_again(hub, tmp_path):
    listed(hub).partial(tmp_path).write_bytes(b"x" * 100)
    assert job(hub, tmp_path).num_fetched == 1
    assert hub.ranges_asked == ["bytes=100-", None]
    listed(hub).partial(tmp_path).write_bytes(b"x" * (len(FILES[BIG]) + 1))
    (tmp_path / BIG).unlink()
    assert job(hub, tmp_path).num_fetched == 1


@pytest.mark.parametrize("path", [BIG, "README.md"])
def test_a_wrong_hash_is_refused_and_nothing_stays(hub, tmp_path, path):
    digest = hashlib.sha256(b"other").hexdigest()
    hub.lies[path] = {"lfs": {"oid": digest, "size": len(FILES[path])}} if path == BIG else {"oid": digest[:40]}
    summary = job(hub, tmp_path, path, attempts=2)
    assert re.fullmatch(
        rf"{path}: its hash is \w+, the hub states {digest[: 64 if path == BIG else 40]}", summary.failed[path]
    )
    assert hub.sent[path] == 2 * len(FILES[path])
    assert left(tmp_path) == []


@pytest.mark.parametrize("more", [1, -1, -1000, CHUNK])
def test_a_wrong_size_is_refused_before_it_is_fetched(hub, tmp_path, more):
    size = len(FILES[BIG])
    hub.lies[BIG] = {"lfs": {"oid": hashlib.sha256(FILES[BIG]).hexdigest(), "size": size + more}}
    summary = job(hub, tmp_path, attempts=2)
    assert summary.failed == {BIG: f"{BIG}: {size} bytes are sent, the hub states {size + more}"}
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [429, 503, 500, 408])
def test_a_busy_hub_is_asked_again_after_the_time_it_says(hub, tmp_path, status, monkeypatch):
    hub.faults = [(status, {"Retry-After": "0"})] * 2
    assert job(hub, tmp_path, attempts=3).num_fetched == 1
    hub.faults = [
        (status, {"Retry-After": "17"}),
        (status, {"Retry-After": "9" * 400}),
        (status, {"Retry-After": "soon"}),
    ]
    (tmp_path / BIG).unlink()
    waits = []
    for _ in range(3):
        with pytest.raises(Unavailable, match=f"{REPOSITORY}: the hub answered {status}") as caught:
            fetch(hub, tmp_path)
        waits.append(caught.value.wait)
    assert waits == [17.0, float("inf"), None]  # retries wait for an hour at most


GATED = f"^{REPOSITORY}: private or gated; log in with `hf auth login` or set HF_TOKEN"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"X-Error-Code": "RepoNotFound"}), f"^{REPOSITORY}: no such dataset at .* private one.*HF_TOKEN$"),
        ((404, {"X-Error-Code": "RepoNotFound"}), f"^{REPOSITORY}: no such dataset"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), f"^{REPOSITORY}: no such --revision$"),
        ((401, {"X-Error-Code": "GatedRepo"}), GATED),
        ((403, {"X-Error-Code": "GatedRepo"}), GATED),
        ((403, {}), GATED),
        ((401, {}), GATED),
        ((400, {}), f"^{REPOSITORY}: the hub answered 400$"),
        ((302, {"Location": "file:///etc/passwd"}), "the hub answered 302"),
        ((200, {}, b"<html>"), "^--endpoint http://127.0.0.1:.*: does not answer as a hub$"),
        ((200, {}, b"[]"), "does not answer as a hub"),
        ((200, {}, b'{"sha": 1}'), "does not answer as a hub"),
        ((200, {}, b'{"sha": "../../x"}'), "does not answer as a hub"),
        ((200, {}, b"[" * 100_000), "does not answer as a hub"),
    ],
)
def test_refusals_are_one_line(hub, answer, message):
    hub.api_faults = [answer]
    with pytest.raises(ValueError, match=message):
        repository(hub).commit("main")


def test_a_file_may_be_gated_or_gone_while_its_listing_is_not(hub, tmp_path):
    file = listed(hub)
    hub.faults = [(403, {"X-Error-Code": "GatedRepo"})]
    with pytest.raises(ValueError, match=GATED):
        repository(hub).fetch(file, COMMIT, tmp_path)
    del hub.files[BIG]
    with pytest.raises(NothingThere, match="the hub lists it, but does not have it"):
        repository(hub).fetch(file, COMMIT, tmp_path)


@pytest.mark.parametrize(
    "rows",
    [
        *("{}", "[1]", '[{"type": "file"}]', '[{"type": "file", "path": "a", "size": -1, "oid": "%s"}]' % ("0" * 40)),
        '[{"type": "file", "path": "a", "size": 1, "oid": "short"}]',
        '[{"type": "file", "path": "a", "size": "1", "oid": "%s"}]' % ("0" * 40),
        '[{"type": "file", "path": "a", "size": 1, "oid": "%s", "lfs": {"oid": 3}}]' % ("0" * 40),
    ],
)
def test_a_listing_that_is_none_is_refused(hub, rows):
    hub.api_faults = [(200, {}, rows.encode())]
    with pytest.raises(ValueError, match="does not answer as a hub"):
        repository(hub).files(COMMIT)


@pytest.mark.parametrize(
    "path",
    *[["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a\\b", "C:\\x", "a\nb", "downloads.jsonl", "writer.lock"]],
)
def test_paths_that_lead_elsewhere_are_refused(hub, path):
    hub.files = {path: b"x"}
    with pytest.raises(ValueError, match=rf"^{REPOSITORY}: the hub lists .*, which is no path to write to$"):
        repository(hub).files(COMMIT)


def test_the_token_goes_to_the_hub_alone(hub, tmp_path):
    known = repository(hub, "hf_secret")
    file = next(file for file in known.files(COMMIT) if file.path == BIG)
    known.fetch(file, COMMIT, tmp_path)
    assert hub.tokens == {"hub": {"Bearer hf_secret"}, "store": {None}}
    assert "hf_secret" not in repr(known)


@pytest.mark.parametrize("name", ["", "set", "a/b/c", "../set", "owner/..", "a b/c", "https://huggingface.co/a/b"])
def test_names_of_repositories(name):
    with pytest.raises(ValueError, match=r"wanted is OWNER/NAME$"):
        Repository(name, "dataset", "https://huggingface.co")


def test_a_listing_without_an_end_is_refused(hub):
    again = {"Link": f'<{hub.endpoint}/api/datasets/{REPOSITORY}/tree/{COMMIT}?cursor=1>; rel="next"'}
    hub.api_faults = [(200, again, b"[]")] * 50
    with pytest.raises(ValueError, match="does not answer as a hub"):
        repository(hub).files(COMMIT)
    assert len(hub.api_faults) == 48


def test_a_redirection_to_no_address_is_refused(hub, tmp_path):
    hub.faults = [(302, {"Location": "http://[bad/"}, b"")]
    with pytest.raises(ValueError, match=rf"^--endpoint {hub.endpoint}: does not answer as a hub$"):
        fetch(hub, tmp_path)


@pytest.mark.parametrize(
    "endpoint",
    [
        *(
            "",
            "huggingface.co",
            "file:///etc",
            "ftp://x",
            "https://",
            "http://[::1",
            "http://host:port",
            "http://h:99999",
        ),
        f"http://{'a' * 70}.org",
    ],
)
def test_endpoints(endpoint):
    with pytest.raises(ValueError, match=f"^--endpoint {re.escape(endpoint)}: wanted is an address"):
        Repository(REPOSITORY, "dataset", endpoint)


def test_no_hub_at_all(tmp_path):
    with pytest.raises(Unavailable, match=r"^127\.0\.0\.1:9: .*refused"):
        Repository(REPOSITORY, "dataset", "http://127.0.0.1:9").commit("main")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_no_fault_of_the_hub(hub, tmp_path):
    listed(hub).partial(tmp_path).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        job(hub, tmp_path)


def chosen(patterns, limit=None):
    files = [HubFile(path, len(content), "0" * 40) for path, content in sorted(FILES.items())]
    return [file.path for file in select(files, patterns, limit)]


def test_selection():
    assert chosen(["set.zip"]) == ["set.zip"]
    assert chosen(["*.txt", "README.md", "*.txt"]) == ["README.md", "empty.txt"]
    assert chosen(["shard_*"]) == ["val/S1/shard_1.zarr.zip", "val/S1/shard_2.zarr.zip"]
    assert chosen(["val/S?/*"], limit=1) == ["val/S1/shard_1.zarr.zip", "val/S2/shard 1 é#?=%.zarr.zip"]
    with pytest.raises(
        ValueError, match=r"^no file like 'train/\*'; there are: README.md, empty.txt, .* \(--list shows"
    ):
        chosen(["set.zip", "train/*"])
