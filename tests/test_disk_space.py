"""Room on the disk, asked for before anything is written."""

import re
import shutil

import pytest

from cromss.disk_space import check_space


def test_free_space_is_that_of_the_nearest_folder_that_is_there(tmp_path):
    free = check_space(tmp_path / "not" / "yet", 0)
    assert 0.5 < free / shutil.disk_usage(tmp_path).free < 2
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_says_how_much_and_what_helps(tmp_path):
    line = rf"--out {re.escape(str(tmp_path))}: 1000000000\.00 GB wanted, [\d.]+ GB free; choose another disk or "
    with pytest.raises(ValueError, match=rf"^{line}fewer locations \(--limit\)$"):
        check_space(tmp_path, 10**18)
    with pytest.raises(ValueError, match=f"^{line}fewer files$"):
        check_space(tmp_path, 10**18, "fewer files")
