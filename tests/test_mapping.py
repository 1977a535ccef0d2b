"""Maps of scenes: what networks are fed, how tiles meet, what is written, what is refused."""

import numpy as np
import pytest
import rasterio
import torch
from checkpoints import save_checkpoint
from conftest import REPOSITORY, load_script
from map_scenes import (
    NORTH,
    WEST,
    band_step,
    centres_in_degrees,
    linear_field,
    optical,
    plane,
    radar,
    ramp_in_degrees,
    read,
    write_scene,
)
from PIL import Image
from sets import PART, raw_arrays, write_ours
from torch import nn
from torch.nn import functional as F

from cromss.batch_transforms import as_unit
from cromss.config import parse
from cromss.legends import DFC2020, NOL
from cromss.mapping import Predictor, open_predictor, predict_map
from cromss.mapping.blending import Canvas, Side
from cromss.mapping.partial import PartialMap
from cromss.mapping.scene import Scene
from cromss.normalization import common
from cromss.sensors import S1, S2, quantise
from cromss.settings import FinetuneSettings
from cromss.settings.mapping import MapSettings
from cromss.store import LmdbReader
from cromss.training import finetune

pytestmark = pytest.mark.usefixtures("one_thread", "one_row", "narrow")

SENSORS = {"s1": S1, "s2": S2}
CPU = {"accelerator": "cpu"}


class Pixelwise(nn.Module):
    """A network that sees each pixel alone; it counts its calls."""

    def __init__(self, channels=13, num_classes=8):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.calls, self.output_stride = nn.Conv2d(channels, num_classes, 1), 0, 32

    @property
    def encoder(self):
        return self

    def forward(self, images):
        self.calls += 1
        return 20 * self.layer(images)


def predictor_of(network, bands=None):
    bands = bands or {"s2": S2.bands}
    sensors = {name: SENSORS[name] for name in bands}
    return Predictor("a network", network, bands, sensors, dict.fromkeys(bands, "common"), DFC2020)


def pixelwise_probabilities(network, dn):
    """Probabilities `(K, H, W)` of the whole scene at once, from NumPy."""
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (network.layer.weight, network.layer.bias))
    logits = 20 * (np.einsum("kc,chw->khw", weight[..., 0, 0], quantise(dn, S2) / 255) + bias[:, None, None])
    e = np.exp(logits - logits.max(0))
    return e / e.sum(0)


@pytest.mark.parametrize(
    ("length", "size", "overlap", "multiple"),
    [(100, 64, 16, 32), (97, 64, 32, 32), (64, 64, 16, 32), (30, 64, 16, 32), (300, 64, 0, 16), (129, 64, 20, 1)],
)
def test_tiles_cover_a_side_and_weigh_one_together(length, size, overlap, multiple):
    side = Side(length, size, overlap, multiple)
    total, count = np.zeros(length), np.zeros(length)
    for (start, end), weight in zip(side.spans, side.weights):
        assert start % multiple == 0
        assert 0 < end - start <= size
        total[start:end] += weight
        count[start:end] += 1
    assert np.allclose(total, 1, atol=1e-6)
    for (_, end), (start, _) in zip(side.spans, side.spans[1:]):
        assert end - start >= overlap
    for (start, end), weight in zip(side.spans, side.weights):
        assert (weight[count[start:end] == 1] == 1).all()
        assert (weight >= 0).all()
    assert side.spans[-1][1] == length


def test_edges_that_have_neighbours_do_not_count():
    """Of tiles at 0, 64 and 128: 24 pixels of the overlap of 64 at either end, half each in its middle."""
    side = Side(256, 128, 64, 32)
    assert side.spans == [(0, 128), (64, 192), (128, 256)]
    first, middle, last = side.weights
    assert (first[:88] == 1).all()
    assert (np.diff(first[87:104]) < 0).all()
    assert not first[104:].any()
    assert not middle[:24].any()
    assert not middle[104:].any()
    assert np.allclose([first[95] + first[96], middle[31] + middle[32]], 1)
    assert (last[40:] == 1).all()


