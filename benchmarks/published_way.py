"""What the published code does, written anew from its description, as the reference that benchmarks compare with."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cromss.datasets import SeasonStacks
from cromss.legends import IGNORE_INDEX
from cromss.placements import Placement
from cromss.sensors import Modality


def prior(labels: np.ndarray, season: int, num_classes: int) -> np.ndarray:
    """The `ts` prior of one sample `(T, H, W)`: all classes of all seasons and of the drawn one, each filtered."""
    try:
        from scipy.ndimage import gaussian_filter
    except ModuleNotFoundError:
        raise ValueError("SciPy is not installed; pip install 'cromss[bench]'") from None
    onehot = np.stack([labels == k for k in range(num_classes)], axis=1).astype(np.float32)
    parts = []
    for votes in (onehot.mean(0), onehot[season]):
        smooth = np.stack([gaussian_filter(plane, sigma=3, truncate=4) for plane in votes])
        parts.append(smooth / smooth.sum(0))
    return (parts[0] + parts[1]) / 2


def label_weights(confidence: Tensor, labels: Tensor, num_classes: int, share: float) -> Tensor:
    """Class by class: sort, look up the threshold, divide."""
    weights = torch.zeros_like(confidence)
    for k in range(num_classes):
        inside = labels == k
        values = confidence[inside]
        count = int(np.float32(len(values)) * np.float32(share))
        if count:
            threshold = values.sort(descending=True).values[count - 1]
            weights[inside] = (values / threshold).clamp(max=1) if threshold > 0 else torch.ones_like(values)
    return weights


def objective(logits: list[Tensor], labels: Tensor, prior: Tensor, share: float, ramp: float) -> Tensor:
    """Selection, cross-entropy and Dice on smoothed targets, and consistency; every term takes its own softmax."""
    num_classes = logits[0].shape[1]
    with torch.no_grad():
        weights, trusts = _selection(logits, labels, num_classes, share, ramp)
    onehot = F.one_hot(labels, num_classes).permute(0, 3, 1, 2).float()
    targets = onehot * 0.8 + 0.15 * prior + 0.05 / num_classes
    loss = logits[0].new_zeros(())
    for x, w in zip(logits, weights):
        pixels = -(targets * F.log_softmax(x, 1)).sum(1)
        loss = loss + (pixels * w).sum() / w.sum() + _dice(x.softmax(1), targets, w)
    for own, other, w in ((0, 1, trusts[1]), (1, 0, trusts[0])):
        pixels = -(logits[other].detach().softmax(1) * F.log_softmax(logits[own], 1)).sum(1)
        loss = loss + (pixels * w).sum() / w.sum()
    return loss


def _selection(logits, labels, num_classes, share, ramp):
    in_labels = [x.softmax(1).gather(1, labels[:, None]).squeeze(1) for x in logits]
    in_predictions = [
        1 + (x.softmax(1) * x.softmax(1).log()).sum(1) / torch.log(torch.tensor(float(num_classes))) for x in logits
    ]
    in_labels, in_predictions = (
        [(own + own * other) / 2 for own, other in (pair, pair[::-1])] for pair in (in_labels, in_predictions)
    )
    weights = [label_weights(c, labels, num_classes, share) for c in in_labels]
    return weights, [(1 - ramp) + ramp * c for c in in_predictions]


def _dice(probs, targets, weights):
    score = probs.new_zeros(())
    for k in range(probs.shape[1]):
        p, t = probs[:, k], targets[:, k]
        if t.sum() > 0:
            score = score + 1 - 2 * (weights * p * t).sum() / (weights * p + weights * t).sum().clamp_min(1e-7)
    return score / probs.shape[1]


def scored_tiles(stacks: SeasonStacks, network: nn.Module, batch_size: int) -> np.ndarray:
    """IoU by class of the Sentinel-2 tiles of a test set."""
    sensor, counts = stacks.sensors["s2"], np.zeros((2, stacks.num_classes))
    for first in range(0, len(stacks), batch_size):
        indices = range(first, min(first + batch_size, len(stacks)))
        images = torch.stack([torch.from_numpy(scaled(stacks.images["s2"].read(i, 0), sensor)) for i in indices])
        truth = np.stack([stacks.labels.read(i, 0).astype(np.int64) for i in indices])
        predicted = network(images).softmax(1).argmax(1).numpy()
        for k in range(stacks.num_classes):
            there, told = truth == k, (predicted == k) & (truth != IGNORE_INDEX)
            counts[:, k] += (there & told).sum(), (there | told).sum()
    with np.errstate(invalid="ignore"):
        return counts[0] / counts[1]


def scaled(image: np.ndarray, sensor: Modality) -> np.ndarray:
    """`(C, H, W)` band by band: mean and two standard deviations to 0..255, truncated, over 255."""
    bands = []
    for band, mean, std in zip(image.astype(np.float64), sensor.mean, sensor.std):
        unit = np.clip((band - (mean - 2 * std)) / (4 * std), 0, 1)
        bands.append((unit * 255).astype(np.uint8).astype(np.float32) / 255)
    return np.stack(bands)


def augmented(image: np.ndarray, at: Placement, mode: str = "bilinear") -> Tensor:
    """One array `(C, H, W)`, cropped, flipped, and rotated by sampling a grid."""
    piece = torch.from_numpy(image)[:, at.top : at.top + at.height, at.left : at.left + at.width]
    piece = piece.flip(at.flip)
    if not at.degrees:
        return piece.contiguous()
    cos, sin = math.cos(math.radians(at.degrees)), math.sin(math.radians(at.degrees))
    aspect = (at.height - 1) / (at.width - 1)
    turn = torch.tensor([[[cos, -sin * aspect, 0], [sin / aspect, cos, 0]]])
    grid = F.affine_grid(turn, [1, 1, at.height, at.width], align_corners=True)
    return F.grid_sample(piece[None], grid, mode=mode, padding_mode="reflection", align_corners=True)[0]


class Samples(torch.utils.data.Dataset):
    """The published loader: all seasons are read, one is used; prior and augmentation of each sample on the CPU.

    Args:
        stores: `"s1"`, `"s2"`, `"labels"` -> store in the published layout.
        transform: Crop, flip and rotation, as ours.
        num_classes: Classes of the prior; 0 for none.
    """

    def __init__(self, stores, transform, num_classes: int) -> None:
        self.stores, self.transform, self.num_classes = stores, transform, num_classes

    def __len__(self) -> int:
        return len(self.stores["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        stacks = {name: store.read_seasons(index) for name, store in self.stores.items()}
        season = index % len(stacks["labels"])
        at = self.transform.place(0, index, stacks["labels"].shape[-2:])
        image = np.concatenate([stacks[m][season] for m in ("s1", "s2")]).astype(np.float32) / 255
        sample = {"images": augmented(image, at)}
        if self.num_classes:
            sample["prior"] = augmented(prior(stacks["labels"], season, self.num_classes), at)
        drawn = stacks["labels"][season, np.newaxis].astype(np.float32)
        return sample | {"labels": augmented(drawn, at, mode="nearest")[0].long()}
