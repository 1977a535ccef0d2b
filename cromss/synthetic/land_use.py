"""Land use: the 13 classes of OSM, grown from the land cover and made visible to the sensors.

Towns get industrial estates and dump sites, some fields orchards, some shores beaches; a park differs from a
pasture by its neighbours. `dressed` gives each use its look.
"""

from dataclasses import replace

import numpy as np

from cromss.fields import local_mean, near, parcels, per_parcel, smooth_field
from cromss.legends import IGNORE_INDEX, OSM
from cromss.synthetic.ground import Ground
from cromss.synthetic.land import BARE, BUILT, CROPS, FLOODED, GRASS, SHRUB, TREES, WATER, Landscape

URBAN, ARABLE, FOREST, INDUSTRIAL, PARK, DUMP, PASTURE, ORCHARD, WATERS, OPEN, SHRUBLAND, WETLAND, COAST = range(
    OSM.num_classes
)

USUAL = {
    **{BUILT: URBAN, CROPS: ARABLE, TREES: FOREST, GRASS: PASTURE, WATER: WATERS},
    **{BARE: OPEN, SHRUB: SHRUBLAND, FLOODED: WETLAND},
}
"""Use of each cover where nothing says otherwise; snow has none."""

ESTATE_SHARE, DUMP_SHARE, ORCHARD_SHARE = 0.25, 0.12, 0.22
"""Share of the suitable parcels that become industrial estates, dump sites and permanent crops."""


def land_use(land: Landscape, rng: np.random.Generator) -> tuple[Landscape, np.ndarray]:
    """Divide the land covers by use, and lay estates, dump sites and beaches over them.

    Args:
        land: The land as nature, farms and towns made it.
        rng: Source of randomness.

    Returns:
        The land with its new covers, and `(H, W)` uint8 ids of `cromss.legends.OSM`, 255 where none holds.
    """
    labels, (luck, other_luck) = land.labels.copy(), rng.random((2, land.parcel.max() + 1))[:, land.parcel]
    open_country = np.isin(labels, (GRASS, CROPS, BARE, SHRUB))
    town = local_mean(labels == BUILT, 12)
    beside_town = (per_parcel(land.parcel, town) > 0.12) & open_country
    estate = beside_town & (luck < ESTATE_SHARE)
    dump = beside_town & (luck > 1 - DUMP_SHARE)
    sandy = smooth_field(rng, labels.shape, 25) > 0.2
    beach = sandy & near(labels == WATER, 3) & (open_country | (labels == TREES))
    labels[estate] = BUILT
    labels[dump | beach] = BARE

    uses = np.full(len(USUAL) + 1, IGNORE_INDEX, np.uint8)
    uses[list(USUAL)] = list(USUAL.values())
    uses = uses[labels]
    works = (smooth_field(rng, labels.shape, 25) > 0.9) & (town > 0.3)
    uses[estate | (works & (labels == BUILT))] = INDUSTRIAL
    uses[(labels == GRASS) & (town > 0.15)] = PARK
    uses[(labels == CROPS) & (other_luck < ORCHARD_SHARE)] = ORCHARD
    uses[(labels == BARE) & near(labels == WATER, 6)] = COAST
    uses[dump] = DUMP
    return replace(land, labels=labels), uses


def dressed(ground: Ground, uses: np.ndarray, rng: np.random.Generator) -> Ground:
    """Give each land use its look.

    Estates have large, bright halls and no gardens; parks are lush; orchards stand in rows; dump sites are dark
    and rough; beaches bright and smooth.

    Args:
        ground: The ground under the land of `land_use`.
        uses: `(H, W)` ids of `land_use`.
        rng: Source of randomness.
    """
    hall = parcels(rng, uses.shape, 8)
    hall = rng.standard_normal(hall.max() + 1, dtype=np.float32)[hall]
    rows = 1.8 * np.sign(np.sin(np.arange(uses.shape[1], dtype=np.float32) * np.pi / 2 + rng.uniform(0, np.pi)))
    is_estate, is_park, is_orchard, is_dump, is_beach = (
        uses == use for use in (INDUSTRIAL, PARK, ORCHARD, DUMP, COAST)
    )
    looks = {
        "kind": [(is_estate, 0.05), (is_park, 0.15 * ground.kind), (is_orchard, 0.5)],
        "soil": [(is_estate, 0.1), (is_dump, 0.0), (is_beach, 0.9)],
        "vigour": [(is_estate, -2.5), (is_park, 1.3), (is_orchard, 0.8)],
        "gain": [(is_estate, 1.5 + hall), (is_dump, ground.gain - 1.5), (is_beach, 1.5 + 0.5 * ground.gain)],
        "grain": [
            *[(is_estate, 0.3 * ground.grain + 0.5 * hall), (is_orchard, rows + ground.grain)],
            *[(is_dump, 3 * ground.grain), (is_beach, 0.4 * ground.grain)],
        ],
    }
    return replace(ground, **{name: _where(getattr(ground, name), cases) for name, cases in looks.items()})


def _where(field: np.ndarray, cases: list[tuple[np.ndarray, np.ndarray | float]]) -> np.ndarray:
    """`field`, replaced where a mask holds."""
    masks, values = zip(*cases)
    return np.select(masks, values, field).astype(np.float32)
