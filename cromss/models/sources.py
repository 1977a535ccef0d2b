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
        comes_bare: Its files may also be plain ResNets, which do not tell whose they are (split files,
            torchgeo's copies).
        reference: Where it is published.
    """

    layouts: tuple[str, ...] = ()
    native: Mapping[str, str] = field(default_factory=dict)
    bands: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    comes_bare: bool = False
    reference: str = ""

    @property
    def accepted(self) -> tuple[str, ...]:
        """Layouts that a file said to be its own may have."""
        return (*self.layouts, "bare") if self.comes_bare else self.layouts


_COMMON = {"s1": "common", "s2": "common", "ortho": "common"}
_SSL4EO = {2: S1.bands, 3: S2_SUBSETS[3], 13: S2.bands}
_SSL4EO_NATIVE = {"s1": "standard", "s2": "reflectance"}

SOURCES = MappingProxyType(
    {
        "cromss": Source(
            ("cromss-mid", "cromss-late", "single", "pretrainer-mid", "pretrainer-late", "segmenter"),
            _COMMON,
            {2: S1.bands, 13: S2.bands},
            reference="arXiv 2405.01217, 2402.16164, and this package",
        ),
        "moco": Source(("moco",), _SSL4EO_NATIVE, _SSL4EO, True, "SSL4EO-S12, arXiv 2211.07044"),
        "dino": Source(("dino",), _SSL4EO_NATIVE, _SSL4EO, True, "SSL4EO-S12, arXiv 2211.07044"),
        "decur": Source(("decur",), _SSL4EO_NATIVE, _SSL4EO, True, "arXiv 2309.05300"),
        "satlas": Source(
            ("satlas",), {"s2": "satlas"}, {3: S2_SUBSETS[3], 9: S2_SUBSETS[92]}, True, "arXiv 2211.15660"
        ),
        "softcon": Source((), {"s1": "standard", "s2": "standard"}, _SSL4EO, True, "arXiv 2405.20462"),
        "bare": Source(("bare", "unknown"), reference="plain ResNets of any origin"),
        "imagenet": Source((), {"s2": "imagenet", "ortho": "imagenet"}, reference="downloaded, no file"),
        "random": Source((), _COMMON, reference="no file"),
    }
)
"""Name -> source. `imagenet` and `random` have no files."""

FILE_SOURCES = tuple(name for name in SOURCES if name not in ("imagenet", "random"))
"""Sources whose weights are loaded from files."""


def source_of(layout: str) -> str:
    """Name of the source whose files have a layout; `"bare"` where none can be told."""
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
