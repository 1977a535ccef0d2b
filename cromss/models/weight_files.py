"""Weights files from anybody: opened without running code, tensors out of their container, bands where told."""

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cromss.sensors import S2, S2_SUBSETS

CARD_KEY = "cromss"
"""Where our own files keep what they tell of themselves: an entry, in `.safetensors` one of the metadata, as JSON."""

CONTAINERS = ("state_dict", "model_state_dict", "model", "teacher", "student")
"""Entries under which checkpoints keep their tensors; the first one present is opened."""


class WeightsError(ValueError):
    """A weights file that cannot be opened, or does not fit the network."""


def open_checkpoint(path: Path) -> object:
    """Whatever lies in a weights file, on the CPU; plain values and tensors, or a WeightsError."""
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'a folder, not a weights file; give the file' if path.is_dir() else 'no such file'}"
        )
    try:
        if path.suffix == ".safetensors":
            return _with_card(path)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_plain_zip(path))
    except Exception as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            reason = f"holds a pickled {code[1]}, which was not run; save the plain state_dict of tensors instead"
        else:
            what = f"({type(error).__name__}): damaged, or another kind of file; save or download it anew"
            reason = f"cannot be read as weights {what}"
        raise WeightsError(f"{path}: {reason}") from None


def _is_plain_zip(path: Path) -> bool:
    """A zip whose members take as much memory as they do in the file, as torch writes them; no zip is none.

    Raises:
        BadZipFile: Damaged, or with compressed members, which could be a thousand times larger than the file.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("compressed")
    return True


def _with_card(path: Path) -> object:
    """Tensors of a `.safetensors` file; with a card, both as in a checkpoint."""
    with safe_open(path, "pt") as file:
        card = (file.metadata() or {}).get(CARD_KEY)
    tensors = load_file(path)
    return tensors if card is None else {"state_dict": tensors, CARD_KEY: json.loads(card)}


def tensors_in(content: object, path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of an opened checkpoint, out of their container.

    Raises:
        WeightsError: There are none.
    """
    if isinstance(content, Mapping):
        content = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), content)
        tensors = {name: value for name, value in content.items() if isinstance(name, str) and _is_plain(value)}
        if tensors:
            return tensors
    told = f"no tensors found, neither bare nor under {', '.join(CONTAINERS)}"
    raise WeightsError(f"{path}: {told}; save the plain state_dict of a network")


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, on the CPU; nothing in the file is run.

    Raises:
        WeightsError: The file is missing, damaged, or holds anything but plain values and tensors.
    """
    return tensors_in(open_checkpoint(Path(path)), path)


def told_bands(content: object, modality: str | None, in_channels: int | None) -> tuple[str, ...] | None:
    """Band names of a modality in order, where the checkpoint tells them: ours on a card, others by `n_channels`.

    Those of `"common"` are the modalities' bands one after the other, as they are stacked. `in_channels` is
    `None` of an encoder for any number of bands.
    """
    if not isinstance(content, Mapping):
        return None
    card = {name: bands for name, bands in _on_card(content, "bands").items() if isinstance(bands, list)}
    names = [band for name in sorted(card) for band in card[name]] if modality == "common" else card.get(modality)
    if names and (modality != "common" or in_channels in (None, len(names))):
        return tuple(map(str, names))
    bands = S2_SUBSETS.get(_published_setting(content, "n_channels"), ())
    return bands if modality == S2.name and len(bands) == in_channels else None


def told_normalization(content: object) -> dict[str, str]:
    """Modality -> name of its normalisation, where the checkpoint's card tells it (those of transfer do)."""
    told = _on_card(content, "normalization") if isinstance(content, Mapping) else {}
    return {modality: name for modality, name in told.items() if isinstance(name, str)}


def told_statistics(content: object) -> dict[str, Mapping[str, Any]]:
    """Modality -> `bands`, `mean` and `std` of the input, where the checkpoint's card tells them (newer ones do)."""
    told = _on_card(content, "statistics") if isinstance(content, Mapping) else {}
    return {modality: entry for modality, entry in told.items() if isinstance(entry, Mapping)}


def _on_card(content: Mapping, entry: str) -> Mapping[str, Any]:
    """What the card of our own checkpoints says by modality; nothing where there is no card."""
    card = content.get(CARD_KEY)
    values = card.get(entry) if isinstance(card, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def _published_setting(content: Mapping, name: str) -> int | None:
    """A setting of a published training: in the Namespace that lies in its `hyper_parameters`."""
    settings = content.get("hyper_parameters")
    inner = settings.values() if isinstance(settings, Mapping) else [settings]
    found = [getattr(value, name, None) for value in inner if isinstance(value, argparse.Namespace)]
    return found[0] if found and isinstance(found[0], int) else None


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_complex()
