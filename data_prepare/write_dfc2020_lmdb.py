"""Write DFC2020 into LMDB stores: the 986 "validation" patches to train/, the 5128 "test" patches to test/.

python data_prepare/write_dfc2020_lmdb.py --data_path DFC2020 --out lmdb/dfc2020
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cromss import layouts, preparation
from cromss.aligned_stores import Prepared
from cromss.config import run
from cromss.legends import DFC2020

SPLITS = {"train": "validation", "test": "test"}
"""Split of the experiments -> split of the contest, as published (arXiv 2405.01217)."""


@dataclass(frozen=True)
class Dfc2020Set:
    """Raw folder of DFC2020, and how to write it: Sentinel-1 float32 dB, Sentinel-2 uint16 DN, class ids."""

    data_path: Path
    """Folder of the raw set: <split>/{s1,s2,dfc}_<split>/ROIs0000_<split>_*_0_p<i>.tif."""
    out: Path
    """Folder for train/ and test/ with s1.lmdb, s2.lmdb and labels.lmdb."""
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    """What to write."""
    on_error: Literal["stop", "skip"] = "stop"
    """Stop at the first bad patch, or list it in skipped.csv and go on."""
    workers: int = 4
    """Reading threads."""
    limit: int | None = None
    """Write only the first patches of each split."""
    dry_run: bool = False
    """Only list the patches and estimate the disk space."""


def main(settings: Dfc2020Set) -> None:
    """Write the splits one after the other; one that is finished is left as it is."""
    for split in settings.splits:
        out = settings.out / split
        source = f"DFC2020 {SPLITS[split]} split"
        stores = {
            out / "s1.lmdb": preparation.image_meta("s1", "float32", 1, source),
            out / "s2.lmdb": preparation.image_meta("s2", "uint16", 1, source),
            out / "labels.lmdb": preparation.label_meta("DFC2020", 1, source),
        }
        if len(settings.splits) > 1 and all(path.exists() for path in stores):
            print(f"{out}: finished already, left as it is")
            continue
        locations = preparation.first(layouts.list_dfc2020(settings.data_path, SPLITS[split]), settings.limit)
        preparation.run(
            stores,
            locations,
            prepare_patch,
            on_error=settings.on_error,
            workers=settings.workers,
            dry_run=settings.dry_run,
        )


def prepare_patch(location: layouts.Location) -> Prepared:
    """Read a patch; raw values stay, labels become class ids."""
    return preparation.to_raw(layouts.read_location(location, 1, DFC2020))


if __name__ == "__main__":
    run(main, Dfc2020Set)
