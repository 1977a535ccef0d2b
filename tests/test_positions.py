"""Sine-cosine embeddings against loops over their formula."""

import math

import pytest
import torch

from cromss.models.positions import grid_sincos, sincos


def by_formula(position: float, dim: int) -> list[float]:
    frequencies = [10000 ** (-2 * k / dim) for k in range(dim // 2)]
    return [math.sin(position * f) for f in frequencies] + [math.cos(position * f) for f in frequencies]


@pytest.mark.parametrize("dim", [2, 6, 16])
def test_sincos_is_the_formula(dim):
    positions = [0.0, 1.0, 2.5, 40.0]
    expected = torch.tensor([by_formula(position, dim) for position in positions])
    torch.testing.assert_close(sincos(torch.tensor(positions), dim), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 2.5, 10.0])
def test_grid_goes_row_by_row_and_column_comes_first(scale):
    got = grid_sincos((2, 3), 8, scale)
    expected = [by_formula(j * scale, 4) + by_formula(i * scale, 4) for i in range(2) for j in range(3)]
    torch.testing.assert_close(got, torch.tensor(expected), atol=1e-5, rtol=0)


def test_integers_are_embedded_as_numbers():
    torch.testing.assert_close(sincos(torch.arange(3), 4), sincos(torch.tensor([0.0, 1.0, 2.0]), 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [(lambda: sincos(torch.zeros(1), 3), "even, got 3")]
    + [(lambda dim=dim: grid_sincos((1, 1), dim), f"divisible by 4, got {dim}") for dim in (6, 7)],
)
def test_odd_lengths_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
