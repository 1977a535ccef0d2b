"""Settings of the layer analysis."""

from dataclasses import dataclass
from typing import Literal

from cromss.settings.common import require


@dataclass(frozen=True)
class AnalysisSettings:
    """Which layers suffer from noisy labels: two pretraining runs of one kind, compared layer by layer."""

    noisy: str
    """Run folder or checkpoint of the network trained on noisy labels."""
    exact: str
    """Run folder or checkpoint of the network trained on exact labels."""
    out: str = ""
    """Folder for figures and tables; empty for analysis/<exact run>/ in the folder of the noisy run."""
    branch: str = ""
    """Branch to look at: s1, s2, ortho or common; empty for the last modality, s2 of twins."""
    data_path: str = ""
    """Folder of the LMDB environments; empty for that of the runs."""
    num_tiles: int = 32
    """Held-out tiles for the Fisher ratios."""
    num_pictures: int = 3
    """Of them, tiles to draw first principal components of; half a minute each for a ResNet-50 on a CPU."""
    batch_size: int = 8
    """Tiles a step."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""

    def __post_init__(self) -> None:
        require(self.num_tiles > 0, "num_tiles", self.num_tiles, "at least 1")
        require(self.num_pictures >= 0, "num_pictures", self.num_pictures, "at least 0")
        require(self.batch_size > 0, "batch_size", self.batch_size, "at least 1")
