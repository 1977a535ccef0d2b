"""The embedded default data: a small physical world, a pure function of a seed.

Land cover grows from multi-scale fields (`land`), varies within its classes (`ground`), is seen
by a spectrometer through an atmosphere (`optics`) and by a radar with speckle (`backscatter`), and is labelled
with noise whose truth is known (`noise`). It is put to use (`land_use`), marked in part (`experts`) and built over
(`change`). A city on 1 m pixels has streets and houses (`city`) and is seen from an aeroplane (`orthophoto`).
The `*folders` write it in the layouts of the real sets, so that the same scripts run on both; `fingerprint` holds it to
what it was. Seasons are 0 spring, 1 summer, 2 autumn, 3 winter; class ids are those of `cromss.legends.NOL`.
"""

from cromss.synthetic.backscatter import radar
from cromss.synthetic.change_folders import city_names, write_oscd
from cromss.synthetic.city_folders import write_nyc
from cromss.synthetic.fingerprint import WORLD_HASH
from cromss.synthetic.folders import write_dfc2020, write_nol
from cromss.synthetic.ground import Ground, draw_ground
from cromss.synthetic.land import Landscape, land_cover, landscape
from cromss.synthetic.noise import NOISE_PRESETS, NoiseModel, noisy_labels
from cromss.synthetic.optics import optical
from cromss.synthetic.rasters import WORLD_VERSION
from cromss.synthetic.tile_folders import write_dw, write_osm

__all__ = [
    "NOISE_PRESETS",
    "WORLD_HASH",
    "WORLD_VERSION",
    "Ground",
    "Landscape",
    "NoiseModel",
    "city_names",
    "draw_ground",
    "land_cover",
    "landscape",
    "noisy_labels",
    "optical",
    "radar",
    "write_dfc2020",
    "write_dw",
    "write_nol",
    "write_nyc",
    "write_oscd",
    "write_osm",
]
