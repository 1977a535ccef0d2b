"""Encoders released as folders that timm and segmentation_models_pytorch load in one line, with their input.

A folder holds `config.json`, `model.safetensors` and `README.md`, as the `local-dir:` of timm wants it. `first_conv` is
null, or older versions of timm would start the first layer anew for other than three bands.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from cromss.encoder_names import OWN_FAMILIES, family, is_vit
from cromss.expected_input import ExpectedInput, expected_input
from cromss.models.found_encoders import FoundEncoder
from cromss.models.sources import SOURCES
from cromss.models.stems import Stem
from cromss.models.weight_files import CARD_KEY, WeightsError, open_checkpoint
from cromss.models.weights import inspect, load_encoder
from cromss.normalization import WITH_STATISTICS
from cromss.sensors import MODALITIES, S2_SUBSETS

CONFIG_NAME, TENSORS_NAME, SUMS_NAME = "config.json", "model.safetensors", "SHA256SUMS"

_RESNETS = ("resnet50", "resnet18", "resnet34", "resnet101", "resnet152")
"""Tried where a checkpoint does not tell its encoder, as the published ones."""


@dataclass(frozen=True)
class ReleasedEncoder:
    """An encoder ready to be written.

    Attributes:
        modality: `"s1"`, `"s2"` or `"ortho"`.
        architecture: Its name in timm.
        model_args: What `timm.create_model` is given beside.
        bands: Names of the input bands, in order.
        statistics: `mean` and `std` by band, and their `source`.
        model: The encoder as timm has it, without classifier, in evaluation mode.
        sha256: First digits of the checkpoint's SHA-256.
        normalization: What it was trained with, a name in `cromss.normalization.NORMALIZATIONS`.
        origin: Whose weights they are, in words.
    """

    modality: str
    architecture: str
    model_args: Mapping[str, Any]
    bands: tuple[str, ...]
    statistics: Mapping[str, Any]
    model: nn.Module
    sha256: str
    normalization: str = "common"
    origin: str = ""

    @property
    def expected(self) -> ExpectedInput:
        """What it expects of its input."""
        sensor = MODALITIES[self.modality]
        if self.normalization not in WITH_STATISTICS:
            return expected_input(self.normalization, sensor, self.bands)
        own = {name: tuple(self.statistics[name]) for name in ("mean", "std")}
        return replace(expected_input(self.normalization, sensor, self.bands), **own)

    @property
    def card(self) -> dict[str, Any]:
        """What our own loader is told beside the tensors."""
        sensor, statistics = MODALITIES[self.modality], {"source": self.statistics["source"]}
        for name in ("mean", "std"):  # of all bands, as sensors have them
            fed = dict(zip(self.bands, self.statistics[name]))
            statistics[name] = [fed.get(band, own) for band, own in zip(sensor.bands, getattr(sensor, name))]
        statistics["bands"] = list(sensor.bands)
        return {
            "bands": {self.modality: list(self.bands)},
            "normalization": {self.modality: self.normalization},
            "statistics": {self.modality: statistics},
        }

    @property
    def config(self) -> dict[str, Any]:
        """Contents of `config.json`: timm's, and under `cromss` what the input must be."""
        expected, side = self.expected, self.model_args.get("img_size", 224)
        count = len(self.bands)
        return {
            "architecture": self.architecture,
            "num_classes": 0,
            "num_features": self.model.num_features,
            "model_args": dict(self.model_args),
            "pretrained_cfg": {
                "input_size": [count, side, side],
                "fixed_input_size": False,
                "num_classes": 0,
                "first_conv": None,
                "classifier": None,
                "mean": [0.0] * count,
                "std": [1.0] * count,
                "interpolation": "bicubic",
            },
            "cromss": {
                "modality": self.modality,
                "bands": list(self.bands),
                "unit": expected.unit,
                "normalization": f"{expected.normalization}: {expected.steps}",
                "mean": list(expected.mean),
                "std": list(expected.std),
                "statistics": self.statistics["source"],
                "origin": self.origin,
                "checkpoint_sha256": self.sha256,
            },
        }


