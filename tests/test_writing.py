"""Settings that every writer shares."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from cromss.config import read
from cromss.settings.writing import Writing


@dataclass(frozen=True)
class Folders(Writing):
    """Some writer's settings."""

    data_path: Path
    """Folder."""


def test_a_writer_has_them_as_flags_of_its_own():
    flags = ["--data_path", "raw", "--workers", "2", "--limit", "5", "--on_error", "skip", "--dry_run"]
    settings = read(Folders, flags)
    assert (settings.data_path, settings.limit) == (Path("raw"), 5)
    assert settings.options == {"on_error": "skip", "workers": 2, "dry_run": True}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"limit": 0}, "--limit 0: must be at least 1"),
        ({"tile_size": -1}, "--tile_size -1: must be at least 1, or 0"),
        ({"tile_size": 8, "stride": 9}, "--stride 9: must be 1 to --tile_size 8, or 0"),
        ({"stride": 4}, "--stride 4: must be 1 to --tile_size 0"),
    ],
)
def test_bad_numbers_name_their_flag(options, line):
    with pytest.raises(ValueError, match=line):
        Writing(**options)
