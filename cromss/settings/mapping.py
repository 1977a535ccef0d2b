"""Settings of maps of one's own scenes."""

from dataclasses import dataclass
from typing import Literal

from cromss.settings.common import require


@dataclass(frozen=True)
class MapSettings:
    """Land-cover map of a scene of any size, from a checkpoint of pretraining or transfer."""

    model: str
    """Run folder or checkpoint file."""
    out: str
    """The map, a cloud-optimised GeoTIFF; the same command goes on where a killed one stopped."""
    s2: str = ""
    """Sentinel-2 scene in DN: a raster with named bands or all in order, a folder of <band>.tif, a .SAFE or its zip."""
    s1: str = ""
    """Sentinel-1 scene in dB, likewise; it is put on the grid of Sentinel-2. Pretrained twins take one or both."""
    confidence: str = ""
    """GeoTIFF of the probability of the mapped class in percent; empty for none."""
    probabilities: str = ""
    """GeoTIFF of the probabilities of all classes in percent; empty for none."""
    s2_offset: Literal["auto", "0", "1000"] = "auto"
    """DN offset of Sentinel-2 (1000 since baseline 04.00); auto goes by metadata and pixels."""
    tile_size: int = 640
    """Side of the tiles that the network sees, in pixels."""
    overlap: int = 192
    """Pixels that neighbouring tiles have in common; the outer three eighths do not count, the rest is blended."""
    batch_size: int = 1
    """Tiles a step."""
    workers: int = 2
    """Threads that read and prepare tiles ahead of the network; the map is the same for any number."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""

    def __post_init__(self) -> None:
        for flag in ("model", "out"):
            require(bool(getattr(self, flag)), flag, getattr(self, flag), "a path")
        require(self.out.lower().endswith((".tif", ".tiff")), "out", self.out, "a path that ends with .tif")
        require(bool(self.s1 or self.s2), "s2", self.s2, "a scene, or --s1")
        require(32 <= self.tile_size <= 4096, "tile_size", self.tile_size, "32 to 4096")
        require(0 <= self.overlap <= self.tile_size // 2, "overlap", self.overlap, "0 to half of --tile_size")
        require(self.batch_size > 0, "batch_size", self.batch_size, "at least 1")
        require(self.workers > 0, "workers", self.workers, "at least 1")
