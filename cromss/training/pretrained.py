"""A pretraining run opened again: its settings, and its network with the weights of a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cromss.config import read
from cromss.models.fusion import Pretrainer
from cromss.models.strict_loading import damages
from cromss.models.weight_files import open_checkpoint, tensors_in
from cromss.settings import MultiModalSettings, PretrainSettings, SingleModalSettings
from cromss.training.pretraining import blank_network
from cromss.training.run_folder import RunFolder


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining run left.

    Attributes:
        name: The checkpoint behind its flag, `--noisy runs/a/checkpoints/last.ckpt`, to begin the line of an error.
        path: The checkpoint.
        settings: Settings of the run.
        epochs: Epochs that it was trained for.
        classes: Names of its classes, where the checkpoint tells them.
        locations: Checksum of the locations of its set, where the checkpoint tells it.
        tensors: All tensors of the checkpoint, on the CPU.
    """

    name: str
    path: Path
    settings: PretrainSettings
    epochs: int
    classes: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    locations: str = ""

    def network(self) -> Pretrainer:
        """The network in evaluation mode, with every weight of the checkpoint.

        Raises:
            ValueError: They do not fit the settings, or are not finite.
        """
        own = {name.removeprefix("model."): x for name, x in self.tensors.items() if name.startswith("model.")}
        try:
            network = blank_network(self.settings)
            network.load_state_dict(own)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        except RuntimeError as error:
            first = " ".join(str(error).splitlines()[1].split())
            raise ValueError(f"{self.name}: its weights do not fit its settings ({first[:160]})") from None
        wrong = damages(network, own)
        if wrong:
            raise ValueError(f"{self.name}: its weights are damaged ({wrong[0]})")
        return network.eval()


def open_pretrained(path: str, flag: str) -> Pretrained:
    """Open a run folder (its newest checkpoint) or a checkpoint file of pretraining; nothing in it is run.

    Args:
        path: Folder or file.
        flag: Flag that told it.

    Raises:
        ValueError: No checkpoint of pretraining, damaged, or its settings cannot be read.
    """
    file = _checkpoint(Path(path), flag)
    name = f"--{flag} {file}"
    try:
        content = open_checkpoint(file)
        card = content.get("cromss") if isinstance(content, Mapping) else None
        if not isinstance(card, Mapping) or "fusion" not in card or not isinstance(card.get("settings"), Mapping):
            raise ValueError("not a checkpoint of pretraining, such as train_pretrain.py writes")
        settings, tensors = settings_from(card["settings"]), tensors_in(content, file)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix(f'{file}: ')}") from None
    classes, locations = tuple(card.get("classes", ())), str(card.get("locations", ""))
    return Pretrained(name, file, settings, content.get("epoch", -1) + 1, classes, tensors, locations)


def settings_from(flat: Mapping[str, Any]) -> PretrainSettings:
    """Settings of a pretraining from the flat mapping that `cromss.config.to_flat` made of them.

    What was not there yet has what is its default now.

    Raises:
        ValueError: An unknown setting, or a value of a wrong kind.
    """
    kind = MultiModalSettings if flat.get("input_type") == "s12" else SingleModalSettings
    return read(kind, [word for flag, value in flat.items() for word in _words(flag, value)])


def _checkpoint(path: Path, flag: str) -> Path:
    if not path.is_dir():
        return path
    newest = RunFolder(path).newest()
    if newest is None:
        raise ValueError(f"--{flag} {path}: no checkpoint in this folder; a run folder or a checkpoint file is wanted")
    return newest


def _words(flag: str, value: Any) -> list[str]:
    """A setting as words of a command line."""
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no_{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
