"""Pretrain segmentation encoders on noisy labels and transfer them (CromSS)."""

__version__ = "0.1.0"
