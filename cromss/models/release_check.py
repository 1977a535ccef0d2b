"""Releases read again: their files by sums, their cards by what the tensors are, their tensors by timm."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from cromss.models.release import (
    BARE_FOLDER,
    CARD_NAME,
    CONFIG_NAME,
    PRETRAINER_NAME,
    TENSORS_NAME,
    ReleasedEncoder,
)
from cromss.models.strict_loading import Undrawn
from cromss.models.weight_files import CARD_KEY, WeightsError, open_checkpoint
from cromss.normalization import WITH_STATISTICS
from cromss.sensors import MODALITIES

SUMS_NAME = "SHA256SUMS"

_MODEL_ARGS = {"in_chans", "num_classes", "patch_size", "img_size"}
_IN_WORDS = "cromss.normalization"
"""Entry of a `config.json` that another version may word differently."""
_OF_THE_HUB = re.compile(r"\.gitattributes|(\.cache|\.git)/.*|LICENSE[\w.-]*")
"""Files that a hub, its client, `git clone` or the owner adds, and no tool loads."""


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file of a release, as `sha256sum -c` reads them."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in sorted(_files(folder))]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8")


def check_release(folder: Path) -> list[Path]:
    """Compare the files of a release with their sums, its cards with its tensors, and those with what timm loads.

    Returns:
        The folders of encoders in it.

    Raises:
        WeightsError: A file is missing, changed, not listed, no part of a release, or a link that leads out of it; a
            card says something else than the tensors' own; timm does not build or fill the network.
    """
    _refuse_links(folder)
    told, there = _sums(folder / SUMS_NAME), _files(folder)
    if missing := sorted(name for name in told.keys() - there if not (folder / name).is_file()):
        raise WeightsError(f"{folder / missing[0]}: missing; get the release anew")
    if unknown := sorted(there - told.keys()):
        raise WeightsError(f"{folder / unknown[0]}: not in {SUMS_NAME}; remove it")
    for name, digest in told.items():
        if _sha256(folder / name) != digest:
            raise WeightsError(f"{folder / name}: changed since the release was made; get it anew")
    encoders = _encoder_folders(folder, there)
    for path in encoders:
        _check_tensors(path)
    return encoders


def read_encoder(folder: Path) -> ReleasedEncoder:
    """The encoder in a folder of a release; its tensors are loaded by timm.

    Raises:
        WeightsError: Its `config.json` is not one of ours, or timm does not load its tensors.
    """
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no mapping")
        encoder = _untrained(config)
        if wrong := _difference(config, encoder.config):
            raise ValueError(wrong)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not of a release ({_line(error)}); get it anew") from None
    try:
        return replace(encoder, model=timm.create_model(f"local-dir:{folder}", pretrained=True).eval())
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsError(f"{folder}: timm {timm.__version__} cannot load it ({_line(error)})") from error


def other_encoder(told: ReleasedEncoder, wanted: ReleasedEncoder) -> str:
    """What of one encoder is not that of another, but for the file it lay in; empty where nothing is."""
    told = replace(told, sha256=wanted.sha256, origin=wanted.origin)
    wrong = _difference({**told.config, **told.card}, {**wanted.config, **wanted.card})
    return wrong or _other_tensor(told.model.state_dict(), wanted.model.state_dict())


def _untrained(config: Mapping[str, Any]) -> ReleasedEncoder:
    """The encoder that a `config.json` describes, its model without memory."""
    told, model_args, architecture = config["cromss"], config["model_args"], config["architecture"]
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"architecture {architecture!r}: no network of timm")
    if unknown := sorted(model_args.keys() - _MODEL_ARGS):
        raise ValueError(f"model_args: unknown {unknown[0]}")
    if len(told["bands"]) != model_args["in_chans"]:
        raise ValueError(f"{len(told['bands'])} bands, but in_chans {model_args['in_chans']}")
    with torch.device("meta"), Undrawn():
        model = timm.create_model(architecture, pretrained=False, **model_args)
    return ReleasedEncoder(
        told["modality"],
        architecture,
        model_args,
        tuple(told["bands"]),
        {"mean": told["mean"], "std": told["std"], "source": told["statistics"]},
        model,
        told["checkpoint_sha256"],
        told["normalization"].split(":")[0],
        told["origin"],
    )


def _encoder_folders(folder: Path, there: set[str]) -> list[Path]:
    """Folders of the encoders that a release must have, if its files are those of a release."""
    words = {word for name in there for word in (Path(name).parts[0], Path(name).stem)}
    if PRETRAINER_NAME in there:
        bands = _card_of(folder / PRETRAINER_NAME).get("bands")
        words |= bands.keys() if isinstance(bands, dict) else set()
    modalities = sorted(words & MODALITIES.keys())
    if not modalities:
        raise WeightsError(f"{folder}: no encoder in it; a folder that release.py wrote is wanted")
    wanted = {CARD_NAME, PRETRAINER_NAME} if PRETRAINER_NAME in there else {CARD_NAME}
    for modality in modalities:
        wanted |= {f"{modality}/{name}" for name in (CARD_NAME, CONFIG_NAME, TENSORS_NAME)}
        wanted.add(f"{BARE_FOLDER}/{modality}.pth")
    if missing := sorted(wanted - there):
        raise WeightsError(f"{folder / missing[0]}: missing; get the release anew")
    if foreign := sorted(there - wanted):
        raise WeightsError(f"{folder / foreign[0]}: no part of a release; remove it, and its line in {SUMS_NAME}")
    return [folder / modality for modality in modalities]


def _check_tensors(folder: Path) -> None:
    """Refuse an encoder whose cards differ, or that timm does not fill with every tensor of its file."""
    encoder = read_encoder(folder)
    if encoder.modality != folder.name:
        raise WeightsError(f"{folder / CONFIG_NAME}: modality {encoder.modality}, in the folder {folder.name}")
    path = folder / TENSORS_NAME
    saved, told, wanted = load_file(path), _card_of(path), encoder.card
    if encoder.normalization not in WITH_STATISTICS:
        told, wanted = ({**card, "statistics": None} for card in (told, wanted))
    if wrong := _difference(told, wanted):
        raise WeightsError(f"{path}: bound to another input than {CONFIG_NAME} says ({wrong})")
    if wrong := _other_tensor(saved, encoder.model.state_dict()):
        raise WeightsError(f"{folder}: timm {timm.__version__} loads another {wrong} than is in the file")
    bare = folder.parent / BARE_FOLDER / f"{folder.name}.pth"
    content = open_checkpoint(bare)
    if not isinstance(content, Mapping) or _other_tensor(content, saved):
        raise WeightsError(f"{bare}: other tensors than in {path}; get the release anew")


def _card_of(path: Path) -> dict[str, Any]:
    """What a file tells beside its tensors."""
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})[CARD_KEY])
    except (KeyError, OSError, ValueError, RecursionError, SafetensorError) as error:
        raise WeightsError(f"{path}: not of a release ({_line(error)}); get it anew") from None
    return card if isinstance(card, dict) else {}


def _difference(told: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first entry of a card that is not as it must be; empty where there is none."""
    entries, right = _flat(told), _flat(wanted)
    wrong = (key for key in sorted(entries.keys() | right.keys()) if entries.get(key) != right.get(key))
    key = next((key for key in wrong if key != _IN_WORDS), "")
    return key and f"{key} is {str(entries.get(key))[:60]}, not {str(right.get(key))[:60]}"


