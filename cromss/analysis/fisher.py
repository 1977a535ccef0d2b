"""Fisher ratio: how well the features of a layer tell the classes apart, summed up over batches."""

import torch
import torch.nn.functional as F

from cromss.legends import IGNORE_INDEX


class FisherRatio:
    """Between-class over within-class scatter of features, in trace form.

    With `N` features `x` of classes `k`, class means `mu_k` and overall mean `mu`,

        S_b = sum_k n_k |mu_k - mu|^2 / N,    S_w = sum_k sum_{i in k} |x_i - mu_k|^2 / N,

    and the ratio is `S_b / S_w` (Fisher, The use of multiple measurements in taxonomic problems, 1936;
    Fukunaga, Introduction to Statistical Pattern Recognition, 1990, 10.2): 0 where the class means are one,
    larger the better the classes stand apart. Shift, rotation and scale of the features do not change it.

    Means and squared deviations are kept for each class in float64 and merged batch by batch (Chan, Golub and
    LeVeque 1979), so that neither large means nor the split into batches matter.

    Args:
        num_classes: Number of classes `K`.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, dtype=torch.float64)
        self.scatter = torch.zeros(num_classes, dtype=torch.float64)
        self.means = torch.zeros(num_classes, 0, dtype=torch.float64)

    def update(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch.

        Args:
            features: `(B, C, h, w)`.
            labels: Class ids `(B, H, W)`, brought to `(h, w)` by nearest neighbour; 255 is left out.

        Raises:
            ValueError: Features are NaN or infinite.
        """
        ids = labels_at(labels, features.shape[-2:]).flatten()
        known = ids != IGNORE_INDEX
        if not known.any():
            return
        x, ids = features.movedim(1, -1).flatten(0, 2)[known].double(), ids[known]
        if not torch.isfinite(x).all():
            raise ValueError("features: NaN or infinity among them; the network is damaged, or its input is")
        if not self.means.numel():
            self.means = torch.zeros(self.num_classes, x.shape[1], dtype=torch.float64)
        counts = torch.bincount(ids, minlength=self.num_classes).double()
        means = x.new_zeros(self.num_classes, x.shape[1]).index_add_(0, ids, x) / counts.clamp(min=1)[:, None]
        scatter = x.new_zeros(self.num_classes).index_add_(0, ids, (x - means[ids]).square().sum(1))
        self._merge(counts.cpu(), means.cpu(), scatter.cpu())

    def compute(self) -> float:
        """The ratio; NaN with fewer than two classes or constant features, infinite where classes are points."""
        total = self.counts.sum()
        if (self.counts > 0).sum() < 2:
            return float("nan")
        mean = self.counts @ self.means / total
        between = self.counts @ (self.means - mean).square().sum(1)
        return float(between / self.scatter.sum())

    def _merge(self, counts: torch.Tensor, means: torch.Tensor, scatter: torch.Tensor) -> None:
        total = self.counts + counts
        weight = counts / total.clamp(min=1)
        apart = means - self.means
        self.scatter += scatter + self.counts * weight * apart.square().sum(1)
        self.means += weight[:, None] * apart
        self.counts = total


def labels_at(labels: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Class ids `(B, H, W)` at the centres of the cells of a map of `(h, w)` -> `(B, h, w)`, int64."""
    if labels.shape[-2:] == size:
        return labels.long()
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].long()
