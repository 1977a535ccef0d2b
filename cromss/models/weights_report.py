"""What a weights file holds, and what was loaded of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cromss.models.stems import Stem, listed


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file holds, and what was loaded of it.

    Attributes:
        path: The file.
        sha256: First 12 hex digits of its SHA-256.
        num_tensors: Tensors in the file.
        stems: Encoders found (ResNets and ViTs when only inspected).
        layout: Its layout, one of `LAYOUTS`; `"unknown"` where no stem tells.
        source: Whose weights they are, a name in `SOURCES`: as told, else by the layout.
        prefix: Prefix of the encoder loaded; when only inspected, of the only one found, else `None`.
        kind: Kind of that encoder, see `Stem`, or `None`.
        in_channels: Number of bands of that encoder; `None` where it takes any (DOFA), too.
        modality: Modality of that encoder, as the file tells or as asked for, or `None`.
        num_loaded: Tensors loaded; 0 when only inspected.
        num_expected: Tensors wanted. Old files lack BatchNorm's step counters, then set to 0, and copies of
            DOFA its final norm, see `notes`; nothing else may be missing.
        parts: Part of the network -> tensors loaded into it.
        bands: Names of that encoder's bands in order, where the checkpoint tells them (ours do).
        normalization: Modality -> name, where the checkpoint tells how its input was normalised (ours of
            transfer do).
        statistics: Modality -> statistics that its input was normalised with, where the checkpoint tells them.
        notes: What was done to tensors before they were loaded, and what the file leaves open.
    """

    path: Path
    sha256: str
    num_tensors: int
    stems: tuple[Stem, ...]
    layout: str = "unknown"
    source: str = "bare"
    prefix: str | None = None
    kind: str | None = None
    in_channels: int | None = None
    modality: str | None = None
    num_loaded: int = 0
    num_expected: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    bands: tuple[str, ...] | None = None
    normalization: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        whose = self.layout if self.layout == self.source else f"{self.source} ({self.layout})"
        head = f"{self.path} (sha256 {self.sha256}), {whose}: "
        if not self.num_loaded:
            return head + f"{self.num_tensors} tensors, encoders: {listed(self.stems)}"
        parts = ", ".join(f"{part} {count}" for part, count in self.parts.items())
        origin = f"{self.kind} {self.prefix or '(no prefix)'}, {self.modality or 'unknown sensor'}"
        origin += f", {self.in_channels or 'any'} bands"
        return "; ".join((f"{head}{self.num_loaded}/{self.num_expected} tensors ({parts}) from {origin}", *self.notes))
