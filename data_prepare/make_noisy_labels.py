"""Turn maps of land cover into noisy masks for pretraining, by rules that a file states.

python data_prepare/make_noisy_labels.py --data_path naip --pattern '*/nlcd.tif' --rules data_prepare/rules/nlcd.yaml \
    --out naip_noisy

The file gives classes, colours and codes, and the noise in the order in which it is applied (see data_prepare/rules).
Every <data_path>/<folder>/<name>.tif becomes a mask of class ids <out>/<folder>/<out_name>, 255 unknown; beside them
legend.yaml for --label_codes of later steps, skipped.csv, and masks.png, a picture of a few.
"""

import csv
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Literal

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from tqdm import tqdm

from cromss.config import replace_text, run
from cromss.layouts import check_out
from cromss.legend_files import NAMED, class_id_legend, read_legend, write_legend
from cromss.legends import IGNORE_INDEX, Legend
from cromss.noise_rules import Rule, apply_rules
from cromss.rule_files import read_rules
from cromss.scenes import read_labels

RECORD, LEGEND, SKIPPED, PICTURE = "noisy_labels.json", "legend.yaml", "skipped.csv", "masks.png"
"""Files beside the masks: the settings that they depend on, their legend, what was left out, a picture of a few."""

SHOWN = 4
"""Masks in the picture, and reasons in the summary."""


@dataclass(frozen=True)
class NoisyLabels:
    """Maps of land cover, rules, and a folder for the masks."""

    data_path: Path
    """Folder of the maps."""
    pattern: str
    """Which files under data_path, as '*/nlcd.tif'; ** stands for folders of any depth."""
    rules: Path
    """YAML file of classes, codes and noise rules, as data_prepare/rules/nlcd.yaml."""
    out: Path
    """Folder for the masks, in the sub-folders of their sources; may be data_path."""
    out_name: str = "noisy.tif"
    """Name of each mask; that of its source, as .tif, where empty."""
    seed: int = 0
    """Of rules of chance; each file's noise depends on it and on the path under data_path alone."""
    workers: int = 4
    """Threads."""
    on_error: Literal["stop", "skip"] = "stop"
    """Stop at the first bad file, or list it in skipped.csv and go on."""
    dry_run: bool = False
    """Only check the rules and list what there is to do."""


@dataclass(frozen=True)
class Job:
    """One mask to make.

    Attributes:
        name: Path of the source under data_path.
        source: The map.
        target: The mask.
    """

    name: str
    source: Path
    target: Path

    @property
    def mark(self) -> dict[str, str]:
        """Tag by which a mask tells its source, the checksum of that file."""
        return {"SOURCE_SHA256": hashlib.sha256(self.source.read_bytes()).hexdigest()}


def main(settings: NoisyLabels) -> None:
    """List, check, make, report; masks that are there are kept, if of the same maps."""
    check_settings(settings)
    legend, rules = read_legend(str(settings.rules), "rules"), read_rules(settings.rules)
    jobs, record = list_jobs(settings), describe(settings, legend, rules)
    check_record(settings.out, record, jobs)
    kept, missing = ([job for job in jobs if job.target.exists() is there] for there in (True, False))
    print(f"{len(jobs)} maps, {len(kept)} masks there already; first: {jobs[0].source} -> {jobs[0].target}")
    print(f"classes: {', '.join(legend.classes)}; rules: {', '.join(rule.name for rule in rules) or 'codes only'}")
    if settings.dry_run:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        known = count_kept(kept, class_id_legend(legend), settings.workers)
        settings.out.mkdir(parents=True, exist_ok=True)
        replace_text(settings.out / RECORD, json.dumps(record, indent=1) + "\n")
        write_legend(settings.out / LEGEND, legend)
        make = partial(make_mask, legend=legend, rules=rules, seed=settings.seed)
        counts, skipped = make_masks(missing, make, settings.on_error, settings.workers)
        write_skipped(settings.out / SKIPPED, skipped)
        made = [job for job in jobs if job.name not in skipped]
        if not made:
            raise ValueError(f"{settings.out / SKIPPED}: all {len(jobs)} maps were skipped, no mask is left")
        draw_masks(made, legend, bool(rules), settings.out / PICTURE)
    print(report(settings.out, legend, known + counts, skipped, len(made)))


