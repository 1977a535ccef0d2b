"""What the name of an encoder tells; no torch, as the settings ask, too."""

VIT_FAMILIES = ("vit", "satmae", "scalemae", "dofa")
"""First words of the names of ViTs: timm's own, SatMAE, ScaleMAE, DOFA."""


def family(name: str) -> str:
    """Family of a ViT, one of `VIT_FAMILIES`: `dofa_base_patch16_224` -> `dofa`; empty for any other encoder."""
    first, underscore, _ = name.partition("_")
    return first if underscore and first in VIT_FAMILIES else ""


def is_vit(name: str) -> bool:
    """Whether an encoder is a ViT, with the features of a pyramid made of its tokens."""
    return bool(family(name))