def test_blending_equals_a_naive_sum_over_tiles():
    rng, (height, width), num_classes = np.random.default_rng(0), (150, 97), 3
    rows, columns = Side(height, 64, 20, 32), Side(width, 64, 20, 32)
    tiles = {
        (i, j): rng.random((num_classes, b - a, d - c))
        for i, (a, b) in enumerate(rows.spans)
        for j, (c, d) in enumerate(columns.spans)
    }
    naive, weight = np.zeros((num_classes, height, width)), np.zeros((height, width))
    for (i, j), tile in tiles.items():
        (top, _), (left, _) = rows.spans[i], columns.spans[j]
        for y in range(tile.shape[1]):
            for x in range(tile.shape[2]):
                w = float(rows.weights[i][y]) * float(columns.weights[j][x])
                naive[:, top + y, left + x] += w * tile[:, y, x]
                weight[top + y, left + x] += w
    canvas, done = Canvas(num_classes, 64, width), []
    for i, (top, _) in enumerate(rows.spans):
        for j, (left, _) in enumerate(columns.spans):
            canvas.add(top, left, tiles[i, j], rows.weights[i][:, None] * columns.weights[j])
        done.append(canvas.take(rows.final_before(i)).copy())
    assert np.allclose(np.concatenate(done, 1), naive / weight, atol=1e-5)


def test_what_sees_pixels_alone_maps_alike_in_any_tiles(tmp_path):
    """Map, confidence and probabilities against the whole scene at once; two pixels without data, one NaN."""
    dn = optical(150, 130).astype(np.float32)
    dn[:, 3, 5] = 0
    dn[4, 100, 77] = np.nan
    scene, network = write_scene(tmp_path / "s2.tif", dn), Pixelwise()
    outputs = {name: tmp_path / f"{name}.tif" for name in ("confidence", "probabilities")}
    report = predict_map(
        predictor_of(network), {"s2": scene}, tmp_path / "map.tif", tile_size=64, overlap=16, **outputs, **CPU
    )
    valid = np.isfinite(dn).all(0) & (dn != 0).any(0)
    expected = pixelwise_probabilities(network, np.nan_to_num(dn))
    found = {name: read(tmp_path / f"{name}.tif") for name in ("map", *outputs)}
    assert all((bands[:, ~valid] == 255).all() for bands in found.values())
    top = np.sort(expected, 0)
    sure = valid & (top[-1] - top[-2] > 1e-4)
    assert (found["map"][0][sure] == expected.argmax(0)[sure]).all()
    assert np.abs(found["probabilities"][:, valid] - 100 * expected[:, valid]).max() < 0.501
    assert np.abs(found["confidence"][0][valid] - 100 * expected.max(0)[valid]).max() < 0.501
    shares = np.bincount(found["map"][0][valid], minlength=8) / valid.sum()
    assert list(report.shares.values()) == pytest.approx(shares.tolist())
    assert report.without_data == pytest.approx(2 / dn[0].size)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_map_is_a_cloud_optimised_geotiff_with_a_legend(tmp_path):
    scene = write_scene(tmp_path / "s2.tif", optical(600, 40))
    predict_map(predictor_of(Pixelwise()), {"s2": scene}, tmp_path / "deep" / "map.tif", **CPU)
    with rasterio.open(tmp_path / "deep" / "map.tif") as dataset, rasterio.open(scene) as source:
        assert (dataset.crs, dataset.transform, dataset.shape) == (source.crs, source.transform, source.shape)
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 255)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1) == [2]
        colours = dataset.colormap(1)
        assert [colours[i][:3] for i in range(8)] == [tuple(rgb) for rgb in DFC2020.palette()[:8].tolist()]
        assert [dataset.tags(1)[f"class_{i}"] for i in range(8)] == list(DFC2020.classes)
    assert "<Category>urban/built-up</Category>" in (tmp_path / "deep" / "map.tif.aux.xml").read_text()


