"""Pooling to a grid by products, against PyTorch's own on the CPU."""

import copy

import pytest
import torch
from devices import backward_operations, fake_gpu
from torch import nn

from cromss.models import build_segmenter
from cromss.models.grid_pooling import GridPool, pool_deterministically, pooled


@pytest.mark.parametrize("size", [(8, 8), (7, 16), (33, 5), (2, 3), (1, 1)])
@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (6, 6), (2, 5)])
def test_means_and_gradients_are_those_of_pytorch(size, grid):
    """Cells that divide the image, that overlap, and that are more than its pixels."""
    features = torch.randn(2, 3, *size, generator=torch.manual_seed(0))
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    found, expected = pooled(ours, *grid), nn.AdaptiveAvgPool2d(grid)(theirs)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(expected.shape, generator=torch.manual_seed(1))
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_sums_of_half_precision_are_those_of_single_precision():
    features = torch.randn(1, 2, 64, 64, generator=torch.manual_seed(0)).bfloat16() + 100
    with torch.autocast("cpu", torch.bfloat16):
        found = pooled(features, 3, 3)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, pooled(features.float(), 3, 3).bfloat16())


def test_only_pooling_to_a_grid_becomes_ours():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AdaptiveAvgPool2d((6, 6)))
    network.append(nn.AdaptiveMaxPool2d(6))
    pool_deterministically(network)
    assert [isinstance(module, GridPool) for module in network] == [False, False, True, False]
    assert isinstance(copy.deepcopy(network)[2], GridPool)


@pytest.mark.parametrize("head", ["pspnet", "upernet"])
def test_heads_that_pool_have_it_and_compute_on_a_cpu_what_they_did(head):
    torch.manual_seed(0)
    network = build_segmenter(head, "resnet18", 3, 4).eval()
    images, plain = torch.randn(1, 3, 64, 64), copy.deepcopy(network)
    pools = [module for module in plain.modules() if isinstance(module, GridPool)]
    assert len(pools) == 3
    for pool in pools:
        pool.__class__ = nn.AdaptiveAvgPool2d
    with torch.no_grad():
        assert torch.equal(network(images), plain(images))
    assert network.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(("deterministic", "ours"), [(True, True), (False, False)])
@pytest.mark.parametrize("size", [6, (3, 2)])
def test_gpus_pool_by_products_where_bits_count_alone(deterministic, ours, size):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(size))
    pool_deterministically(network)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with fake_gpu():
            result = network(torch.zeros(2, 3, 8, 8, device="cuda", requires_grad=True))
    finally:
        torch.use_deterministic_algorithms(before)
    assert result.shape == (2, 3, *((6, 6) if size == 6 else size))
    assert ("AdaptiveAvgPool2DBackward0" not in backward_operations(result)) is ours
