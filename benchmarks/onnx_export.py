"""Every head as ONNX, beside PyTorch: largest difference of a logit, and seconds of the export and its check.

python benchmarks/onnx_export.py
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from cromss.encoder_names import VIT_HEADS
from cromss.models import build_change_segmenter, build_segmenter, build_twin_segmenter
from cromss.models.encoders import ARCHITECTURES
from cromss.models.onnx_export import AnySize, write_onnx
from cromss.models.vit import ViTOptions

CNN, SIZE = "tu-test_resnet", 64


def networks():
    """Name -> (function that builds it, bands of its input)."""
    for head in ARCHITECTURES:
        yield head, lambda head=head: build_segmenter(head, CNN, 2, 4), 2
    yield "unet, twin", lambda: build_twin_segmenter("unet", CNN, {"s1": 2, "s2": 13}, 4), 15
    yield "unet, change", lambda: build_change_segmenter("unet", CNN, 13, 1), 26
    for head in VIT_HEADS:
        yield f"{head}, ViT", lambda head=head: build_segmenter(head, "vit_tiny_patch16_224", 2, 4, vit=VIT), 2
    yield "unet, ViT, patches of 14", lambda: build_segmenter("unet", "vit_tiny_patch16_224", 2, 4, vit=VIT14), 2


VIT = ViTOptions(image_size=SIZE)
VIT14 = ViTOptions(image_size=SIZE, patch_size=14)


def main() -> int:
    """Export all, print a line each; how many failed, as exit status."""
    num_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, build, bands in networks():
            torch.manual_seed(0)
            network = AnySize(build().eval()).eval()
            size = SIZE if network.one_size else 0
            start = time.monotonic()
            try:
                said = f"{write_onnx(network, bands, size, {}, Path(folder) / 'network.onnx'):.1e}"
            except ValueError as error:
                said, num_failed = str(error), num_failed + 1
            print(f"{name}, {size or 'any size'}: {said}, {time.monotonic() - start:.0f} s", flush=True)
    return num_failed


if __name__ == "__main__":
    sys.exit(main())
