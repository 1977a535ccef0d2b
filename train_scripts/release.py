"""Release pretrained encoders: folders that timm, smp and torchgeo load in one line, with a card and sums.

python train_scripts/release.py runs/mid_s12_resnet50_seed42 --out release --verify
"""

from cromss.config import run
from cromss.settings.release import ReleaseSettings
from cromss.start_up import fast_imports


def main(settings: ReleaseSettings) -> None:
    """Write the release, and say what was written."""
    with fast_imports():
        from cromss.training.release import release

    print(*release(settings), sep="\n")


if __name__ == "__main__":
    run(main, ReleaseSettings)
