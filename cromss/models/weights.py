"""Encoder weights from anybody's file: look inside, load strictly, never run code.

A file is a table of tensors behind some prefix. The encoder's stem (its first convolution) is looked
up by name, whatever stands before it is the prefix, and every tensor of the encoder must be found
behind it with its own shape.
"""

import argparse
import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from cromss.models.stems import LAYOUTS, Stem, find_stems, listed

CONTAINERS = ("state_dict", "model_state_dict", "model", "teacher", "student")
"""Entries under which checkpoints keep their tensors; the first one present is opened."""


class WeightsError(ValueError):
    """A weights file that cannot be opened, or does not fit the encoder."""


@dataclass(frozen=True)
class WeightsReport:
    """What a weights file holds, and what was loaded of it.

    Attributes:
        path: The file.
        sha256: First 12 hex digits of its SHA-256.
        num_tensors: Tensors in the file.
        stems: Encoders found (ResNet stems when only inspected).
        layout: Whose checkpoint it is, as in `LAYOUTS`; `"unknown"` where no stem tells.
        prefix: Prefix of the encoder loaded; when only inspected, of the only one found, else `None`.
        in_channels: Number of bands of that encoder, or `None`.
        modality: Modality of that encoder, or `None`.
        num_loaded: Tensors loaded; 0 when only inspected.
        num_expected: Tensors the encoder has. Old files lack BatchNorm's step counters, then set to 0;
            nothing else may be missing.
        bands: Names of that encoder's bands in order, where the checkpoint tells them (ours do).
    """

    path: Path
    sha256: str
    num_tensors: int
    stems: tuple[Stem, ...]
    layout: str = "unknown"
    prefix: str | None = None
    in_channels: int | None = None
    modality: str | None = None
    num_loaded: int = 0
    num_expected: int = 0
    bands: tuple[str, ...] | None = None

    def __str__(self) -> str:
        head = f"{self.path} (sha256 {self.sha256}), {self.layout}: "
        if not self.num_loaded:
            return head + f"{self.num_tensors} tensors, encoders: {listed(self.stems)}"
        origin = f"{self.prefix or '(no prefix)'}, {self.modality or 'unknown sensor'}, {self.in_channels} bands"
        return head + f"{self.num_loaded}/{self.num_expected} tensors from {origin}"


def inspect(path: str | Path) -> WeightsReport:
    """Say which ResNet encoders a weights file holds.

    Raises:
        WeightsError: The file is missing, damaged, or holds code.
    """
    state_dict = read_state_dict(path)
    return _report(path, state_dict, find_stems(state_dict))


def load_encoder(
    encoder: nn.Module, path: str | Path, modality: str | None = None, source: str = "auto"
) -> WeightsReport:
    """Load an encoder from a checkpoint of any known layout, every tensor or none.

    Classification layers and whatever else lies in the file are left out; the encoder's own parts
    must match exactly, in names and shapes.

    Args:
        encoder: The encoder of a segmenter or pretrainer; its band count chooses among the encoders
            of the file.
        path: A PyTorch checkpoint or a `.safetensors` file.
        modality: `"s1"`, `"s2"` or `"common"` where the band count alone does not decide.
        source: A layout of `LAYOUTS` to insist on, or `"auto"`.

    Returns:
        What was loaded.

    Raises:
        WeightsError: The file is missing, damaged, or holds code; no encoder in it fits, or more
            than one does; the depth differs. The encoder is then unchanged.
    """
    if source not in ("auto", *LAYOUTS):
        raise WeightsError(f"source {source!r}: choose one of auto, {', '.join(LAYOUTS)}")
    state_dict = read_state_dict(path)
    own_names = _own_names(encoder)
    stem_name = next(name for name, tensor in own_names.items() if tensor.ndim == 4)
    shape = own_names[stem_name].shape
    stems = find_stems(state_dict, stem_name, tuple(shape[2:]))
    chosen = _choose(path, stems, shape[1], modality, source)
    tensors = _strict(path, state_dict, chosen.prefix, own_names)
    counters = {name: torch.zeros_like(tensor) for name, tensor in own_names.items() if _is_counter(name)}
    full_names = dict(zip(own_names, encoder.state_dict()))
    encoder.load_state_dict({full_names[name]: tensor for name, tensor in (counters | tensors).items()})
    report = _report(path, state_dict, stems, chosen, len(tensors), len(own_names))
    return replace(report, bands=_bands_on_card(Path(path), chosen.modality))


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, out of its container, on the CPU; nothing in the file is run.

    Raises:
        WeightsError: The file is missing, damaged, or holds anything but plain values and tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: {'a folder, not a weights file' if path.is_dir() else 'no such file'}")
    content = open_checkpoint(path)
    if isinstance(content, Mapping):
        content = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), content)
        tensors = {name: value for name, value in content.items() if isinstance(name, str) and _is_plain(value)}
        if tensors:
            return tensors
    raise WeightsError(f"{path}: no tensors found, neither bare nor under {', '.join(CONTAINERS)}")


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_complex()


