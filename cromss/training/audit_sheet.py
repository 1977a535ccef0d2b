"""The picture sheet of the label audit: the worst tiles, with all that makes one doubt their labels."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from cromss.label_audit import suspicion
from cromss.panels import class_map, panel, picture
from cromss.training.whole_tiles import WholeTiles

_TITLES = {"s2": "Sentinel-2", "s1": "Sentinel-1 (VV, VH, VV - VH)", "ortho": "orthophoto"}
_SCALE = "suspicion: 0 the label is believed, 1 nobody believes it"


class Worst(NamedTuple):
    """A tile to show.

    Attributes:
        index: Location.
        season: Season.
        name: What stands beside it.
    """

    index: int
    season: int
    name: str


def draw_sheet(tiles: WholeTiles, worst: Sequence[Worst]) -> np.ndarray:
    """Tiles as rows of images, noisy labels, what is predicted, exact labels if there are any, and suspicion.

    Returns:
        `(H, W, 3)` uint8.
    """
    rows, masks = zip(*(_row(tiles, one) for one in worst))
    shown = [mask for row in masks for mask in row]
    names = [one.name for one in worst]
    return panel(rows, tiles.legend, "Tiles with the most suspicious labels", names, shown, _SCALE)


def _row(tiles: WholeTiles, worst: Worst) -> tuple[Mapping[str, np.ndarray], list[np.ndarray]]:
    """Title -> picture of one tile, and the masks among them."""
    seen, season = tiles.look(worst.index), worst.season
    mean = torch.stack([x[season].float().softmax(0) for x in seen.logits.values()]).mean(0)
    masks = {"noisy label": seen.labels[season], "prediction": mean.argmax(0)}
    masks |= {} if seen.exact is None else {"exact label": seen.exact[season]}
    masks = {title: ids.cpu().numpy().astype(np.uint8) for title, ids in masks.items()}
    row = {
        title: picture(seen.images[modality][season].cpu().numpy(), modality, tiles.stacks.names[modality])
        for modality, title in _TITLES.items()
        if modality in seen.images
    }
    row |= {title: class_map(ids, tiles.legend) for title, ids in masks.items()}
    score = suspicion({m: x[season : season + 1] for m, x in seen.logits.items()}, seen.labels[season : season + 1])
    return row | {"suspicion": score[0].cpu().numpy()}, list(masks.values())
