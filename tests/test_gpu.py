"""What only a GPU can show: ViT-L under UPerNet fits and trains there, and computes what a CPU does."""

import os
from types import SimpleNamespace

import pytest
import torch
from processes import run_together
from sets import NAMES, season_arrays, write_ours
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_batch_transforms import random_batch
from test_training import METHOD, pretrain_with
from torch.nn.functional import cross_entropy

from cromss.batch_transforms import BatchTransform
from cromss.losses import segmentation_loss
from cromss.models import build_segmenter
from cromss.models.recomputation import recompute_activations
from cromss.models.vit import ViTOptions
from cromss.objective import CrossModalObjective

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use; run this file where one is"),
]

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS looks at it once, when it is first asked

SCRIPT = "train_scripts/train_pretrain_mm.py"
LARGE = "vit_large_patch16_224"
NUM_BANDS, NUM_CLASSES = 13, 8
BUDGET = 80 * 2**30
"""Bytes that training ViT-L under UPerNet may take at most: 32 images of 224 px, bfloat16."""


def train(encoder_name, batch_size=32, image_size=224, frozen=False, grad_checkpointing=False, steps=2):
    """Train from the same weights on the same images: network, losses of the steps, peak memory in bytes."""
    torch.manual_seed(0)
    options = ViTOptions(image_size=image_size)
    network = build_segmenter("upernet", encoder_name, NUM_BANDS, NUM_CLASSES, vit=options).cuda().train()
    if grad_checkpointing:
        recompute_activations(network)
    if frozen:
        network.freeze_encoder()
    images = torch.randn(batch_size, NUM_BANDS, image_size, image_size, device="cuda")
    labels = torch.randint(NUM_CLASSES, (batch_size, image_size, image_size), device="cuda")
    optimiser = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], 1e-4)
    torch.cuda.reset_peak_memory_stats()
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = cross_entropy(network(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return SimpleNamespace(network=network, losses=losses, peak=torch.cuda.max_memory_allocated())


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test begins with the card to itself."""
    yield
    torch.cuda.empty_cache()


def test_vit_large_under_upernet_fits_and_trains(record_property, capsys):
    run = train(LARGE)
    record_property("peak_mib", run.peak // 2**20)
    with capsys.disabled():
        print(f"\nViT-L, UPerNet, 32 x 224 px: peak {run.peak / 2**20:.0f} of {BUDGET / 2**20:.0f} MiB")
    assert run.peak < BUDGET
    assert all(torch.tensor(run.losses).isfinite())
    assert run.losses[1] != run.losses[0]
    assert all(weight.grad is not None for weight in run.network.parameters() if weight.requires_grad)


def test_gradient_checkpointing_needs_less_memory_for_the_same_losses():
    kept = train(LARGE)
    losses, peak = kept.losses, kept.peak
    del kept
    recomputed = train(LARGE, grad_checkpointing=True)
    assert recomputed.peak < 0.9 * peak
    assert recomputed.losses == pytest.approx(losses, rel=0.02)


def test_a_frozen_encoder_has_no_gradients_and_does_not_move():
    run = train("vit_small_patch16_224", batch_size=4, frozen=True)
    torch.manual_seed(0)
    options = ViTOptions(image_size=224)
    fresh = build_segmenter("upernet", "vit_small_patch16_224", NUM_BANDS, NUM_CLASSES, vit=options)
    frozen, before = run.network.encoders["images"].state_dict(), fresh.encoders["images"].state_dict()
    assert all(weight.grad is None for weight in run.network.encoders["images"].parameters())
    assert all(torch.equal(frozen[name].cpu(), before[name]) for name in before)
    assert all(weight.grad is not None for weight in run.network.network.decoder.parameters())


@pytest.mark.parametrize("architecture", ["upernet", "segmenter"])
def test_logits_are_those_of_the_cpu(architecture):
    torch.manual_seed(0)
    options = ViTOptions(image_size=96)
    network = build_segmenter(architecture, "vit_tiny_patch16_224", NUM_BANDS, NUM_CLASSES, vit=options)
    network = network.double().eval()  # single precision would be rounded to TF32 in convolutions
    images = torch.randn(2, NUM_BANDS, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = network(images)
        found = network.cuda()(images.cuda()).cpu()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 1e-3


@pytest.fixture
def noisy(tmp_path):
    write_ours(tmp_path / "noisy", season_arrays(), NAMES)
    return tmp_path / "noisy"


def losses_of(folder):
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return [event.value for event in events.Scalars("train/loss_step")]


FULL = f"{METHOD} --batch_size 6 --crop_size 64 --precision 32 --deterministic --devices 1"


def test_pretraining_has_the_losses_of_a_cpu(noisy, tmp_path):
    """Crops, flips, rotations, prior, selection and losses, in full precision; later steps multiply what is rounded."""
    for kind in ("cpu", "gpu"):
        pretrain_with(tmp_path, noisy, f"{FULL} --rotate_share 1 --max_steps 2 --name {kind} --accelerator {kind}")
    (first, second), expected = losses_of(tmp_path / "gpu"), losses_of(tmp_path / "cpu")
    assert first == pytest.approx(expected[0], rel=1e-4)
    assert second == pytest.approx(expected[1], rel=1e-3)


def test_a_run_begun_on_a_gpu_goes_on_on_a_cpu(noisy, tmp_path):
    """Whose kernels, and what the optimiser keeps of them, are in another order in memory."""
    for name, kind, steps in (("cpu", "cpu", 2), ("both", "gpu", 1), ("both", "cpu", 2)):
        pretrain_with(tmp_path, noisy, f"{FULL} --name {name} --accelerator {kind} --max_steps {steps}")
    assert losses_of(tmp_path / "both") == pytest.approx(losses_of(tmp_path / "cpu"), rel=1e-3)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("head", ["pspnet", "deeplabv3plus", "fpn", "upernet"])
def test_heads_learn_to_the_same_bits(head):
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build_segmenter(head, "resnet18", NUM_BANDS, NUM_CLASSES).cuda().train()
        images, labels = torch.randn(4, NUM_BANDS, 96, 96), torch.randint(NUM_CLASSES, (4, 96, 96))
        optimiser = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
        for _ in range(3):
            optimiser.zero_grad()
            segmentation_loss("c", network(images.cuda()), labels.cuda()).backward()
            optimiser.step()
        weights.append([weight.detach().cpu() for weight in network.parameters()])
    assert all(map(torch.equal, *weights))


def on(device, values):
    """The tensors of a batch, on a device."""
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in values.items()}


def ready_on(device):
    """A batch made ready on a device."""
    ready = BatchTransform(5, 32, "ts", rotate_share=0.5)(on(device, random_batch(batch=12)))
    return {"s1": ready["images"]["s1"], "labels": ready["labels"], "prior": ready["prior"]}


def terms_of(device, ready):
    """The terms of the loss of a batch that is ready, after going backward."""
    objective = CrossModalObjective(5, smoothing_factors=(0.15, 0.05), selection=True)
    logits = {m: torch.randn(12, 5, 32, 32, generator=torch.manual_seed(i)) for i, m in enumerate(("s1", "s2"))}
    leaves = {name: x.requires_grad_() for name, x in on(device, logits).items()}
    return lambda: _backward(objective(leaves, ready["labels"], ready["prior"], epoch=40))


def _backward(terms):
    terms["loss"].backward()
    return terms


def test_batches_are_those_of_the_cpu():
    found, expected = ready_on("cuda"), ready_on("cpu")
    assert (found["labels"].cpu() != expected["labels"]).float().mean() < 1e-3  # halfway between two pixels
    for name in ("s1", "prior"):
        torch.testing.assert_close(found[name].cpu(), expected[name], atol=1e-4, rtol=0)


def test_losses_are_those_of_the_cpu():
    ready = ready_on("cpu")
    found = terms_of("cuda", on("cuda", ready))()
    for name, value in terms_of("cpu", ready)().items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_preparation_selection_and_losses_wait_for_nothing():
    batch = on("cuda", random_batch(batch=12))
    transform, losses = BatchTransform(5, 32, "ts", rotate_share=0.5), terms_of("cuda", ready_on("cuda"))
    for mode in ("default", "error"):  # matrices are sent, and kernels loaded, the first time
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            transform(batch)
            losses()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="BatchNorm over processes wants two GPUs")
def test_batchnorm_over_two_gpus_is_that_of_one(noisy, tmp_path):
    flags = f"{METHOD} --precision 32 --deterministic --max_steps 2 --accelerator gpu --optimizer sgd --whole_batch"
    run_together(tmp_path, 1, SCRIPT, *flags.split(), *_place(noisy, tmp_path, "one"), "--batch_size", 6)
    both = [*_place(noisy, tmp_path, "two"), "--batch_size", 3, "--devices", 2, "--sync_batchnorm"]
    run_together(tmp_path, 2, SCRIPT, *flags.split(), *both)
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-3)


def _place(noisy, tmp_path, name):
    return ["--data_path", noisy, "--save_dir", tmp_path, "--name", name, "--model_type", "tu-test_resnet"]
