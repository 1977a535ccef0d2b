"""Linear probe: one linear layer on the features of all stages of a frozen encoder, pixel by pixel."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cromss.collation import collate
from cromss.datasets import SeasonStacks
from cromss.legends import IGNORE_INDEX
from cromss.settings import FinetuneSettings
from cromss.tasks import FinetuneTask, Scoreboard
from cromss.training.common import device_of, run_once
from cromss.training.downstream import downstream_data
from cromss.training.finetuning import finetuning_task, normalizations, trained_sensors
from cromss.training.run_folder import RunFolder

STRIDE, POSITIONS = 4, 256
"""Pixels between the positions of features, and positions of a training tile that the layer is fitted to."""

PENALTY, ROUNDS = 1e-3, 100
"""Factor of the squared weights, and the most rounds of L-BFGS."""


def probe(settings: FinetuneSettings) -> dict[str, Any]:
    """Scores of the probe on the test tiles, in [0, 1]; a finished one is not done again."""
    return run_once(settings, "", _probe)


def _probe(settings: FinetuneSettings, folder: RunFolder) -> dict[str, Any]:
    task, origins = finetuning_task(settings)
    data = downstream_data(settings, normalizations(settings, origins), trained_sensors(settings, origins))
    folder.open(settings)
    task.to(device_of(settings.runtime.accelerator)).eval()
    rng = torch.Generator().manual_seed(settings.runtime.seed[0])
    known = [some(*pair, rng) for pair in _seen(task, data.train, data.train_indices)]
    inputs, labels = (torch.cat(parts) for parts in zip(*known))
    classify = fitted(inputs, labels, task.legend.num_classes)
    board = Scoreboard(["test"], task.legend.num_classes).to(inputs.device)
    for features, exact in _seen(task, data.test, data.test.in_use()):
        logits = classify(features.movedim(1, -1)).movedim(-1, 1)
        board.update({"test": F.interpolate(logits, exact.shape[-2:], mode="bilinear")}, exact)
    return _plain(board.compute()["test"], task.legend.classes) | {"train_tiles": len(data.train_indices)}


@torch.no_grad()
def _seen(task: FinetuneTask, stacks: SeasonStacks, indices: Iterable[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features `(1, F, H / 4, W / 4)` and exact labels `(1, H, W)` of tiles."""
    for index in indices:
        batch = collate([stacks[index]])
        batch = {name: x.to(task.device) if isinstance(x, Tensor) else x for name, x in batch.items()}
        ready = task.eval_transform(batch)
        images = torch.cat([ready["images"][modality] for modality in task.modalities], 1)
        yield stage_features(task.model.encoder(images)), ready["labels"]


def stage_features(stages: Sequence[Tensor]) -> Tensor:
    """All stages from stride 4 on, side by side at stride 4: `(B, F, H / 4, W / 4)`."""
    fine = next(x for x in stages if x.shape[-1] * STRIDE == stages[0].shape[-1])
    kept = [x for x in stages if x.shape[-1] <= fine.shape[-1]]
    return torch.cat([F.interpolate(x, fine.shape[-2:], mode="bilinear") for x in kept], 1)


def some(features: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features `(N, F)` and class ids `(N,)` of labelled positions of a tile, drawn at random."""
    centres = labels[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].flatten()
    places = (centres != IGNORE_INDEX).nonzero()[:, 0]
    places = places[torch.randperm(len(places), generator=rng)[:POSITIONS].to(places.device)]
    return features.movedim(1, -1).flatten(0, 2)[places], centres[places]


def fitted(inputs: Tensor, labels: Tensor, num_classes: int) -> nn.Module:
    """Multinomial logistic regression of standardised inputs `(N, F)`."""
    mean, std = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
    layer = nn.Linear(inputs.shape[1], num_classes).to(inputs.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=ROUNDS, line_search_fn="strong_wolfe")
    standard = (inputs - mean) / std

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(layer(standard), labels) + PENALTY * layer.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():  # the standardisation moves into the layer
        layer.weight.div_(std)
        layer.bias.sub_(layer.weight @ mean)
    return layer.requires_grad_(False)


def _plain(result: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, float) else dict(zip(classes, map(float, value)))
        for name, value in result.items()
    }
