"""Look into weights of anyone's, convert them to a release or ours to the published layout, verify a release.

python train_scripts/weights.py inspect FILE
python train_scripts/weights.py convert FILE --out release
python train_scripts/weights.py convert release/pretrainer.safetensors --out cromss-mid.ckpt
python train_scripts/weights.py verify release
"""

from cromss.config import run
from cromss.settings.release import WeightsSettings
from cromss.start_up import fast_imports


def main(settings: WeightsSettings) -> None:
    """Do what is asked for, and say what was found."""
    with fast_imports():
        from cromss.models.found_encoders import found_encoders
        from cromss.models.weights import inspect
        from cromss.training.pretrainer_files import to_published_file
        from cromss.training.release import to_release, verify

    if settings.action == "inspect":
        found = found_encoders(settings.path, settings.modality or None, settings.source, settings.normalization)
        print(inspect(settings.path), *found, sep="\n  ")
    elif settings.action == "convert" and not settings.to_published:
        print(*to_release(settings), sep="\n")
    elif settings.action == "convert":
        print(f"{settings.out}: {to_published_file(settings.path, settings.out)} tensors")
    else:
        print(*verify(settings.path), sep="\n")


if __name__ == "__main__":
    run(main, WeightsSettings)
