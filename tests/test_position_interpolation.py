"""Position embeddings on another grid: the same where it is the same, bicubic elsewhere, class token untouched."""

import numpy as np
import pytest
import torch
from foreign_vit import DOFA, SATMAE, SCALEMAE, TINY, vit
from PIL import Image

from cromss.models.position_interpolation import fit_positions, interpolate_positions

pytestmark = pytest.mark.usefixtures("one_thread")


def random_positions(side: int, prefix: int = 1, width: int = 5) -> torch.Tensor:
    return torch.randn(1, prefix + side * side, width, generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_an_equal_grid_is_left_alone(prefix):
    positions = random_positions(6, prefix)
    fitted, note = interpolate_positions(positions, (6, 6), prefix)
    assert fitted is positions
    assert note == ""


@pytest.mark.parametrize("grid", [(9, 9), (4, 4), (7, 3)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_bicubic_as_another_library_does_it(grid, prefix):
    positions = random_positions(6, prefix)
    fitted, note = interpolate_positions(positions, grid, prefix)
    assert fitted.shape == (1, prefix + grid[0] * grid[1], 5)
    assert note == f"pos_embed interpolated from 6x6 to {grid[0]}x{grid[1]}"
    assert torch.equal(fitted[:, :prefix], positions[:, :prefix])
    for channel in range(5):
        image = Image.fromarray(positions[0, prefix:, channel].reshape(6, 6).numpy())
        wanted = np.asarray(image.resize(grid[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_allclose(fitted[0, prefix:, channel].reshape(grid).numpy(), wanted, atol=1e-5)


def test_rows_stay_rows():
    rows = torch.arange(4.0).repeat_interleave(4)[None, :, None]
    fitted, _ = interpolate_positions(rows, (8, 8), 0)
    table = fitted.reshape(8, 8)
    torch.testing.assert_close(table, table[:, :1].expand(8, 8))
    assert (table[1:, 0] > table[:-1, 0]).all()


@pytest.mark.parametrize(("length", "prefix"), [(196, 1), (198, 1), (197, 0), (1, 1), (0, 1), (3, 5), (12, 0)])
def test_what_is_no_square_is_refused(length, prefix):
    with pytest.raises(ValueError, match=rf"^pos_embed of {length} tokens is no square grid after {prefix} of class"):
        interpolate_positions(torch.zeros(1, length, 4), (9, 9), prefix)


def test_half_precision_stays():
    assert interpolate_positions(random_positions(4).half(), (5, 5), 1)[0].dtype == torch.float16


@pytest.mark.parametrize(("name", "bands", "width"), [(TINY, 3, 192), (SATMAE, 10, 144), (DOFA, 2, 192)])
def test_the_grid_is_the_encoders(name, bands, width):
    target = vit(bands, name, image_size=128)
    side = {SATMAE: 16}.get(name, 8)
    state = {"a.pos_embed": random_positions(5, width=width), "a.norm.bias": torch.ones(3)}
    fitted, notes = fit_positions(state, "a.", target)
    assert fitted["a.pos_embed"].shape == target.pos_embed.shape
    assert notes == (f"pos_embed interpolated from 5x5 to {side}x{side}",)
    assert fitted["a.norm.bias"] is state["a.norm.bias"]
    assert state["a.pos_embed"].shape == (1, 26, width)


@pytest.mark.parametrize(
    ("make", "prefix"),
    [(lambda: vit(3, SCALEMAE), ""), (lambda: vit(3), "a."), (lambda: torch.nn.Conv2d(3, 3, 1), "")],
    ids=["no-positions", "none-in-the-file", "no-vit"],
)
def test_nothing_to_fit(make, prefix):
    state = {"pos_embed": random_positions(5)}
    assert fit_positions(state, prefix, make()) == (state, ())