def test_a_killed_map_goes_on_and_ends_in_the_same_bytes(tmp_path, monkeypatch, capsys):
    scene, network = write_scene(tmp_path / "s2.tif", optical(200, 100)), Pixelwise()
    options = {"tile_size": 64, "overlap": 32, **CPU}
    predict_map(predictor_of(network), {"s2": scene}, tmp_path / "whole.tif", **options)
    calls, append = network.calls, PartialMap.append
    out = tmp_path / "map.tif"

    def killed(partial, rows):
        append(partial, rows)
        if partial.path.stat().st_size > 100 * 100:
            with partial.path.open("ab") as file:
                file.write(b"half a row")
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialMap, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        predict_map(predictor_of(network), {"s2": scene}, out, **options)
    assert not out.exists()
    monkeypatch.setattr(PartialMap, "append", append)
    before = network.calls
    report = predict_map(predictor_of(network), {"s2": scene}, out, **options)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert 0 < network.calls - before < calls
    assert report.pixels < 200 * 100
    assert "128 of 200 rows are done" in capsys.readouterr().out


def test_the_number_of_workers_does_not_change_a_byte(tmp_path):
    """Both sensors, the radar warped; with probabilities, and a part without data."""
    dn = optical(200, 230)
    dn[:, 90:, 30:] = 0
    field, corner = ramp_in_degrees(220, 360)
    rasters = {"s2": write_scene(tmp_path / "s2.tif", dn)}
    rasters["s1"] = write_scene(tmp_path / "s1.tif", field, 1e-4, "EPSG:4326", corner)
    predictor, written = predictor_of(Pixelwise(15), {"s1": S1.bands, "s2": S2.bands}), []
    for workers in (1, 2, 5):
        out = {name: tmp_path / f"{name}_{workers}.tif" for name in ("map", "probabilities")}
        options = {"tile_size": 64, "overlap": 32, "probabilities": out["probabilities"], "workers": workers, **CPU}
        predict_map(predictor, rasters, out["map"], **options)
        written.append([path.read_bytes() for path in out.values()])
    assert written[0] == written[1] == written[2]