def check_settings(settings: NoisyLabels) -> None:
    """Raise ValueError for values out of range; it names the flag."""
    name = settings.out_name
    if name and (Path(name).name != name or Path(name).suffix.lower() not in (".tif", ".tiff")):
        raise ValueError(f"--out_name {name}: wanted a file name that ends in .tif, or none")
    check_out(settings.out)
    if str(settings.rules) in NAMED:
        raise ValueError(f"--rules {settings.rules}: a legend; wanted is a YAML file, as data_prepare/rules/nlcd.yaml")
    if settings.seed < 0 or settings.workers < 1:
        raise ValueError(f"--seed {settings.seed} --workers {settings.workers}: at least 0 and 1")
    if not settings.data_path.is_dir():
        raise ValueError(f"--data_path {settings.data_path}: no such folder")
    if Path(settings.pattern).is_absolute() or ".." in Path(settings.pattern).parts or not Path(settings.pattern).parts:
        raise ValueError(f"--pattern {settings.pattern!r}: wanted a pattern under --data_path, as '*/nlcd.tif'")


def list_jobs(settings: NoisyLabels) -> list[Job]:
    """Sources that match outside `out`, by path, and their masks; ValueError for none, or two files in one place."""
    root, out = settings.data_path.resolve(), settings.out.resolve()
    try:
        found = sorted(path for path in settings.data_path.glob(settings.pattern) if path.is_file())
    except ValueError as error:
        raise ValueError(f"--pattern {settings.pattern}: {error}") from None
    names = [path.relative_to(settings.data_path) for path in found]
    if out == root and settings.out_name:
        names = [name for name in names if name.name != settings.out_name]
    elif root in out.parents:
        names = [name for name in names if out not in (root / name).parents]
    if not names:
        cause = f"; all {len(found)} lie in --out or are named --out_name {settings.out_name}" if found else ""
        raise ValueError(f"--pattern {settings.pattern}: no map in {settings.data_path} matches{cause}")
    sources = {(root / name).resolve() for name in names}
    targets: dict[Path, Path] = {}
    for name in names:
        target = settings.out / name.with_name(settings.out_name or f"{name.stem}.tif")
        if target.resolve() in sources:
            raise ValueError(f"--out {settings.out}: a mask would replace the map {target}; choose another one")
        if targets.setdefault(target, name) != name:
            raise ValueError(f"{targets[target]} and {name} both become {target}; narrow --pattern, or --out_name ''")
    return [Job(name.as_posix(), settings.data_path / name, target) for target, name in targets.items()]


def describe(settings: NoisyLabels, legend: Legend, rules: Sequence[Rule]) -> dict:
    """All that masks depend on but the maps, as plain values; a matrix in a file of its own included."""
    content = {
        "classes": list(zip(legend.classes, legend.colours)),
        "codes": sorted(legend.codes.items()),
        "ignored": sorted(legend.ignored),
        "rules": [{rule.name: dict(rule.arguments)} for rule in rules],
    }
    return json.loads(json.dumps({"seed": settings.seed, "pattern": settings.pattern, "rules": content}))


def check_record(out: Path, record: dict, jobs: Sequence[Job]) -> None:
    """Raise ValueError for a folder with masks of another setting, or with a file that nothing accounts for."""
    path = out / RECORD
    if not path.exists():
        there = [p for p in (out / LEGEND, out / SKIPPED, out / PICTURE, *(job.target for job in jobs)) if p.exists()]
        if there:
            raise ValueError(f"{there[0]}: is there without a {RECORD}; choose another --out or --out_name")
        return
    try:
        found = json.loads(path.read_text())
        other = [name for name in record if found.get(name) != record[name]]
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(f"{path}: not readable; remove it and the masks beside it") from None
    if other:
        told = other[0] if other[0] == "rules" else f"{other[0]} {found.get(other[0])}"
        raise ValueError(f"--out {out}: holds masks made with other {told}; choose another one, or remove them")


def count_kept(jobs: Sequence[Job], legend: Legend, workers: int) -> np.ndarray:
    """Pixels of each class id `(256,)` in masks that are there; ValueError as `count_mask`."""
    with ThreadPoolExecutor(workers) as pool:
        counts = pool.map(partial(count_mask, legend=legend), jobs)
        return sum(tqdm(counts, "kept", len(jobs), unit="mask", disable=None), np.zeros(256, np.int64))


def count_mask(job: Job, legend: Legend) -> np.ndarray:
    """The same of one; ValueError if it was made from another map, cannot be read, or has other class ids."""
    if not job.target.stat().st_size:
        raise ValueError(f"{job.target}: is empty; remove it, and it is made again")
    mask = read_labels(job.target, legend)
    with rasterio.open(job.target) as dataset:
        if not job.mark.items() <= dataset.tags().items():
            raise ValueError(f"{job.target}: not made from {job.source}; remove it, or choose another --out")
    return np.bincount(mask.ravel(), minlength=256)