def save_tensors(tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any], path: Path) -> None:
    """Write tensors and a card of plain values, which `open_checkpoint` reads back together."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, {"format": "pt", CARD_KEY: json.dumps(card)})
    path.chmod(0o644)  # it would be for its owner alone


def released_encoder(checkpoint: str | Path, modality: str) -> ReleasedEncoder:
    """An encoder of a checkpoint of ours, or of a published one of CromSS, as timm has it.

    Raises:
        WeightsError: No such encoder in it, or timm has none of these names and shapes.
    """
    path = Path(checkpoint)
    card = _card(path)
    stems = [stem for stem in inspect(path).stems if stem.modality == modality]
    if len(stems) != 1:
        raise WeightsError(f"{path}: {len(stems)} encoders of {modality} in it, one is wanted")
    told = card.get("encoder_name") or card.get("settings", {}).get("model_type")
    problems = []
    for name in (told,) if told else _RESNETS:
        architecture, model_args = _in_timm(path, str(name), stems[0], card)
        model = timm.create_model(architecture, pretrained=False, **model_args)
        try:
            report = load_encoder(model, path, modality)
        except WeightsError as error:
            problems.append(str(error))
            continue
        bands = report.bands or _bands(path, modality, stems[0].shape[1])
        return ReleasedEncoder(
            modality, architecture, model_args, bands, _statistics(report, modality, bands), model.eval(), report.sha256
        )
    raise WeightsError(problems[0])


def foreign_encoder(path: Path, found: FoundEncoder, source: str) -> ReleasedEncoder:
    """An encoder that was found in a file of anyone's, as timm has it.

    Raises:
        WeightsError: timm has no such network, it is not known what the encoder expects, or it does not load.
    """
    name = f"{path}: {found.stem.prefix or '(no prefix)'}"
    if not found.architecture:
        raise WeightsError(f"{name}: no ResNet or plain ViT that timm has; such encoders cannot be converted")
    if found.expected is None:
        raise WeightsError(f"{name}: {found.problem}")
    model = timm.create_model(found.architecture, pretrained=False, **found.model_args)
    report = load_encoder(model, path, found.modality, source)
    expected, sensor, reference = found.expected, found.sensor, SOURCES[found.source].reference
    told = expected if expected.normalization in WITH_STATISTICS else expected_input("common", sensor, expected.bands)
    statistics = {"mean": list(told.mean), "std": list(told.std), "source": sensor.source}
    return ReleasedEncoder(
        found.modality,
        found.architecture,
        found.model_args,
        expected.bands,
        statistics,
        model.eval(),
        report.sha256,
        expected.normalization,
        f"{found.source} ({reference})",
    )


def read_encoder(folder: Path) -> ReleasedEncoder:
    """The encoder in a folder of a release; its tensors are loaded by timm.

    Raises:
        WeightsError: Its `config.json` is not one of ours.
    """
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        told = config["cromss"]
        statistics = {"mean": told["mean"], "std": told["std"], "source": told["statistics"]}
        return ReleasedEncoder(
            told["modality"],
            config["architecture"],
            config["model_args"],
            tuple(told["bands"]),
            statistics,
            timm.create_model(f"local-dir:{folder}", pretrained=True).eval(),
            told["checkpoint_sha256"],
            told["normalization"].split(":")[0],
            told.get("origin", ""),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder / CONFIG_NAME}: not of a release ({error}); get it anew") from None


def write_encoder(encoder: ReleasedEncoder, folder: Path, card: str) -> None:
    """Write a folder; its files are replaced whole.

    Args:
        encoder: What to write.
        folder: Where; made if it is not there.
        card: Text of its `README.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = encoder.config
    save_tensors(encoder.model.state_dict(), encoder.card, folder / TENSORS_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file in a release, as `sha256sum -c` reads them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_NAME)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8")


def check_release(folder: Path) -> list[Path]:
    """Compare the files of a release with their sums, and their tensors with what timm makes of them.

    Returns:
        The folders of encoders in it.

    Raises:
        WeightsError: A file is missing, changed or not listed; timm does not build or fill the network.
    """
    told = _sums(folder / SUMS_NAME)
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {SUMS_NAME}
    if missing := sorted(told.keys() - there):
        raise WeightsError(f"{folder / missing[0]}: missing; get the release anew")
    if unknown := sorted(there - told.keys()):
        raise WeightsError(f"{folder / unknown[0]}: not in {SUMS_NAME}; remove it")
    for name, digest in told.items():
        if _sha256(folder / name) != digest:
            raise WeightsError(f"{folder / name}: changed since the release was made; get it anew")
    encoders = sorted(path.parent for path in folder.rglob(CONFIG_NAME))
    for path in encoders:
        _check_timm(path)
    return encoders


def _check_timm(folder: Path) -> None:
    """Refuse a folder that timm does not fill with every tensor of its file."""
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        with safe_open(folder / TENSORS_NAME, "pt") as file:
            wanted = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{folder}: timm {timm.__version__} cannot load it ({reason[:160]})") from error
    found = model.state_dict()
    if differing := [n for n in wanted.keys() | found.keys() if not _same(wanted.get(n), found.get(n))]:
        raise WeightsError(
            f"{folder}: timm {timm.__version__} loads another {sorted(differing)[0]} than is in the file"
        )


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _sums(path: Path) -> dict[str, str]:
    """Name -> SHA-256."""
    try:
        rows = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        sums = {name: digest for digest, name in rows}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); a folder that release.py wrote is wanted") from None
    if outside := [name for name in sums if name.startswith("/") or ".." in Path(name).parts]:
        raise WeightsError(f"{path}: {outside[0]} lies outside of the release")
    return sums


def _card(path: Path) -> Mapping[str, Any]:
    content = open_checkpoint(path)
    card = content.get("cromss") if isinstance(content, Mapping) else None
    return card if isinstance(card, Mapping) else {}


def _in_timm(path: Path, name: str, stem: Stem, card: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments with which timm builds an encoder."""
    architecture = name.removeprefix("tu-")
    if family(name) in OWN_FAMILIES or not timm.is_model(architecture):
        raise WeightsError(
            f"{path}: timm has no {name} of these names; ResNets, tu-<model of timm> and plain ViTs have"
        )
    model_args: dict[str, Any] = {"in_chans": stem.shape[1], "num_classes": 0}
    if is_vit(name):
        settings = card.get("settings", {})
        patch = stem.shape[-1]
        model_args |= {"patch_size": patch, "img_size": int(settings.get("image_size") or settings["crop_size"])}
    return architecture, model_args


def _bands(path: Path, modality: str, count: int) -> tuple[str, ...]:
    """Bands of a checkpoint that does not name them, by their number."""
    known = {len(MODALITIES[modality].bands): MODALITIES[modality].bands}
    if modality == "s2":
        known |= S2_SUBSETS
    if count not in known:
        raise WeightsError(f"{path}: {count} bands of {modality}, which the file does not name")
    return tuple(known[count])


def _statistics(report: Any, modality: str, bands: Sequence[str]) -> dict[str, Any]:
    """Mean and standard deviation of the bands fed: those of the checkpoint's card, else the built-in ones."""
    sensor = MODALITIES[modality]
    told = report.statistics.get(modality, {"bands": sensor.bands, "mean": sensor.mean, "std": sensor.std})
    places = [list(told.get("bands", sensor.bands)).index(band) for band in bands]
    source = str(told.get("source") or sensor.source)
    return {"mean": [told["mean"][i] for i in places], "std": [told["std"][i] for i in places], "source": source}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
