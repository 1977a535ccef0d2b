"""What others published on the hub, by the names that the command line has for it."""

from collections.abc import Sequence
from dataclasses import dataclass

NOLDO = "vikki23/NoLDO-S12"
"""Noisy and exact labels of SSL4EO-S12, and encoders pretrained on them (CromSS, arXiv 2405.01217)."""

SSL4EO_V11 = "embed2scale/SSL4EO-S12-v1.1"
"""SSL4EO-S12 in shards of Zarr archives (arXiv 2503.00168)."""


@dataclass(frozen=True)
class Published:
    """A part of a data set repository: file names as `hub_files.select` takes them, with places for a choice."""

    repository: str
    pattern: str

    def patterns(self, split: str, modalities: Sequence[str]) -> list[str]:
        """File names of a choice; what is in one piece has no choice."""
        return list(dict.fromkeys(self.pattern.format(split=split, modality=modality) for modality in modalities))


PUBLISHED = {
    "nol": Published(NOLDO, "ssl4eo_s12_nol.zip"),
    "dw": Published(NOLDO, "ssl4eo_s12_dw.zip"),
    "osm": Published(NOLDO, "ssl4eo_s12_osm.zip"),
    "mid_13": Published(NOLDO, "weights-cromss-13B-midFusion-epoch=199.ckpt"),
    "late_13": Published(NOLDO, "weights-cromss-13B-lateFusion-epoch=199.ckpt"),
    "mid_9": Published(NOLDO, "weights-cromss-9B-midFusion-epoch=199.ckpt"),
    "late_9": Published(NOLDO, "weights-cromss-9B-lateFusion-epoch=199.ckpt"),
    "ssl4eo_v1.1": Published(SSL4EO_V11, "{split}/{modality}/*.zip"),
}
"""Name -> what it stands for: pretraining set, both sets with exact labels, encoders by fusion and bands, images."""
