"""A release from a checkpoint: encoders for other tools, the whole network, a model card, sums."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from cromss.models.found_encoders import found_encoders
from cromss.models.release import (
    BARE_FOLDER,
    CARD_NAME,
    PRETRAINER_NAME,
    ReleasedEncoder,
    foreign_encoder,
    released_encoder,
    save_tensors,
    write_encoder,
)
from cromss.models.release_check import check_release, other_encoder, read_encoder, write_sums
from cromss.models.stems import listed
from cromss.models.weight_files import WeightsError
from cromss.settings.release import ReleaseSettings, WeightsSettings
from cromss.training.model_card import LoadingLine, card_text, foreign_card, loading_lines
from cromss.training.pretrainer_files import check_parent, pretrainer_in
from cromss.training.run_folder import newest_checkpoint

_OWN_LAYOUTS = {"cromss-mid", "cromss-late", "single", "pretrainer-mid", "pretrainer-late"}
"""Layouts of whole pretrained networks."""

PATIENCE_S = 600
"""How long a loading line may run, in seconds."""


def release(settings: ReleaseSettings) -> list[str]:
    """Write a release and say what was written, and what was checked.

    Raises:
        ValueError: The checkpoint holds no pretrained encoder that can be released, `out` is not empty, or the release
            does not stand its check.
    """
    path, out = newest_checkpoint(settings.checkpoint, "checkpoint"), settings.out
    _check_target(out)
    scores = _scores(settings.scores)
    tensors, card = pretrainer_in(path)
    encoders = [released_encoder(path, modality) for modality in card["bands"]]
    text = partial(card_text, settings, card, scores)
    return _write(out, encoders, text, (tensors, card), settings.verify)


def to_release(settings: WeightsSettings) -> list[str]:
    """Write the encoders in a file of anyone's as a release; says what was written.

    Raises:
        ValueError: No encoder that timm has, it is not known what one expects of its input, or `out` is not empty.
    """
    path, out = settings.path, settings.out
    _check_target(out)
    found = found_encoders(path, settings.modality or None, settings.source, settings.normalization)
    whole = settings.source == "auto" and not settings.normalization
    if whole and any(encoder.stem.layout in _OWN_LAYOUTS for encoder in found):
        return release(ReleaseSettings(path, out))
    if not found:
        raise WeightsError(f"{path}: no ResNet or ViT in it")
    wanted = [encoder for encoder in found if encoder.stem.preferred] or found
    told = [encoder.modality for encoder in wanted]
    if len(set(told)) < len(told):
        doubled = next(modality for modality in told if told.count(modality) > 1) or "an unknown sensor"
        raise WeightsError(f"{path}: more than one encoder of {doubled} in it: {listed(tuple(e.stem for e in wanted))}")
    encoders = [foreign_encoder(path, encoder, settings.source) for encoder in wanted]
    return _write(out, encoders, partial(foreign_card, path))


def _check_target(out: Path) -> None:
    check_parent(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: is there already; choose an empty folder")


def _scores(path: Path | None) -> str:
    """Markdown of the scores."""
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        raise ValueError(f"--scores {path}: cannot be read ({reason}); a Markdown file is wanted") from None


def _write(
    out: Path,
    encoders: Sequence[ReleasedEncoder],
    text: Callable[..., str],
    network: tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None = None,
    is_verified: bool = False,
) -> list[str]:
    """Write a release whole; `text` makes the card of some of the encoders, `network` is the whole one and its card."""
    target = out.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        unfinished = Path(temporary) / target.name
        (unfinished / BARE_FOLDER).mkdir(parents=True)
        for encoder in encoders:
            write_encoder(encoder, unfinished / encoder.modality, text([encoder], place="."))
            torch.save(encoder.model.state_dict(), unfinished / BARE_FOLDER / f"{encoder.modality}.pth")
        if network:
            save_tensors(*network, unfinished / PRETRAINER_NAME)
        (unfinished / CARD_NAME).write_text(text(encoders), encoding="utf-8")
        write_sums(unfinished)
        held = _verified(unfinished, out) if is_verified else []
        unfinished.replace(target)
    return [f"released: {out / encoder.modality} ({encoder.architecture})" for encoder in encoders] + held


def _verified(unfinished: Path, out: Path) -> list[str]:
    """`verify` of a release that is not yet in its place."""
    try:
        return [line.replace(str(unfinished), str(out)) for line in verify(unfinished)]
    except WeightsError as error:
        raise WeightsError(f"{str(error).replace(str(unfinished), str(out))}; nothing was released") from None


def verify(folder: Path) -> list[str]:
    """Check the files of a release and run its loading lines, offline; says what held.

    Raises:
        WeightsError: As `check_release`; the whole network has other encoders than the folders; a line fails.
    """
    encoders = [read_encoder(path) for path in check_release(folder)]
    told = [f"{folder}: every sum holds; timm loads every tensor of {', '.join(e.modality for e in encoders)}"]
    if (folder / PRETRAINER_NAME).exists():
        _check_network(folder, encoders)
        told.append(f"{folder / PRETRAINER_NAME}: has the same encoders")
    for encoder in encoders:
        for line in loading_lines(encoder):
            told.append(f"{encoder.modality}, {line.package}: {_run(line, folder)}")
    return told


def _check_network(folder: Path, encoders: Sequence[ReleasedEncoder]) -> None:
    """Refuse a whole network that is not one of ours, or whose encoders or their input differ from the folders'."""
    path = folder / PRETRAINER_NAME
    bands = pretrainer_in(path)[1]["bands"]
    for encoder in encoders:
        if encoder.modality not in bands:
            raise WeightsError(f"{path}: no encoder of {encoder.modality} in it; get the release anew")
        if wrong := other_encoder(released_encoder(path, encoder.modality), encoder):
            raise WeightsError(f"{path}: another encoder than in {folder / encoder.modality} ({wrong})")


def _run(line: LoadingLine, folder: Path) -> str:
    """What came of running a line in a folder; no module is taken from there."""
    if find_spec(line.package) is None:
        return "not installed, so its line was not run"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    if paths := os.environ.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths.split(os.pathsep)))
    code = line.code.replace("\n", "; ")
    command = [sys.executable, "-P", "-c", line.code]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env=environment, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise WeightsError(f"{folder}: {line.package} has not loaded it after {PATIENCE_S} s: {code}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise WeightsError(f"{folder}: {line.package} does not load it ({last[:200]}): {code}")
    return "its line runs"