def open_checkpoint(path: Path) -> object:
    """Whatever lies in a weights file, on the CPU; plain values and tensors, or a WeightsError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            reason = f"holds a pickled {code[1]}, which was not run; save the plain state_dict of tensors instead"
        else:
            reason = f"cannot be read as weights ({type(error).__name__}): damaged, or another kind of file"
        raise WeightsError(f"{path}: {reason}") from None


def _bands_on_card(path: Path, modality: str | None) -> tuple[str, ...] | None:
    """Band names that our checkpoints carry beside the tensors."""
    content = open_checkpoint(path)
    card = content.get("cromss") if isinstance(content, Mapping) else None
    bands = card.get("bands") if isinstance(card, Mapping) else None
    names = bands.get(modality) if isinstance(bands, Mapping) else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def _choose(path: str | Path, stems: tuple[Stem, ...], bands: int, modality: str | None, source: str) -> Stem:
    fitting = [
        stem
        for stem in stems
        if stem.shape[1] == bands
        and (modality is None or stem.modality in (None, modality))
        and source in ("auto", stem.layout)
    ]
    fitting = [stem for stem in fitting if "encoder_q" in stem.prefix or "teacher" in stem.prefix] or fitting
    if len(fitting) == 1:
        return fitting[0]
    wanted = f"{bands} bands" + (f" of {modality}" if modality else "") + (f" in {source}" if source != "auto" else "")
    problem = f"more than one encoder takes {wanted}, name the modality" if fitting else f"no encoder takes {wanted}"
    raise WeightsError(f"{path}: {problem}; found {listed(stems)}")


def _own_names(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's tensors by the names foreign files use: timm's wrapper adds `model.` to all of them."""
    tensors = encoder.state_dict()
    wrapped = all(name.startswith("model.") for name in tensors)
    return {name.removeprefix("model.") if wrapped else name: tensor for name, tensor in tensors.items()}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _strict(
    path: str | Path, state_dict: Mapping[str, torch.Tensor], prefix: str, own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The encoder's tensors from the file, by the encoder's own names; all of them, or an error."""
    parts = {name.split(".")[0] for name in own}
    behind = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    found = {name: tensor for name, tensor in behind.items() if name.split(".")[0] in parts}
    problems = [problem for name, tensor in own.items() if (problem := _misfit(name, tensor, found.get(name)))]
    problems += [f"{name} has no place in it" for name in found if name not in own]
    if problems:
        raise WeightsError(
            f"{path}: {prefix or '(no prefix)'} is another kind of encoder, {len(problems)} of its tensors do not "
            f"fit: {'; '.join(problems[:3])}; is --model_type the encoder of these weights?"
        )
    return found


def _misfit(name: str, own: torch.Tensor, found: torch.Tensor | None) -> str | None:
    """What keeps a tensor of the file from its place in the encoder, if anything does."""
    if found is None:
        return None if _is_counter(name) else f"{name} is missing"
    if found.shape != own.shape:
        return f"{name} is {tuple(found.shape)}, not {tuple(own.shape)}"
    return None if torch.isfinite(found).all() else f"{name} holds NaN or infinity"


def _report(
    path: str | Path,
    state_dict: Mapping[str, torch.Tensor],
    stems: tuple[Stem, ...],
    chosen: Stem | None = None,
    num_loaded: int = 0,
    num_expected: int = 0,
) -> WeightsReport:
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    only = chosen or (stems[0] if len(stems) == 1 else None)
    layouts = {stem.layout for stem in ((only,) if only else stems)}
    return WeightsReport(
        path=Path(path),
        sha256=sha256,
        num_tensors=len(state_dict),
        stems=stems,
        layout=layouts.pop() if len(layouts) == 1 else "unknown",
        prefix=only.prefix if only else None,
        in_channels=only.shape[1] if only else None,
        modality=only.modality if only else None,
        num_loaded=num_loaded,
        num_expected=num_expected,
    )
