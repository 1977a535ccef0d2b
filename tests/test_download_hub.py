"""The script that downloads from a hub, against one on the loopback."""

import re
import signal
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, load_script
from hub_server import COMMIT, serving
from hub_server import REPOSITORY as OTHER

from cromss.config import read
from cromss.downloads.hub import CHUNK
from cromss.downloads.published import NOLDO, PUBLISHED, SSL4EO_V11

script = load_script("download_hub")
RNG = np.random.default_rng(2)


def zipped(members):
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


NOL = zipped({"dw/1.tif": RNG.bytes(2 * CHUNK)})
SHARDS = [
    f"{split}/{m}/{i}.zarr.zip" for split in ("train", "val") for m in ("S1GRD", "S2L1C", "S2L2A") for i in (1, 2, 3)
]
FILES = {
    "ssl4eo_s12_nol.zip": NOL,
    "ssl4eo_s12_dw.zip": zipped({"a": b"1" * 200}),
    "weights-cromss-13B-midFusion-epoch=199.ckpt": RNG.bytes(300),
    "weights/weights-cromss-9B-lateFusion-epoch=199.ckpt": RNG.bytes(400),
    **{path: zipped({"zarr.json": b"{}", "x": RNG.bytes(100)}) for path in SHARDS},
}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(script, "PAUSE", 0.0)
    with serving(FILES) as served:
        served.repositories = {f"datasets/{name}" for name in (NOLDO, SSL4EO_V11, OTHER)} | {f"models/{OTHER}"}
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served


def run(*arguments):
    return script.main(read(script.HubDownload, [str(argument) for argument in arguments]))


def there(folder):
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith(("downloads.jsonl", "writer.lock")))


def test_names_become_files_and_the_next_commands(hub, tmp_path, capsys):
    assert run("--out", tmp_path, "--names", "nol", "mid_13", "late_9") == 0
    told = capsys.readouterr().out
    folder = tmp_path / "NoLDO-S12"
    checkpoints = [name for name in FILES if name.endswith(".ckpt")]
    assert there(folder) == sorted(["ssl4eo_s12_nol.zip", *checkpoints])
    for name in there(folder):
        assert (folder / name).read_bytes() == FILES[name]
    assert "fetched: 3 items" in told
    mid, late = (
        next(line for line in told.splitlines() if f"{word}Fusion" in line and "bash" in line)
        for word in ("mid", "late")
    )
    assert mid.split()[-2:] == [f"{folder / checkpoints[0]}", "frozen"]
    assert late.endswith("frozen --n_channels 9")
    assert re.search(r"python data_prepare/write_downstream_lmdb.py --dataset DFC2020", told)
    assert hub.tokens["hub"] == {"Bearer hf_test"}
    hub.sent.clear()
    assert run("--out", tmp_path, "--names", "nol", "mid_13", "late_9") == 0
    assert "there already: 3" in capsys.readouterr().out
    assert not hub.sent


def test_shards_by_split_modality_and_limit(hub, tmp_path):
    arguments = ("--names", "ssl4eo_v1.1", "--split", "val", "--modalities", "S1GRD", "S2L2A", "--limit", 2)
    assert run("--out", tmp_path, *arguments, "--extract") == 0
    assert there(tmp_path / "SSL4EO-S12-v1.1") == [f"val/{m}/{i}.zarr.zip" for m in ("S1GRD", "S2L2A") for i in (1, 2)]


def test_two_repositories_at_once_and_patterns_of_ones_own(hub, tmp_path):
    assert run("--out", tmp_path, "--names", "dw", "--repo", OTHER, "--files", "*midFusion*", "val/S1GRD/1*") == 0
    assert there(tmp_path / "NoLDO-S12") == ["ssl4eo_s12_dw.zip"]
    assert there(tmp_path / "set") == ["val/S1GRD/1.zarr.zip", "weights-cromss-13B-midFusion-epoch=199.ckpt"]


def test_models_are_repositories_too(hub, tmp_path):
    assert run("--out", tmp_path, "--repo", OTHER, "--repo_type", "model", "--files", "*nol.zip") == 0
    assert there(tmp_path / "set") == ["ssl4eo_s12_nol.zip"]


def test_extract_unpacks_what_was_fetched_and_goes_on(hub, tmp_path, capsys):
    for _ in range(2):
        assert run("--out", tmp_path, "--names", "nol", "dw", "--extract") == 0
    assert "ssl4eo_s12_nol: 1 files" in capsys.readouterr().out
    with zipfile.ZipFile(BytesIO(NOL)) as archive:
        assert (tmp_path / "NoLDO-S12/ssl4eo_s12_nol/dw/1.tif").read_bytes() == archive.read("dw/1.tif")


