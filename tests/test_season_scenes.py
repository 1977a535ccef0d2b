"""Which scenes stand for a season, against a naive search."""

import itertools
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from archives import s1_scene, s2_scene

from cromss.downloads.season_scenes import PRODUCTS, Rules, Scene, read_seasons

SEASON = date(2020, 6, 21)
NOON = datetime(2020, 6, 21, 12, tzinfo=UTC)


def test_the_window_holds_its_last_day():
    start, end = Rules(window_days=2).span(SEASON)
    assert (start, end) == (datetime(2020, 6, 19, tzinfo=UTC), datetime(2020, 6, 24, tzinfo=UTC))
    assert Rules(window_days=2).span(SEASON, 3) == (start - timedelta(days=3), end + timedelta(days=3))


def drawn(seed):
    rng = np.random.default_rng(seed)
    scenes = [
        Scene(f"scene_{number}", NOON + timedelta(days=int(rng.integers(-9, 10))), {"CLOUDY_PIXEL_PERCENTAGE": cloud})
        for number, cloud in enumerate(rng.integers(0, 5, 12).tolist())
    ]
    rng.shuffle(scenes)
    return scenes, {scene.name for scene in scenes if rng.random() < 0.7}


@pytest.mark.parametrize("seed", range(20))
def test_the_best_scene_is_that_of_a_naive_search(seed):
    scenes, labelled = drawn(seed)
    best = None
    for scene in scenes:
        if scene.properties["CLOUDY_PIXEL_PERCENTAGE"] >= 3 or scene.name not in labelled:
            continue
        cost = (scene.properties["CLOUDY_PIXEL_PERCENTAGE"], abs((scene.start - NOON).total_seconds()), scene.name)
        if best is None or cost < best[0]:
            best = cost, scene
    ranked = Rules(max_cloud=3).ranked_s2(scenes, SEASON, labelled)
    assert ranked[:1] == ([best[1]] if best else [])
    assert all(scene.cloud < 3 and scene.name in labelled for scene in ranked)
    for order in itertools.islice(itertools.permutations(scenes), 0, 5000, 1000):
        assert Rules(max_cloud=3).ranked_s2(list(order), SEASON, labelled) == ranked


def test_scenes_without_a_cloud_cover_are_not_taken():
    scenes = [s2_scene("20200620", None), s2_scene("20200601", 19.9), s2_scene("20200622", 20.0)]
    assert Rules().ranked_s2(scenes, SEASON, None) == [scenes[1]]
    assert Rules().ranked_s2(scenes, SEASON, set()) == []


@pytest.mark.parametrize("seed", range(10))
def test_the_nearest_sentinel_1_is_that_of_a_naive_search(seed):
    rng, near = np.random.default_rng(seed), s2_scene("20200621")
    days = [(near.start + timedelta(days=int(day))).strftime("%Y%m%d") for day in rng.integers(-9, 10, 8)]
    scenes = [s1_scene(day, f"S1{rng.choice(list('ABC'))}_IW_GRDH_1SDV") for day in days]
    after = near.start - timedelta(days=4)
    allowed = [s for s in scenes if abs((s.start - near.start).total_seconds()) <= 5 * 86400 and s.start > after]
    best = min(allowed, key=lambda s: (abs((s.start - near.start).total_seconds()), s.name), default=None)
    assert Rules(s1_days=5).ranked_s1(scenes, near, after)[:1] == ([best] if best else [])


@pytest.mark.parametrize("kind", ["S1A_EW_GRDM_1SDH", "S1A_IW_GRDH_1SSV", "S1B_IW_GRDH_1SDH", "S2A_IW_GRDH_1SDV"])
def test_other_modes_and_polarisations_are_not_taken(kind):
    near = s2_scene("20200621")
    good = s1_scene("20200625")
    assert Rules().ranked_s1([s1_scene("20200621", kind), good], near, None) == [good]


def test_what_is_fetched():
    assert {name: (p.pixel_bytes, p.smooth, p.folder) for name, p in PRODUCTS.items()} == {
        "s1": (8, True, "s1"),
        "s2": (26, True, "s2c"),
        "labels": (1, False, "labels"),
    }


def test_seasons_are_read():
    assert read_seasons(("2020-03-20", "2020-06-21"), 46) == (date(2020, 3, 20), SEASON)


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ((), "at least one date"),
        (("2020-02-30",), "--seasons 2020-02-30: not a date YYYY-MM-DD"),
        (("spring",), "--seasons spring: not a date"),
        (("20200320",), "--seasons 20200320: not a date"),
        (("0001-01-01",), "--seasons 0001-01-01: Sentinel-2 has scenes from 2015-06-27 to today"),
        (("9999-12-31",), "--seasons 9999-12-31: Sentinel-2 has scenes"),
        (("2020-06-21", "2020-03-20"), "must be in time order"),
        (("2020-06-21", "2020-06-21"), "must be in time order, each once"),
        (("2020-03-01", "2020-04-30"), "windows of 30 days either side overlap.*--window_days 29 at most"),
    ],
)
def test_bad_seasons(dates, message):
    with pytest.raises(ValueError, match=message):
        read_seasons(dates, 30)
    if "29" in message:
        read_seasons(dates, 29)
