"""Room on the disk, asked for before anything large is written."""

import shutil
from pathlib import Path


def check_space(out: Path, wanted: int, fewer: str = "fewer locations (--limit)") -> int:
    """Free bytes on the disk of `out`, which need not exist yet.

    Args:
        out: Where it is to be written.
        wanted: Bytes.
        fewer: What else than another disk would help.

    Raises:
        ValueError: Less than `wanted`.
    """
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ValueError(
            f"--out {out}: {wanted / 1e9:.2f} GB wanted, {free / 1e9:.2f} GB free; choose another disk or {fewer}"
        )
    return free