def make_masks(
    jobs: Sequence[Job], make: Callable[[Job], np.ndarray], on_error: str, workers: int
) -> tuple[np.ndarray, dict[str, str]]:
    """Make masks in threads; pixels of each class id `(256,)`, and name -> reason of what was skipped."""
    counts, skipped = np.zeros(256, np.int64), {}
    pool = ThreadPoolExecutor(workers)
    try:
        results = pool.map(partial(attempt, make=make, on_error=on_error), jobs)
        for job, result in tqdm(zip(jobs, results), total=len(jobs), unit="mask", disable=None):
            if isinstance(result, str):
                skipped[job.name] = result
            else:
                counts += result
    finally:
        pool.shutdown(cancel_futures=True)
    return counts, skipped


def attempt(job: Job, make: Callable[[Job], np.ndarray], on_error: str) -> np.ndarray | str:
    """What `make` returns, or why the map is skipped."""
    try:
        return make(job)
    except ValueError as error:
        if on_error == "stop":
            raise ValueError(f"{error} (--on_error skip leaves such files out)") from error
        return " ".join(str(error).split())


def make_mask(job: Job, legend: Legend, rules: Sequence[Rule], seed: int) -> np.ndarray:
    """Make a mask; pixels of each class id, `(256,)`. ValueError as `read_labels` and `apply_rules`."""
    labels = read_labels(job.source, legend)
    try:
        mask = apply_rules(labels, rules, generator(seed, job.name))
    except ValueError as error:
        raise ValueError(f"{job.source}: {error}") from error
    write_mask(job, mask, legend)
    return np.bincount(mask.ravel(), minlength=256)


def generator(seed: int, name: str) -> np.random.Generator:
    """Source of randomness of one file, of its name and the seed alone."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")])


def write_mask(job: Job, mask: np.ndarray, legend: Legend) -> None:
    """Write class ids where the source lies, with colours and names of the classes; aside, then moved into place."""
    with rasterio.open(job.source) as source:
        place = {"crs": source.crs, "transform": None if source.transform.is_identity else source.transform}
    job.target.parent.mkdir(parents=True, exist_ok=True)
    aside = job.target.with_name(f"{job.target.name}.partial")
    aside.unlink(missing_ok=True)
    shape = {"height": mask.shape[0], "width": mask.shape[1], "count": 1, "dtype": "uint8", "nodata": IGNORE_INDEX}
    colours = {class_id: (*map(int, colour), 255) for class_id, colour in enumerate(legend.palette())}
    with rasterio.open(aside, "w", driver="GTiff", compress="deflate", **shape, **place) as dataset:
        dataset.write_colormap(1, colours)
        dataset.write(mask, 1)
        dataset.update_tags(LEGEND=legend.name, **job.mark)
        dataset.update_tags(1, **{f"CLASS_{class_id}": name for class_id, name in enumerate(legend.classes)})
    os.replace(aside, job.target)


def write_skipped(path: Path, skipped: Mapping[str, str]) -> None:
    """A CSV of what was left out, and why."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("source", "reason"), *skipped.items()])


def draw_masks(jobs: Sequence[Job], legend: Legend, noisy: bool, path: Path) -> None:
    """A picture of a few masks, evenly spread; with rules, their sources are above them."""
    from matplotlib.image import imsave

    from cromss.panels import mask_panel

    class_ids, rows = class_id_legend(legend), {"source": {}, "mask": {}} if noisy else {"mask": {}}
    for job in (jobs[i] for i in np.unique(np.linspace(0, len(jobs) - 1, SHOWN).astype(int))):
        for kind, masks in rows.items():
            mask = read_labels(job.target, class_ids) if kind == "mask" else read_labels(job.source, legend)
            step = max(1, max(mask.shape) // 512)
            masks[fill(job.name, 28)] = mask[::step, ::step]
    imsave(path, mask_panel(rows, legend))


def report(out: Path, legend: Legend, counts: np.ndarray, skipped: Mapping[str, str], num_masks: int) -> str:
    """What was made: masks, share of each class, what was skipped and why."""
    named = dict(zip(legend.classes, counts)) | {"unknown": counts[IGNORE_INDEX]}
    lines = [f"{num_masks} masks in {out}, legend for --label_codes: {out / LEGEND}"]
    lines += [f"{name:20s} {100 * count / counts.sum():6.2f} %" for name, count in named.items()]
    if skipped:
        lines.append(f"skipped: {len(skipped)} maps, see {out / SKIPPED}")
        lines += [f"  {reason}" for reason in list(skipped.values())[:SHOWN]]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, NoisyLabels)
