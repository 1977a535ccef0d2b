"""Raw folder layouts -> locations with ids, and locations -> arrays.

Listing (`pretraining`, `own`, `shards`, `orthophotos`, `downstream`) is apart from reading (`location`): a `Location`
only names files, so that a set can be counted and checked before a pixel is read.
"""

from cromss.layouts.downstream import list_dfc2020, list_downstream, list_dwosm
from cromss.layouts.folders import check_out
from cromss.layouts.location import Location, check_location, check_places, location_shape, most_seasons, read_location
from cromss.layouts.orthophotos import list_nyc, list_nyc_triples
from cromss.layouts.own import far_in_time, list_own, own_modalities, own_part, refuse_shared_ids
from cromss.layouts.pretraining import list_ssl4eo, list_tiles
from cromss.layouts.shards import list_zarr

__all__ = [
    "Location",
    "check_location",
    "check_out",
    "check_places",
    "far_in_time",
    "list_dfc2020",
    "list_downstream",
    "list_dwosm",
    "list_nyc",
    "list_nyc_triples",
    "list_own",
    "list_ssl4eo",
    "list_tiles",
    "list_zarr",
    "location_shape",
    "most_seasons",
    "own_modalities",
    "own_part",
    "read_location",
    "refuse_shared_ids",
]
