"""The import of OpenCV."""

import os
import subprocess
import sys

import pytest

TOLD = """
import os
before = dict(os.environ)
import cromss.opencv
assert cromss.opencv.cv2.__version__
print({name: value for name, value in os.environ.items() if before.get(name) != value}, before.keys() - os.environ)
"""


@pytest.mark.parametrize("has_paths", [False, True])
def test_programs_started_later_look_for_libraries_where_they_did(tmp_path, has_paths):
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    environment |= {"LD_LIBRARY_PATH": str(tmp_path)} if has_paths else {}
    found = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{} set()"
