"""Places to download, their UTM zones and grids."""

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform

from cromss.downloads.places import Place, patch_grid, read_places, utm_crs


def listed(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "places.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_places_in_the_order_of_the_file(tmp_path):
    text = "ID,lon,lat\r\n0000012,11.5,48.1\r\n\r\np_7.b , -179.99 , -12\r\n"
    for encoding in ("utf-8", "utf-8-sig"):
        places = read_places(listed(tmp_path, text, encoding))
        assert places == [Place("0000012", 11.5, 48.1), Place("p_7.b", -179.99, -12.0)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "begins with nothing, wanted is the header id,lon,lat"),
        ("1,11,48", "begins with 1,11,48, wanted is the header"),
        ("id,lat,lon\n1,48,11", "begins with id,lat,lon, wanted is the header"),
        ("id,lon,lat\n", "holds no place"),
        ("id,lon,lat\n1,11", "line 2: three filled fields"),
        ("id,lon,lat\n1,11,48,3", "line 2: three filled fields"),
        ("id,lon,lat\n1,,48", "line 2: three filled fields"),
        ("id,lon,lat\n,11,48", "line 2: three filled fields"),
        ("id,lon,lat\n1,11,48\n2,east,48", "line 3: lon and lat are wanted as numbers of degrees, got east, 48"),
        ("id,lon,lat\n1,nan,48", "line 2: lon nan is not in -180..180"),
        ("id,lon,lat\n1,11,nan", r"line 2: lat nan is not in -80\.\.84"),
        ("id,lon,lat\n1,180.1,48", r"line 2: lon 180\.1 is not"),
        ("id,lon,lat\n1,inf,48", "line 2: lon inf is not"),
        ("id,lon,lat\n1,11,84.5", r"line 2: lat 84\.5 is not in -80\.\.84, where UTM is$"),
        ("id,lon,lat\n1,48.1,-120", "lat -120 is not .*are lon and lat swapped"),
        ("id,lon,lat\n12,11,48\n0012,12,48", "line 3: the id of 0012 at 12.0 48.0 is already on line 2"),
        ("id,lon,lat\na,11,48\nb,11.0,48.00", "line 3: the position of b at 11.0 48.0 is already on line 2"),
        ("id,lon,lat\n../x,11,48", "line 2: id '../x' names a folder"),
        ("id,lon,lat\n.x,11,48", "line 2: id '.x' names a folder"),
        ("id,lon,lat\na b,11,48", "line 2: id 'a b' names a folder"),
        (f"id,lon,lat\n{96 * 'a'},11,48\n{97 * 'a'},12,48", "line 3: id 'a{97}' names a folder; up to 96 letters"),
    ],
)
def test_bad_lists_name_the_line(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message) as error:
        read_places(listed(tmp_path, rows))
    assert "places.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_lists(tmp_path):
    with pytest.raises(ValueError, match=r"--places .*: no such file"):
        read_places(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="not a CSV of text"):
        read_places(listed(tmp_path, "id,lon,lat\nä,1,2", "utf-16"))


@pytest.mark.parametrize(
    ("lon", "lat", "code"),
    [
        (11.5, 48.1, 32632),
        (-43.2, -22.9, 32723),
        (0.0, 0.0, 32631),
        (-0.001, -0.001, 32730),
        (-180.0, 10.0, 32601),
        (180.0, 10.0, 32601),
        (179.999, -17.0, 32760),
        (5.3, 60.4, 32632),  # Bergen, in the wide zone of south-west Norway
        (2.99, 60.4, 32631),
        (5.3, 64.0, 32631),
        (5.3, 55.9, 32631),
        (8.9, 78.0, 32631),
        (9.0, 78.0, 32633),
        (15.6, 78.2, 32633),  # Longyearbyen
        (21.0, 78.0, 32635),
        (33.0, 78.0, 32637),
        (42.0, 78.0, 32638),
        (-1.0, 78.0, 32630),
        (9.0, 71.9, 32632),
    ],
)
def test_zones(lon, lat, code):
    assert utm_crs(lon, lat).to_epsg() == code


@pytest.mark.parametrize("size", [1, 24, 25, 264])
def test_grids_are_centred_and_snapped(size):
    rng = np.random.default_rng(size)
    for lon, lat in [(179.9999, -17.0), (12.0, 0.0), *zip(rng.uniform(-180, 180, 20), rng.uniform(-79, 83, 20))]:
        grid = patch_grid(Place("p", lon, lat), size)
        assert grid.shape == (size, size)
        assert (grid.transform.a, grid.transform.b, grid.transform.d, grid.transform.e) == (10, 0, 0, -10)
        assert (grid.transform.c % 10, grid.transform.f % 10) == (0, 0)
        middle = grid.transform.c + 5 * size, grid.transform.f - 5 * size
        (x,), (y,) = transform(CRS.from_epsg(4326), grid.crs, [lon], [lat])
        assert max(abs(middle[0] - x), abs(middle[1] - y)) <= 5.001
