"""A trained network as ONNX, for runtimes without PyTorch.

python train_scripts/export_onnx.py runs/my_transfer --out my_transfer.onnx
"""

from cromss.config import run
from cromss.settings.export import ExportSettings
from cromss.start_up import fast_imports


def main(settings: ExportSettings) -> None:
    """Write the file, and say what it takes and how near it is."""
    with fast_imports():
        from cromss.training.export import export

    result = export(settings)
    for name in ("input", "size", "output"):
        print(f"{name}: {result.told[name]}")
    print(f"largest difference from PyTorch: {result.difference:.1e}", f"written: {result.path}", sep="\n")


if __name__ == "__main__":
    run(main, ExportSettings)
