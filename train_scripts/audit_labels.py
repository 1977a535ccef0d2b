"""Which noisy labels to doubt: the pixels whose label all modalities of a pretraining run doubt.

python train_scripts/audit_labels.py --checkpoint runs/my_pretraining --labels_path raw/labels

Written are audit.csv (tiles, the most suspicious first), classes.csv and confusion.csv (the noisy product by class; the
latter is the confident joint of arXiv 1911.00068, each row in percent), audit.json, worst.png (picture sheet), and
maps/<id>_<season>.tif: suspicion in percent, 255 where there is no label. With --labels_path the maps lie on the pixels
of the raw label files and have their CRS, where scenes.csv beside the stores names them; else they lie on the pixels of
the stores. Seasons are counted from 0. A folder with maps of another set is refused.
"""

from cromss.config import run
from cromss.settings.audit import AuditSettings
from cromss.start_up import fast_imports


def main(settings: AuditSettings) -> None:
    """Audit the labels of a set, and say what was found."""
    with fast_imports():
        from cromss.training.audit import audit

    result = audit(settings)
    print(*result.told, f"written: {result.out}", sep="\n")


if __name__ == "__main__":
    run(main, AuditSettings)