def _flat(values: Any, key: str = "") -> dict[str, Any]:
    """Values of nested mappings by dotted keys."""
    if not isinstance(values, Mapping):
        return {key: values}
    inner = (_flat(value, f"{key}.{name}".lstrip(".")) for name, value in values.items())
    return {name: value for entries in inner for name, value in entries.items()}


def _other_tensor(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Name of the first tensor that is not the same in both; empty where there is none."""
    return next((name for name in sorted(a.keys() | b.keys()) if not _same(a.get(name), b.get(name))), "")


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)


def _files(folder: Path) -> set[str]:
    """Names of the files of a release, but for the sums."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name for name in names if name != SUMS_NAME and not _OF_THE_HUB.fullmatch(name)}


def _refuse_links(folder: Path) -> None:
    """Refuse links to what lies outside."""
    inside = os.path.realpath(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
            remedy = "put the file itself there, as hf download --local-dir does"
            raise WeightsError(f"{path}: a link that leads out of the release; {remedy}")


def _sums(path: Path) -> dict[str, str]:
    """Name -> SHA-256."""
    try:
        rows = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        sums = {name: digest for digest, name in rows}
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read ({_line(error)}); a folder that release.py wrote is wanted"
        ) from None
    if outside := [name for name in sums if name.startswith("/") or ".." in Path(name).parts]:
        raise WeightsError(f"{path}: {outside[0]} lies outside of the release; get it anew")
    return sums


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    words = (isinstance(error, OSError) and error.strerror) or str(error)
    said = " ".join(words.split())[:160]
    return f"no {said}" if isinstance(error, KeyError) else said or type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
