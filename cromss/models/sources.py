"""Whose encoder weights there are, and what they expect of their input."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cromss.sensors import S1, S2, S2_SUBSETS


@dataclass(frozen=True)
class Source:
    """Weights of one origin.

    Attributes:
        layouts: Layouts that only its files have, see `cromss.models.stems.LAYOUTS`.
        native: Modality -> normalisation it was trained with, a name in `cromss.normalization.NORMALIZATIONS`.
        bands: Number of bands -> their names in order, where the number fixes them.
        shared_layouts: Layouts that its files may have as well as others', so that they do not tell whose they
            are (`"bare"`: split files, torchgeo's and timm's copies).
        reference: Where it is published.
    """

    layouts: tuple[str, ...] = ()
    native: Mapping[str, str] = field(default_factory=dict)
    bands: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    shared_layouts: tuple[str, ...] = ()
    reference: str = ""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Layouts that a file said to be its own may have."""
        return self.layouts + self.shared_layouts


_COMMON = {"s1": "common", "s2": "common", "ortho": "common"}
_SSL4EO = {2: S1.bands, 3: S2_SUBSETS[3], 13: S2.bands}
_SSL4EO_NATIVE = {"s1": "standard", "s2": "reflectance"}
_RGB = {3: S2_SUBSETS[3]}

SOURCES = MappingProxyType(
    {
        "cromss": Source(
            ("cromss-mid", "cromss-late", "single", "pretrainer-mid", "pretrainer-late", "segmenter"),
            _COMMON,
            {2: S1.bands, 13: S2.bands},
            reference="arXiv 2405.01217, 2402.16164, and this package",
        ),
        "moco": Source(("moco",), _SSL4EO_NATIVE, _SSL4EO, ("bare",), "SSL4EO-S12, arXiv 2211.07044"),
        "dino": Source(("dino",), _SSL4EO_NATIVE, _SSL4EO, ("bare",), "SSL4EO-S12, arXiv 2211.07044"),
        "decur": Source(("decur",), _SSL4EO_NATIVE, _SSL4EO, ("bare",), "arXiv 2309.05300"),
        "satlas": Source(
            ("satlas",), {"s2": "satlas"}, {3: S2_SUBSETS[3], 9: S2_SUBSETS[92]}, ("bare",), "arXiv 2211.15660"
        ),
        "softcon": Source((), {"s1": "standard", "s2": "standard"}, _SSL4EO, ("bare",), "arXiv 2405.20462"),
        "mae": Source(("mae",), _SSL4EO_NATIVE, _SSL4EO, ("bare",), "SSL4EO-S12, arXiv 2211.07044"),
        "satmae": Source(
            ("satmae",), {"s2": "satmae"}, {10: S2_SUBSETS[10]}, reference="arXiv 2207.08051, SatMAE++ 2403.05419"
        ),
        "scalemae": Source((), {"s2": "imagenet"}, _RGB, ("mae", "bare"), "arXiv 2212.14532"),
        "dofa": Source(("dofa",), {"s1": "dofa", "s2": "dofa"}, reference="arXiv 2403.15356"),
        "imagenet": Source(
            shared_layouts=("mae", "dino", "bare"),
            native={"s2": "imagenet", "ortho": "imagenet"},
            bands=_RGB,
            reference="downloaded; of files MAE, DINO, DINOv2, timm's ViTs",
        ),
        "bare": Source(("bare", "unknown"), reference="plain encoders of any origin"),
        "random": Source((), _COMMON, reference="no file"),
    }
)
"""Name -> source."""

FILE_SOURCES = tuple(name for name in SOURCES if name != "random")
"""Sources whose weights are loaded from files."""


def source_of(layout: str, in_channels: int | None = None, kind: str | None = None) -> str:
    """Name of the source whose files have a layout; `"bare"` where none can be told.

    ViTs of MAE and DINO with 13 or 2 bands are SSL4EO-S12's, with 3 bands ImageNet's; DINO's ResNets are all
    SSL4EO-S12's.

    Args:
        layout: One of `cromss.models.stems.LAYOUTS`.
        in_channels: Number of bands.
        kind: Kind of the encoder, see `cromss.models.stems.Stem`.
    """
    if layout in ("mae", "dino") and (kind, in_channels) == ("vit", 3):
        return "imagenet"
    return next((name for name, source in SOURCES.items() if layout in source.layouts), "bare")


def native_normalization(source: str, modality: str) -> str:
    """Normalisation that a source's weights were trained with, a name in `NORMALIZATIONS`.

    Args:
        source: A name in `SOURCES`, for instance that of a `WeightsReport`.
        modality: `"s1"`, `"s2"` or `"ortho"`.

    Raises:
        ValueError: None is known, for the source or for this modality of it.
    """
    native = SOURCES[source].native
    if modality in native:
        return native[modality]
    if native:
        reason = f"{source} weights have none for {modality}, only for {', '.join(native)}"
    else:
        known = ", ".join(name for name in FILE_SOURCES if SOURCES[name].native)
        reason = f"the file does not tell whose weights these are; name the --weight_source ({known})"
    raise ValueError(f"--normalization native: {reason}, or choose --normalization common")
