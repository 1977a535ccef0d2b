"""Settings of the label audit."""

from dataclasses import dataclass
from typing import Literal

from cromss.settings.common import require


@dataclass(frozen=True)
class AuditSettings:
    """Which noisy labels to doubt: those that all modalities of a pretraining run doubt."""

    checkpoint: str
    """Run folder or checkpoint of train_pretrain_mm.py, or of train_pretrain.py: one modality alone then."""
    data_path: str = ""
    """Folder of the LMDB environments; empty for that of the run."""
    out: str = ""
    """Folder for tables, maps and pictures; empty for audit/ in the folder of the run."""
    labels_path: str = ""
    """Folder of the raw label files, for maps on their pixels and in their CRS; empty for those of the stores."""
    threshold: float = 0.9
    """Suspicion from which a pixel counts as suspected."""
    num_worst: int = 6
    """Locations on the picture sheet."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device kind."""

    def __post_init__(self) -> None:
        require(0 < self.threshold <= 1, "threshold", self.threshold, "over 0 and at most 1")
        require(1 <= self.num_worst <= 50, "num_worst", self.num_worst, "1 to 50")
