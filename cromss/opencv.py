"""OpenCV, imported without what that does to programs that are started later."""

import os
from types import ModuleType


def _imported() -> ModuleType:
    """Its wheels (4.10 to 5.0 at least) have such programs look for libraries in their working directory, too."""
    before = os.environ.get("LD_LIBRARY_PATH")
    import cv2

    if before is None:
        os.environ.pop("LD_LIBRARY_PATH", None)
    else:
        os.environ["LD_LIBRARY_PATH"] = before
    return cv2


cv2 = _imported()
