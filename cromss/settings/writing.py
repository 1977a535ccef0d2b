"""Settings that every writer of stores shares."""

from dataclasses import dataclass
from typing import Any, Literal

from cromss.settings.common import require
from cromss.store.meta import DEFLATE


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How stores are written; the settings of every writer derive from it."""

    on_error: Literal["stop", "skip"] = "stop"
    """Stop at the first bad location, or list it in skipped.csv and go on."""
    workers: int = 4
    """Reading threads."""
    limit: int | None = None
    """Write only the first locations (of each split)."""
    dry_run: bool = False
    """Only list the locations and estimate the disk space."""
    compress: bool = False
    """Deflate the values in the stores: smaller on the disk, slower to read."""
    tile_size: int = 0
    """Cut what is trained on into tiles of this side in pixels, such as 128; 0 keeps it whole. The last tiles are
    shifted inwards, over their neighbours; what is smaller makes smaller tiles."""
    stride: int = 0
    """Distance of neighbouring tiles in pixels; the tile size for 0."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, "workers", self.workers, "at least 1")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1")
        require(self.tile_size >= 0, "tile_size", self.tile_size, "at least 1, or 0 for whole locations")
        wanted = f"1 to --tile_size {self.tile_size}, or 0 for the same"
        require(0 <= self.stride <= self.tile_size, "stride", self.stride, wanted)

    @property
    def compression(self) -> str:
        """What a store's description says of its compression."""
        return DEFLATE if self.compress else ""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `preparation.run`."""
        return {"on_error": self.on_error, "workers": self.workers, "dry_run": self.dry_run}
