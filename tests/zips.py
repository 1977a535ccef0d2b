"""Zip archives, sound and hostile."""

import stat
import zipfile

import numpy as np

RNG = np.random.default_rng(1)
MEMBERS = {
    "dw/0000001/a.tif": RNG.bytes(70_000),
    "dw/0000002/a.tif": b"\0" * 100_000,
    "dw/ids é.csv": b"id\n0000001\n",
    "empty": b"",
}


def make(path, members=None, method=zipfile.ZIP_DEFLATED, change=lambda info: None):
    """An archive; `change` alters what is said of each member before it is written."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("dw/", b"") if members is None else None
        for name, content in (MEMBERS if members is None else members).items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # the constructor would mend it
            info.compress_type, info.external_attr = method, (stat.S_IFREG | 0o644) << 16
            change(info)
            archive.writestr(info, content)
    return path


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def patched(path, old, new, count=-1):
    """The archive with bytes of it replaced."""
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, count))
    return path
