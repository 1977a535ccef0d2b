"""A pretrained network before the stores of a set: whole tiles in, what every modality says of them out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cromss.batch_transforms import BatchTransform
from cromss.collation import collate
from cromss.datasets import SeasonStacks
from cromss.legend_files import stored_legend
from cromss.legends import Legend
from cromss.models.fusion import Pretrainer
from cromss.training.held_out import looking
from cromss.training.pretrained import Pretrained
from cromss.training.pretraining import legend_of, open_stacks


class Seen(NamedTuple):
    """All seasons `T` of a location, and what the network says of them.

    Attributes:
        images: Modality -> `(T, C, H, W)` in [0, 1].
        labels: `(T, H, W)` noisy class ids.
        exact: `(T, H, W)` exact class ids; `None` without exact labels.
        logits: Modality -> `(T, K, H, W)`.
    """

    images: Mapping[str, Tensor]
    labels: Tensor
    exact: Tensor | None
    logits: Mapping[str, Tensor]


@dataclass(frozen=True)
class WholeTiles:
    """A pretrained network before the stores it looks at.

    Attributes:
        stacks: Samples of any season.
        network: The network in evaluation mode.
        device: Where it is.
    """

    stacks: SeasonStacks
    network: Pretrainer
    device: torch.device

    @property
    def legend(self) -> Legend:
        """Classes of the noisy labels."""
        return legend_of(self.stacks.labels, self.stacks.num_classes)

    @torch.no_grad()
    def look(self, index: int) -> Seen:
        """Whole tiles of all seasons of a location."""
        samples = []
        for season in range(self.stacks.labels.num_seasons):
            self.stacks.season = season
            samples.append(self.stacks[index])
        batch = {name: x.to(self.device) if isinstance(x, Tensor) else x for name, x in collate(samples).items()}
        ready = BatchTransform(self.stacks.num_classes, crop_size=None, augment=False)(batch)
        logits = self.network(**ready["images"])
        return Seen(ready["images"], ready["labels"], ready.get("exact"), {m: logits[m] for m in self.stacks.images})


def open_tiles(run: Pretrained, data_path: str, device: torch.device) -> WholeTiles:
    """Put a pretrained network before a set: its noisy labels, and the exact ones where they are.

    Args:
        run: The run that left the network.
        data_path: Folder of the LMDB environments; empty for that of the run.
        device: Where the network goes.

    Raises:
        ValueError: The stores do not fit it.
    """
    names = run.settings.data
    home = data_path or names.data_path
    exact = not home or (Path(home) / names.data_name_gt).exists()
    settings = looking(run, data_path, crop=2, exact=exact)
    stacks = open_stacks(replace(settings, data=replace(settings.data, experiment="ns_labels")))()
    legend = stored_legend(stacks.labels.meta)
    if legend and run.classes and legend.classes != run.classes:
        raise ValueError(
            f"{run.name}: has the classes {', '.join(run.classes)}; "
            f"those of {stacks.labels.path} are {', '.join(legend.classes)}"
        )
    return WholeTiles(stacks, run.network().to(device), device)