def test_dry_run_and_list_write_nothing(hub, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--out", out, "--names", "nol", "--dry_run") == 0
    told = capsys.readouterr().out
    assert f"{NOLDO} at {COMMIT}" in told
    assert f"{len(NOL):>15,}  ssl4eo_s12_nol.zip" in told
    assert f"disk: {len(NOL) / 1e9:.3f} GB to fetch" in told
    assert run("--names", "nol", "--list") == 0
    told = capsys.readouterr().out
    assert all(f"{len(content):>15,}  {path}\n" in told for path, content in FILES.items())
    assert f"in {len(FILES)} files" in told
    assert not out.exists()
    assert not hub.sent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--names", "osm"), rf"^{NOLDO}: no file like 'ssl4eo_s12_osm.zip'; there are: ssl4eo_s12_dw.zip, .*--list"),
        (("--names", "ssl4eo_v1.1", "--modalities", "DEM"), r"no file like 'train/DEM/\*.zip'; there are"),
        (("--names", "nol", "--revision", "v9"), f"^{NOLDO}: no such --revision$"),
        (("--repo", "owner/none", "--files", "*"), r"^owner/none: no such dataset .*check the name, or log in with"),
        (("--names", "nol", "--endpoint", "ftp://x"), "^--endpoint ftp://x: wanted is an address"),
        (("--repo", "none", "--files", "*"), "^--repo none: wanted is OWNER/NAME"),
        (("--names", "nol", "--out", __file__), "is a file; a folder is wanted"),
    ],
)
def test_wrong_wishes_are_one_line(hub, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run("--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--names", "nol"), "^--out None: must be a folder"),
        (("--out", "x"), "^--names : must be given, or --repo"),
        (("--out", "x", "--repo", "a/b"), "^--files : must be given with --repo"),
        (("--out", "x", "--names", "nol", "--files", "*"), r"^--files \*: must be left out without --repo"),
        (("--out", "x", "--names", "nol", "--limit", "0"), "^--limit 0: must be at least 1"),
        (("--out", "x", "--names", "nol", "--workers", "0"), "^--workers 0: must be"),
        (("--out", "x", "--names", "nol", "--attempts", "0"), "^--attempts 0: must be"),
        (("--out", "x", "--names", "nal"), "invalid choice 'nal'"),
        (("--out", "x", "--names", "ssl4eo_v1.1", "--split", "test"), "invalid choice 'test'"),
        (("--out", "x", "--names", "ssl4eo_v1.1", "--modalities"), "^--modalities : must be given"),
    ],
)
def test_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        read(script.HubDownload, arguments)


def test_a_hub_that_stays_busy_or_away(hub, tmp_path):
    hub.api_faults = [(503, {"Retry-After": "0"})] * 2
    with pytest.raises(ValueError, match="the hub answered 503; try again later, or another --endpoint"):
        run("--out", tmp_path, "--names", "nol", "--attempts", 2)
    hub.api_faults = [(429, {"Retry-After": "0"})]
    assert run("--out", tmp_path, "--names", "nol", "--attempts", 2) == 0
    with pytest.raises(ValueError, match="refused"):
        run("--out", tmp_path, "--names", "nol", "--attempts", 1, "--endpoint", "http://127.0.0.1:9")


def test_a_file_that_stays_wrong_is_told_and_the_others_come(hub, tmp_path, capsys):
    hub.lies["ssl4eo_s12_nol.zip"] = {"lfs": {"oid": "0" * 64, "size": len(NOL)}}
    assert run("--out", tmp_path, "--names", "nol", "dw", "--attempts", 2, "--extract") == 1
    assert re.search(r"failed: ssl4eo_s12_nol.zip: .*its hash is \w+, the hub states 0{64}\n", capsys.readouterr().out)
    assert there(tmp_path / "NoLDO-S12")[-1] == "ssl4eo_s12_dw/unpacked.json"


def test_too_little_space_is_said_first(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": len(NOL) - 1}))
    with pytest.raises(ValueError, match=r"GB free; choose another disk or fewer files \(--limit\)"):
        run("--out", tmp_path / "out", "--names", "nol")
    assert not hub.sent


def test_another_commit_does_not_go_on(hub, tmp_path, monkeypatch):
    run("--out", tmp_path, "--names", "nol")
    monkeypatch.setattr("cromss.downloads.hub.Repository.commit", lambda *_: "f" * 40)
    monkeypatch.setattr(
        "cromss.downloads.hub.Repository.files", lambda *_, files=script.Repository.files: files(_[0], COMMIT)
    )
    with pytest.raises(ValueError, match=f"begun with revision '{COMMIT}', not 'f+'; go on with that"):
        run("--out", tmp_path, "--names", "nol")


def test_a_kill_costs_what_was_under_way_alone(hub, tmp_path):
    command = [sys.executable, Path(REPOSITORY, "data_prepare/download_hub.py"), "--out", tmp_path, "--names", "nol"]
    hub.stall_at = CHUNK + 1000
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(60)
    (partial,) = wait_for_size(tmp_path / "NoLDO-S12", CHUNK // 2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = partial.stat().st_size
    hub.stall_at = None
    hub.sent.clear()
    hub.ranges_asked.clear()
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    assert hub.ranges_asked == [f"bytes={kept}-"]
    assert hub.sent["ssl4eo_s12_nol.zip"] == len(NOL) - kept
    assert (tmp_path / "NoLDO-S12/ssl4eo_s12_nol.zip").read_bytes() == NOL


def test_a_job_that_ends_does_not_wait_for_long_files(hub, tmp_path, monkeypatch):
    told = []

    def fetch(repository, file, commit, folder, tell):
        if "dw" in file.path:
            raise ValueError("gated")
        for _ in range(1000):
            told.append(tell(1))
            time.sleep(0.02)

    monkeypatch.setattr(script.Repository, "fetch", fetch)
    with pytest.raises(ValueError, match="gated"):
        run("--out", tmp_path, "--names", "nol", "dw")
    assert len(told) < 500


def wait_for_size(folder, num_bytes):
    for _ in range(600):
        found = list(folder.glob(".*.partial"))
        if found and found[0].stat().st_size >= num_bytes:
            return found
        time.sleep(0.05)
    raise TimeoutError(folder)


def test_the_table_of_published_things():
    assert set(PUBLISHED) == {"nol", "dw", "osm", "mid_13", "late_13", "mid_9", "late_9", "ssl4eo_v1.1"}
    assert PUBLISHED["late_9"].patterns("val", ("S1GRD", "S2L1C")) == ["weights-cromss-9B-lateFusion-epoch=199.ckpt"]
    assert PUBLISHED["ssl4eo_v1.1"].patterns("val", ("S1GRD", "S2L1C")) == ["val/S1GRD/*.zip", "val/S2L1C/*.zip"]
