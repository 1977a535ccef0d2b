"""A pretraining run opened again: its settings, and its network with the weights of a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from cromss.config import read
from cromss.models.fusion import Pretrainer
from cromss.models.strict_loading import Undrawn, damages
from cromss.models.weight_files import CARD_KEY, open_checkpoint, tensors_in
from cromss.settings import MultiModalSettings, PretrainSettings, SingleModalSettings
from cromss.training.pretraining import blank_network
from cromss.training.run_folder import newest_checkpoint

Network = TypeVar("Network", bound=nn.Module)


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
        return restored(partial(blank_network, self.settings), self.tensors, self.name)


def open_pretrained(path: str, flag: str) -> Pretrained:
    """Open a run folder (its newest checkpoint) or a checkpoint file of pretraining; nothing in it is run.

    Args:
        path: Folder or file.
        flag: Flag that told it.

    Raises:
        ValueError: No checkpoint of pretraining, damaged, or its settings cannot be read.
    """
    file = newest_checkpoint(Path(path), flag)
    name = f"--{flag} {file}"
    try:
        content = open_checkpoint(file)
        card = content.get(CARD_KEY) if isinstance(content, Mapping) else None
        if not isinstance(card, Mapping) or "fusion" not in card or not isinstance(card.get("settings"), Mapping):
            raise ValueError("not a checkpoint of pretraining, such as train_pretrain.py writes")
        epoch, classes = content.get("epoch", -1), card.get("classes", [])
        if type(epoch) is not int or not isinstance(classes, list):
            raise ValueError("damaged: its epoch is no number, or its classes are no list; another one is wanted")
        settings, tensors = settings_from(card["settings"]), tensors_in(content, file)
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).removeprefix(f'{file}: ')}") from None
    return Pretrained(name, file, settings, epoch + 1, tuple(classes), tensors, str(card.get("locations", "")))


def restored(build: Callable[[], Network], tensors: Mapping[str, Tensor], name: str) -> Network:
    """A network in evaluation mode, with every weight of a checkpoint of its task.

    Args:
        build: Makes the network.
        tensors: Those of the checkpoint; the network's begin with `model.`.
        name: Begins the line of an error.

    Raises:
        ValueError: It cannot be made, or the weights do not fit it, or are not finite.
    """
    own = {key.removeprefix("model."): tensor for key, tensor in tensors.items() if key.startswith("model.")}
    try:
        with Undrawn():
            network = build()
        network.load_state_dict(own)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[1].split())
        raise ValueError(f"{name}: its weights do not fit its settings ({first[:160]})") from None
    if wrong := damages(network, own):
        raise ValueError(f"{name}: its weights are damaged ({wrong[0]})")
    return network.eval()


def settings_from(flat: Mapping[str, Any]) -> PretrainSettings:
    """Settings of a pretraining from the flat mapping that `cromss.config.to_flat` made of them.

    What was not there yet has what is its default now.

    Raises:
        ValueError: An unknown setting, or a value of a wrong kind.
    """
    kind = MultiModalSettings if flat.get("input_type") == "s12" else SingleModalSettings
    return read(kind, words_of(flat))


def words_of(flat: Mapping[str, Any]) -> list[str]:
    """Settings from `cromss.config.to_flat` as words of a command line."""
    return [word for flag, value in flat.items() for word in _words(flag, value)]


def _words(flag: str, value: Any) -> list[str]:
    """A setting as words of a command line."""
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no_{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
