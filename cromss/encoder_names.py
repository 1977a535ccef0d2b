"""What the name of an encoder tells, and what a ViT takes; no torch, as the settings ask, too."""

OWN_FAMILIES = ("satmae", "scalemae", "dofa")
"""First words of the names of ViTs that are built here: SatMAE, ScaleMAE, DOFA."""

VIT_FAMILIES = ("vit", *OWN_FAMILIES)
"""First words of the names of ViTs: timm's own, and those built here."""

VIT_HEADS = ("unet", "fpn", "upernet", "segmenter")
"""Segmentation heads on offer for ViTs."""

PATCH_SIZES = range(4, 33)
"""Sides that a ViT's patch may have, in pixels."""

IMAGE_SIZES = range(16, 8193)
"""Sides of the images that a ViT's position embeddings may be made for, in pixels."""

LONGEST_WAVELENGTH = 100.0
"""In um; whatever is longer must have been meant in nm."""


def family(name: str) -> str:
    """Family of a ViT, one of `VIT_FAMILIES`: `dofa_base_patch16_224` -> `dofa`; empty for any other encoder."""
    first, underscore, _ = name.partition("_")
    return first if underscore and first in VIT_FAMILIES else ""


def is_vit(name: str) -> bool:
    """Whether an encoder is a ViT, with the features of a pyramid made of its tokens."""
    return bool(family(name))
