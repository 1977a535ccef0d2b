"""Whole steps on a GPU, seen without one: all that they take is there, they never wait, and can be deterministic."""

import pytest
import torch
from devices import Asked, backward_operations, fake_gpu, mixed_precision, put_on_fake_gpu

from cromss.config import parse
from cromss.legends import IGNORE_INDEX, LEGENDS
from cromss.losses import segmentation_loss
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings
from cromss.tasks import PretrainTask
from cromss.training.downstream import downstream_bands
from cromss.training.finetuning import finetuning_task
from cromss.training.pretraining import pretraining_bands, pretraining_network, pretraining_task

NO_DETERMINISTIC_GRADIENT = (
    *("AdaptiveAvgPool", "AdaptiveMaxPool", "FractionalMaxPool", "AvgPool3D", "MaxUnpool", "ReflectionPad"),
    *(
        "UpsampleLinear",
        "UpsampleBilinear",
        "UpsampleBicubic",
        "UpsampleTrilinear",
        "NllLoss",
        "CtcLoss",
        "GridSampler",
    ),
)
"""Beginnings of the operations that PyTorch refuses on a GPU where algorithms must be deterministic."""

SIDE = 64
CROMSS = f"--crop_size {SIDE} --sample_selection --label_smoothing --rotate_share 1 --cal_tr_acc"
RESNET, AGREEMENT = "--model_type tu-test_resnet", "--sample_selection_agreement"
VIT = "vit_tiny_patch16_224"


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_gpu(bands, num_dates=1):
    """A batch of two, as loaders hand it over."""
    shapes = {name: (2, num_dates * len(of_one), SIDE, SIDE) for name, of_one in bands.items()}
    batch = {name: torch.zeros(shape, dtype=torch.uint8, device="cuda") for name, shape in shapes.items()}
    labels = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8, device="cuda")
    rest = {"season": torch.zeros(2, dtype=torch.long, device="cuda"), "epoch": [0, 0], "index": [0, 1]}
    return batch | rest | {"labels": labels, "exact": labels, "id": ["a", "b"]}


def check(loss, watch):
    """A step, its loss in single precision on the GPU, for which it did not wait."""
    assert (loss.dtype, loss.device.type) == (torch.float32, "cuda")
    assert not watch.waits
    refused = {name for name in backward_operations(loss) if name.startswith(NO_DETERMINISTIC_GRADIENT)}
    assert not refused


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (SingleModalSettings, f"--input_type s2 {RESNET}"),
        (MultiModalSettings, f"--fusion_type mid {RESNET}"),
        (MultiModalSettings, f"--fusion_type late --use_common_feature {RESNET}"),
        (MultiModalSettings, f"--fusion_type mid {RESNET} --consist_loss_type kl --loss_type cdf {AGREEMENT}"),
        (MultiModalSettings, f"--fusion_type mid --model_type {VIT}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pretraining_steps(monkeypatch, kind, flags):
    logged = []
    monkeypatch.setattr(PretrainTask, "log", lambda task, name, value, **_: logged.append(value))
    settings = parse(kind, f"{CROMSS} {flags}".split())
    network, legend = pretraining_network(settings), LEGENDS["DW"]
    task = pretraining_task(settings, network, legend)
    with fake_gpu():
        put_on_fake_gpu(task)
        batch = on_gpu(pretraining_bands(settings))
        task.train_transform(batch)  # sends the matrices of the prior
        with Asked() as watch, mixed_precision():
            ready = task.train_transform(batch)
            logits = task.model(**ready["images"])
            terms = task.objective(logits, ready["labels"], ready["prior"], 3)
            task._keep(terms, batch["id"])
            task.train_means.update(terms, 2)
            task._log_step(0.5)
        assert {x.dtype for x in logits.values()} == {torch.bfloat16}
        assert {term.device.type for term in terms.values()} == {"cuda"}
        assert [value.device.type for value in logged] == ["cpu"]
        check(terms["loss"], watch)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "flags",
    [
        *(f"--dataset DFC2020 {RESNET} --model_framework {head}" for head in ("pspnet", "deeplabv3plus")),
        *(f"--dataset DW {RESNET} --model_framework {head}" for head in ("fpn", "upernet", "pan")),
        *(f"--dataset OSM --model_type {VIT} --model_framework {head}" for head in ("upernet", "segmenter")),
        f"--dataset OSCD {RESNET} --model_framework unet",
        f"--dataset DFC2020 --input_type s12 --fusion_type twin {RESNET} --model_framework pspnet",
        "--dataset DFC2020 --model_framework upernet --model_type dofa_tiny_patch16_224",
        "--dataset DFC2020 --model_framework upernet --model_type scalemae_tiny_patch16_224 --n_channels 3",
        "--dataset DFC2020 --model_framework upernet --model_type satmae_tiny_patch8_96 --n_channels 10",
    ],
)
def test_transfer_steps(flags):
    settings = parse(FinetuneSettings, f"--crop_size {SIDE} --encoder_finetune_tag etr {flags}".split())
    task, (source, dates) = finetuning_task(settings)[0], (settings.data, 2 if settings.data.task.is_change else 1)
    with fake_gpu():
        put_on_fake_gpu(task)
        batch = on_gpu(downstream_bands(source), dates)
        with Asked() as watch, mixed_precision():
            ready = task.train_transform(batch)
            loss = segmentation_loss(task.loss_type, task.logits(ready["images"]), ready["labels"])
            task.labelled.update((ready["labels"] != IGNORE_INDEX).sum())
        check(loss, watch)
