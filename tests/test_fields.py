"""Random fields: what they keep. Their statistics are tested with the synthetic world."""

import tracemalloc

import numpy as np

from cromss.fields import smooth_field, uniform_pair


def test_maps_of_many_sizes_leave_little_behind():
    """A filter of 64 x (64 + i) float32 has about 10 kB; two of each of 60 sizes would be 1.3 MB."""
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for width in range(64, 124):
            smooth_field(rng, (64, width), 3)
            uniform_pair(rng, (64, width), 3)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 400_000
