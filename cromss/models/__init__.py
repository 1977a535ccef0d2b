"""Pretraining and downstream networks, and the weights that travel between them."""

from cromss.models.fusion import build_pretrainer
from cromss.models.segmenter import build_change_segmenter, build_segmenter, build_twin_segmenter

__all__ = ["build_change_segmenter", "build_pretrainer", "build_segmenter", "build_twin_segmenter"]
