"""What the generator draws, as a hash: results of one hash come from one world."""

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from cromss.synthetic.backscatter import radar
from cromss.synthetic.folders import dfc2020_patch
from cromss.synthetic.ground import NUM_SEASONS
from cromss.synthetic.location import NOISE, OPTICAL, RADAR, draw_location, stream
from cromss.synthetic.noise import NOISE_PRESETS, noisy_labels
from cromss.synthetic.optics import optical

WORLD_HASH = "7f8aa511ba13"
"""Of `drawn_hash`; changed together with `WORLD_VERSION`, and all tables of `benchmarks/science.py` made anew."""

_SIZE, _LOCATIONS = 64, 3


def drawn_hash() -> str:
    """Hash of what is drawn for fixed seeds: land cover, noisy labels of all presets, both Sentinels, DFC2020.

    Labels count to the pixel. Of images, whose last digits depend on the processor, the means of each band do, to 1 DN
    and 0.01 dB.
    """
    digest = hashlib.sha256()
    for index in range(_LOCATIONS):
        for part in _drawn([0, index]):
            digest.update(part)
    return digest.hexdigest()[:12]


def _drawn(key: list[int]) -> Iterator[bytes]:
    labels, ground = draw_location(key, _SIZE)
    yield labels.tobytes()
    for models in NOISE_PRESETS.values():
        for model in models:
            yield from (noisy_labels(labels, s, stream(key, NOISE), model).tobytes() for s in range(NUM_SEASONS))
    for season in range(NUM_SEASONS):
        yield _means(optical(labels, season, stream(key, OPTICAL, season), ground), 0)
        yield _means(radar(labels, season, stream(key, RADAR, season), ground), 2)
    s1, s2, codes = dfc2020_patch(key, _SIZE)
    yield from (_means(s1, 2), _means(s2, 0), codes.tobytes())


def _means(image: np.ndarray, digits: int) -> bytes:
    return json.dumps(image.mean((1, 2), dtype=np.float64).round(digits).tolist()).encode()
