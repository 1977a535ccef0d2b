"""Prediction and scores of test tiles: the published way against ours, with the same stores and network.

python benchmarks/bench_predict.py

The published way prepares tile by tile and band by band, and counts class by class; ours prepares and counts whole
batches. Both are timed with the network and with its place left to the first bands, which shows what is around it;
beside them the network alone, on batches that are ready. The tiles are those of the synthetic DFC2020-like test set.
Results go to benchmarks/bench_predict.csv.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from alternation import OURS, PUBLISHED, alternate, compared, measured, operations_in, report
from published_way import scored_tiles
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cromss.collation import LateSamples, collate
from cromss.config import read, run
from cromss.settings import FinetuneSettings
from cromss.tasks import FinetuneTask
from cromss.training.downstream import downstream_data
from cromss.training.finetuning import finetuning_task


@dataclass(frozen=True)
class BenchPredict:
    """Milliseconds of a test tile."""

    model_type: str = "resnet50"
    """Encoder of the PSPNet."""
    tiles: int = 32
    """Test tiles."""
    size: int = 264
    """Their side, in pixels."""
    batch_size: int = 8
    """Tiles in a batch."""
    rounds: int = 5
    """Times that every way is timed."""
    threads: int = 1
    """Threads of PyTorch."""
    save_dir: Path = Path("runs")
    """Where the synthetic set is, or is made."""
    results: Path = Path("benchmarks/bench_predict.csv")
    """Table to write."""


class FirstBands(nn.Module):
    """Takes the first bands of the images for logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, K, H, W)`."""
        return images[:, : self.num_classes]


def main(settings: BenchPredict) -> None:
    """Compare, time, write."""
    torch.set_num_threads(settings.threads)
    flags = f"""--dataset DFC2020 --input_type s2 --model_framework pspnet --model_type {settings.model_type}
        --synthetic_tiles 8 {settings.tiles} --synthetic_size {settings.size} --crop_size {min(settings.size, 64)}"""
    told = read(FinetuneSettings, [*flags.split(), "--save_dir", str(settings.save_dir)])
    stacks, task = downstream_data(told).test, finetuning_task(told)[0].eval()
    loader = DataLoader(LateSamples(stacks), settings.batch_size, collate_fn=collate)
    network, rows = task.model, []
    with torch.inference_mode():
        ready = [task.eval_transform(batch)["images"] for batch in loader]
        for what, model in (("test tile", network), ("test tile, without the network", FirstBands(stacks.num_classes))):
            task.model = model
            ways = {
                PUBLISHED: partial(scored_tiles, stacks, model, settings.batch_size),
                OURS: partial(scores_of, task, loader),
            }
            np.testing.assert_allclose(ways[OURS](), ways[PUBLISHED](), rtol=1e-5)
            if model is network:
                ways["network alone"] = lambda: [network(images["s2"]) for images in ready]
                gigaflop = operations_in(ways["network alone"]) / 1e9 / len(stacks)
                rows.append(measured("operations of a test tile", "network alone", [gigaflop], "GFLOP"))
            rows += compared(what, alternate(ways, settings.rounds), len(stacks))
    report(rows, settings.results)


def scores_of(task: FinetuneTask, loader: DataLoader) -> np.ndarray:
    """IoU by class, as a transfer scores its test set."""
    for number, batch in enumerate(loader):
        task.test_step(batch, number)
    return task.board.compute()["test"]["iou"].numpy()


if __name__ == "__main__":
    run(main, BenchPredict)