def test_a_map_that_was_killed_while_written_needs_the_network_no_more(tmp_path, monkeypatch):
    scene, network, out = write_scene(tmp_path / "s2.tif", optical(64, 64)), Pixelwise(), tmp_path / "map.tif"
    with monkeypatch.context() as patch:
        patch.setattr(PartialMap, "blocks", lambda partial: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict_map(predictor_of(network), {"s2": scene}, out, **CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".map.tif.partial", ".map.tif.partial.json", "s2.tif"]
    calls = network.calls
    assert predict_map(predictor_of(network), {"s2": scene}, out, **CPU).pixels == 0
    assert network.calls == calls
    assert (read(out)[0] != 255).all()


def test_other_settings_begin_anew(tmp_path, capsys):
    scene, partial = write_scene(tmp_path / "s2.tif", optical(64, 64)), PartialMap(tmp_path / "map.tif", 1, 64)
    partial.open({"tile_size": 32}, [32, 64])
    partial.append(np.full((64, 1, 64), 7, np.uint8))
    network = Pixelwise()
    predict_map(predictor_of(network), {"s2": scene}, tmp_path / "map.tif", tile_size=384, **CPU)
    assert "made with other settings, weights or rasters; beginning anew" in capsys.readouterr().out
    assert network.calls == 1


class Coarse(Pixelwise):
    """Sees means of whole cells of 32 pixels: it tells tiles that do not begin with a cell."""

    def forward(self, images):
        means = F.avg_pool2d(images, 32, ceil_mode=True, count_include_pad=False)
        return super().forward(F.interpolate(means, scale_factor=32))[..., : images.shape[-2], : images.shape[-1]]


class Wide(Pixelwise):
    """Sees 12 pixels to every side, and zeros beyond the edge of its tile."""

    def __init__(self):
        super().__init__()
        self.around = nn.Sequential(*(nn.Conv2d(13, 13, 3, padding=4, dilation=4, bias=False) for _ in range(3)))

    def forward(self, images):
        return super().forward(images + 3 * self.around(images))


def mapped_percent(network, scene, folder, **options):
    out = {name: folder / f"{name}.tif" for name in ("map", "probabilities")}
    predict_map(predictor_of(network), {"s2": scene}, out["map"], probabilities=out["probabilities"], **options, **CPU)
    return read(out["probabilities"]).astype(float), read(out["map"])[0]


def test_tiles_begin_where_the_cells_of_the_network_do(tmp_path):
    scene = write_scene(tmp_path / "s2.tif", optical(203, 170))
    whole, whole_map = mapped_percent(Coarse(), scene, tmp_path, tile_size=256)
    for size, overlap in ((64, 16), (100, 40), (128, 64)):
        tiled, tiled_map = mapped_percent(Coarse(), scene, tmp_path, tile_size=size, overlap=overlap)
        assert np.abs(tiled - whole).max() <= 1  # of rounding
        assert (tiled_map == whole_map).all()


def test_seams_do_not_show(tmp_path):
    """Mean difference of the probabilities between two tile sizes, in percent; without blending it is large."""
    scene = write_scene(tmp_path / "s2.tif", optical(200, 200))
    pairs = {
        overlap: [mapped_percent(Wide(), scene, tmp_path, tile_size=size, overlap=overlap) for size in (128, 160)]
        for overlap in (64, 0)
    }
    differences = {overlap: np.abs(pair[0][0] - pair[1][0]).mean() for overlap, pair in pairs.items()}
    assert differences[64] < 0.1
    assert differences[0] > 0.2
    assert (pairs[64][0][1] != pairs[64][1][1]).mean() < 1e-3


@pytest.fixture(scope="module")
def transfer(tmp_path_factory):
    """A short transfer of both sensors stacked, with the maps of its test tiles."""
    folder, rng = tmp_path_factory.mktemp("transfer"), np.random.default_rng(2)
    for part, count in {"train": 3, "test": 2}.items():
        write_ours(folder / part, raw_arrays(count, rng), PART)
    flags = "--input_type s12 --n_channels 12 --model_framework fpn --model_type resnet18 --crop_size 64 --batch_size 3"
    flags += f" --encoder_finetune_tag etr --epochs 3 --accelerator cpu --save_maps -1 --save_dir {folder} --name run"
    finetune(parse(FinetuneSettings, [*flags.split(), "--data_path", str(folder)]))
    return folder


def test_a_tile_is_mapped_as_the_evaluation_of_the_transfer_predicts_it(transfer, tmp_path):
    """A whole tile by the run folder; files in another band order, by name."""
    stores = {name: LmdbReader(transfer / "test" / f"{name}.lmdb") for name in ("s1", "s2")}
    for index in range(2):
        order = np.random.default_rng(index).permutation(13)
        names = [S2.bands[band] for band in order]
        s2 = write_scene(tmp_path / f"s2_{index}.tif", stores["s2"].read(index, 0)[order], names=names)
        s1 = write_scene(tmp_path / f"s1_{index}.tif", stores["s1"].read(index, 0)[::-1], names=("VH", "VV"))
        out = tmp_path / f"map_{index}.tif"
        predict_map(transfer / "run", {"s2": s2, "s1": s1}, out, s2_offset=0, **CPU)
        evaluated = np.asarray(Image.open(transfer / "run" / "maps" / f"{index:07d}.png"))
        assert len(np.unique(read(out))) > 1
        assert (DFC2020.palette()[read(out)[0]] == evaluated).all()


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A pretrained twin with random weights, whose card tells statistics of its own for Sentinel-1."""
    mean, std = [-11.0, -19.0], [4.0, 5.0]
    told = {"s1": {"bands": list(S1.bands), "mean": mean, "std": std}}
    path = tmp_path_factory.mktemp("twin") / "twin.ckpt"
    return save_checkpoint(path, "--input_type s12", statistics=told, classes=list(NOL.classes))


@pytest.mark.parametrize("given", [("s1",), ("s2",), ("s1", "s2")])
def test_twins_map_one_sensor_or_the_mean_of_both(twin, tmp_path, given):
    images = {"s1": radar(64, 64), "s2": optical(64, 64)}
    rasters = {name: write_scene(tmp_path / f"{name}.tif", images[name]) for name in given}
    out = {name: tmp_path / f"{name}.tif" for name in ("map", "probabilities")}
    predict_map(twin, rasters, out["map"], probabilities=out["probabilities"], **CPU)
    predictor = open_predictor(str(twin))
    assert (predictor.sensors["s1"].mean, predictor.sensors["s2"]) == ((-11.0, -19.0), S2)
    fed = {name: common(image, predictor.sensors[name]) for name, image in images.items()}
    with torch.inference_mode():
        logits = predictor.network(**{name: as_unit(torch.from_numpy(image))[None] for name, image in fed.items()})
    expected = sum(logits[name].softmax(1) for name in given)[0].numpy() / len(given)
    assert np.abs(read(out["probabilities"]) - 100 * expected).max() < 0.51
    with rasterio.open(out["map"]) as dataset:
        assert [dataset.colormap(1)[i][:3] for i in range(9)] == [tuple(c) for c in NOL.palette()[:9].tolist()]


def test_radar_on_a_grid_in_degrees_is_put_on_that_of_sentinel_2(tmp_path):
    field, corner = ramp_in_degrees(80, 120)
    s1 = write_scene(tmp_path / "s1.tif", field, 1e-4, "EPSG:4326", corner)
    s2 = write_scene(tmp_path / "s2.tif", optical(60, 50))
    with Scene({"s1": s1, "s2": s2}, {"s1": S1.bands, "s2": S2.bands}, SENSORS) as scene:
        values, valid = scene.images["s1"].read(slice(10, 60), slice(0, 50))
    expected = linear_field(*centres_in_degrees(60, 50))[:, 10:]
    assert valid.all()
    assert np.abs(values - expected).max() < 0.02


def test_radar_that_ends_within_the_scene_leaves_the_rest_without_data(twin, tmp_path):
    s2 = write_scene(tmp_path / "s2.tif", optical(64, 64))
    s1 = write_scene(tmp_path / "s1.tif", radar(64, 40))
    report = predict_map(twin, {"s2": s2, "s1": s1}, tmp_path / "map.tif", **CPU)
    nowhere = read(tmp_path / "map.tif")[0] == 255
    assert nowhere[:, 41:].all()
    assert not nowhere[:, :39].any()
    assert report.without_data == pytest.approx(24 / 64, abs=0.02)


def test_a_folder_of_bands_of_10_20_and_60_m_is_read_on_the_finest_grid(tmp_path):
    """A plane stays one: bands of any pixel size agree away from the edges."""
    for band in S2.bands:
        name = band.replace("B", "B0") if len(band) == 2 else band
        step = band_step(band)
        write_scene(tmp_path / "scene" / f"T32_20200101_{name}.tif", plane(band, step).astype(np.float32), step)
    with Scene({"s2": tmp_path / "scene"}, {"s2": S2.bands}, SENSORS) as scene:
        assert (scene.grid.shape, scene.grid.transform.a) == ((120, 120), 10)
        values, valid = scene.images["s2"].read(slice(20, 90), slice(30, 100))
    expected = np.concatenate([plane(band, 10) for band in S2.bands])[:, 20:90, 30:100]
    assert valid.all()
    assert np.abs(values - expected).max() < 1


def test_an_offset_is_seen_and_removed(tmp_path, capsys):
    dn, network = optical(64, 64), Pixelwise()
    dn[S2.index("B10")] = 20
    paths = [tmp_path / f"{name}.tif" for name in ("plain", "offset", "told")]
    for path, scene in zip(paths, (dn, dn + 1000, dn + 1000)):
        tags = {"PROCESSING_BASELINE": "04.00"} if path.stem == "told" else {}
        write_scene(path, scene, **tags)
        predict_map(predictor_of(network), {"s2": path}, tmp_path / f"map_{path.name}", **CPU)
    printed = capsys.readouterr().out
    assert f"--s2 {paths[0]}: values in DN, offset of 0 DN (by the pixels); its bands have no names" in printed
    assert f"--s2 {paths[1]}: values in DN, offset of 1000 DN (by the pixels)" in printed
    assert f"--s2 {paths[2]}: values in DN, offset of 1000 DN (by the metadata)" in printed
    maps = [read(tmp_path / f"map_{path.name}") for path in paths]
    assert (maps[0] == maps[1]).all()
    assert (maps[0] == maps[2]).all()


def named(pixels, names, **options):
    return lambda path: write_scene(path, pixels, names=names, **options)


def truncated(path):
    content = write_scene(path, optical(40, 40)).read_bytes()
    path.write_bytes(content[: len(content) // 2])


GREY = np.full((13, 40, 40), 5000, np.uint16) + np.arange(40, dtype=np.uint16)
BROKEN = {
    "missing band": (named(optical(40, 40)[1:], S2.bands[1:]), {}, "there is no B1 of Sentinel-2"),
    "level 2A": (named(optical(40, 40)[:12], S2.bands[:10] + S2.bands[11:]), {}, "no B10 of Sentinel-2 (level 2A has"),
    "wrong names": (named(optical(40, 40)[:2], S1.bands), {}, "its bands are VV VH, wanted is Sentinel-2: B1 B2"),
    "too few": (named(optical(40, 40)[:3], ()), {}, "3 bands without names; name them"),
    "no CRS": (named(optical(40, 40), (), crs=None), {}, "no CRS; assign it"),
    "no data": (named(np.zeros((13, 40, 40), np.uint16), ()), {}, "no pixel has data, all are nodata"),
    "reflectance": (named(optical(40, 40).astype(np.float32) / 1e4, ()), {}, "looks like reflectance in 0..1"),
    "undecidable": (named(GREY, ()), {}, "say --s2_offset 0 or --s2_offset 1000"),
    "no offset": (named(optical(40, 40), ()), {"s2_offset": 1000}, "show no DN offset; say auto or 0"),
    "metadata": (
        named(optical(40, 40), (), PROCESSING_BASELINE="05.09"),
        {},
        "declare a DN offset of 1000, the pixels",
    ),
    "no file": (lambda path: None, {}, "no such file"),
    "no raster": (lambda path: path.write_text("words"), {}, "cannot be read, truncated or no raster"),
    "truncated": (truncated, {}, "cannot be read"),
    "empty folder": (lambda path: path.mkdir(), {}, "no file for B1 B2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_scenes_that_cannot_be_mapped_are_refused_in_a_line(tmp_path, case):
    write, options, words = BROKEN[case]
    write(tmp_path / "s2.tif")
    with pytest.raises(ValueError, match=r"^--s2") as error:
        predict_map(predictor_of(Pixelwise()), {"s2": tmp_path / "s2.tif"}, tmp_path / "map.tif", **CPU, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "map.tif").exists()


def test_damage_that_no_sample_meets_stops_the_map_in_a_line(tmp_path):
    """Some rows from 335 on, between two windows that are looked at; what was mapped before is no map yet."""
    scene = write_scene(tmp_path / "s2.tif", optical(400, 40), compress="deflate")
    with rasterio.open(scene) as dataset:
        assert dataset.block_shapes[0][0] <= 11
        where = int(dataset.get_tag_item(f"BLOCK_OFFSET_0_{335 // dataset.block_shapes[0][0]}", "TIFF", bidx=1))
    with scene.open("r+b") as file:
        file.seek(where)
        file.write(b"\xff" * 40)
    options = {"tile_size": 96, "overlap": 32, "workers": 1, **CPU}  # of two threads, either may meet it first
    with pytest.raises(ValueError, match=r"^--s2 .*s2.tif: rows \d+ to 3\d\d cannot be read, damaged") as error:
        predict_map(predictor_of(Pixelwise()), {"s2": scene}, tmp_path / "map.tif", **options)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".map.tif.partial", ".map.tif.partial.json", "s2.tif"]


def test_radar_elsewhere_or_in_linear_units_is_refused(twin, tmp_path):
    s2 = write_scene(tmp_path / "s2.tif", optical(40, 40))
    away = write_scene(tmp_path / "away.tif", radar(40, 40), corner=(WEST + 1e5, NORTH))
    with pytest.raises(ValueError, match=r"^--s1 .*away.tif does not overlap --s2 .*s2.tif; are they of one place"):
        predict_map(twin, {"s2": s2, "s1": away}, tmp_path / "map.tif", **CPU)
    linear = write_scene(tmp_path / "linear.tif", 10 ** (radar(40, 40) / 10))
    with pytest.raises(ValueError, match=r"^--s1 .*linear.tif: Sentinel-1 looks linear .* 10 log10"):
        predict_map(twin, {"s2": s2, "s1": linear}, tmp_path / "map.tif", **CPU)


def test_targets_that_cannot_be_written_are_refused_before_any_work(tmp_path):
    s2, network = write_scene(tmp_path / "s2.tif", optical(40, 40)), Pixelwise()
    (tmp_path / "file").touch()
    for out, words in (
        (tmp_path / "file" / "map.tif", "cannot be written"),
        (tmp_path, "is a folder"),
        (s2, "a raster of"),
    ):
        with pytest.raises(ValueError, match=rf"^--out {out}: .*{words}"):
            predict_map(predictor_of(network), {"s2": s2}, out, **CPU)
    with pytest.raises(ValueError, match=r"^--confidence .*another output"):
        predict_map(predictor_of(network), {"s2": s2}, tmp_path / "a.tif", confidence=tmp_path / "a.tif", **CPU)
    assert network.calls == 0


def test_checkpoints_and_inputs_that_do_not_fit_are_refused(transfer, tmp_path):
    s2 = write_scene(tmp_path / "s2.tif", optical(40, 40))
    run, out = transfer / "run", tmp_path / "map.tif"
    last = run / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=f"^--s1: wanted, a scene for --s1 and --s2 of --model {last}"):
        predict_map(run, {"s2": s2}, out, **CPU)
    with pytest.raises(ValueError, match=r"^--s1: a network takes --s2 alone"):
        predict_map(predictor_of(Pixelwise()), {"s2": s2, "s1": s2}, out, **CPU)
    with pytest.raises(ValueError, match="--tile_size 64: must be at least 80"):
        predict_map(predictor_of(Pixelwise()), {"s2": s2}, out, tile_size=64, overlap=48, **CPU)
    with pytest.raises(ValueError, match=f"^--model {tmp_path}: no checkpoint in this folder"):
        predict_map(tmp_path, {"s2": s2}, out, **CPU)
    with pytest.raises(ValueError, match=f"^--model {s2}: cannot be read as weights"):
        predict_map(s2, {"s2": s2}, out, **CPU)
    content = torch.load(last, weights_only=True)
    for name, change, words in (
        ("oscd", {"settings": content["cromss"]["settings"] | {"dataset": "OSCD", "input_type": "s2"}}, "tells change"),
        ("classes", {"classes": ["a", "b"]}, "its weights do not fit its settings"),
        ("statistics", {"statistics": {"s1": {"mean": [1], "std": [1]}}}, "statistics on its card"),
    ):
        torch.save(content | {"cromss": content["cromss"] | change}, tmp_path / f"{name}.ckpt")
        with pytest.raises(ValueError, match=f"^--model {tmp_path / name}.ckpt: .*{words}"):
            open_predictor(str(tmp_path / f"{name}.ckpt"))


def test_transfers_to_own_sets_need_no_set_and_keep_their_colours(transfer, tmp_path):
    content = torch.load(transfer / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["cromss"]["colours"] == list(DFC2020.colours)
    colours = [f"{i:06x}" for i in range(8)]
    settings = content["cromss"]["settings"] | {"dataset": "OWN", "data_path": "gone", "weight_path": "gone.ckpt"}
    content["cromss"] |= {"settings": settings, "colours": colours, "classes": [f"own {i}" for i in range(8)]}
    torch.save(content, tmp_path / "own.ckpt")
    legend = open_predictor(str(tmp_path / "own.ckpt")).legend
    assert (legend.classes[3], legend.colours) == ("own 3", tuple(colours))


def test_the_script_maps_and_says_what_is_where(twin, tmp_path, capsys):
    s2 = write_scene(tmp_path / "s2.tif", optical(64, 64))
    script, flags = (
        load_script("predict_map", REPOSITORY / "train_scripts"),
        f"--model {twin} --s2 {s2} --accelerator cpu",
    )
    script.main(parse(MapSettings, [*flags.split(), "--out", str(tmp_path / "map.tif")]))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[1:10]] == list(NOL.classes)
    assert printed[-1] == f"written: {tmp_path / 'map.tif'}"
