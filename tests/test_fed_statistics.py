"""What encoders are fed on a set with statistics of its own: native and common input of foreign weights."""

import re

import numpy as np
import pytest
import rasterio
import yaml
from foreign import bare, save
from test_finetuning import RESNET18
from test_own import DAYS, TINY, downstream, write_world, writer

from cromss.config import read
from cromss.sensors import S1, S2
from cromss.settings import FinetuneSettings
from cromss.settings.pretraining_set import PretrainSet
from cromss.statistics import as_plain
from cromss.training.downstream import downstream_data
from cromss.training.finetuning import finetuning_task, normalizations, trained_sensors

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
]
SHIFTS = {"s1": -3, "s2": -300}
"""What is added to the built-in means, by modality."""


@pytest.fixture(scope="module")
def darker(tmp_path_factory):
    """A raw downstream set with statistics of its own."""
    home = tmp_path_factory.mktemp("darker")
    for part, ids in (("train", ("a", "b")), ("test", ("c",))):
        write_world(home / "raw" / part, ids, DAYS[:1])
    (home / "raw" / "train" / "legend.yaml").rename(home / "raw" / "legend.yaml")
    entries = {}
    for sensor in (S1, S2):
        mean = [value + SHIFTS[sensor.name] for value in sensor.mean]
        entries[sensor.name] = as_plain(sensor) | {"mean": mean, "unit": sensor.unit}
    (home / "statistics.yaml").write_text(yaml.safe_dump(entries))
    told = home / "statistics.yaml"
    downstream.main(downstream.DownstreamFolders("OWN", home / "raw", home / "own", statistics=told))
    save(bare(13), home / "foreign.pth")
    save(bare(2), home / "foreign_s1.pth")
    return home


def settings_of(data, weights, inputs="s2", flags=""):
    words = ["--dataset", "OWN", "--data_path", str(data), "--weight_path", str(weights), "--input_type", inputs]
    return read(
        FinetuneSettings, [*words, "--model_framework", "unet", *TINY.split(), *RESNET18.split(), *flags.split()]
    )


def built_in(raw, sensor, shift=0):
    """`common` in plain NumPy, with means shifted."""
    mean, std = (np.array(values)[:, None, None] for values in (sensor.mean, sensor.std))
    low, width = (mean + shift - 2 * std).astype(raw.dtype), (4 * std).astype(raw.dtype)
    return np.floor(255 * np.clip((raw - low) / width, 0, 1))


def own_ones(raw, sensor):
    return built_in(raw, sensor, SHIFTS[sensor.name])


def published_zscore(raw, sensor):
    mean, std = (np.array(values)[:, None, None] for values in (sensor.mean, sensor.std))
    return np.clip((raw - mean) / std, -2, 2)


def soft_con(raw, sensor):
    """SoftCon on Sentinel-1."""
    return (raw - np.array([-12.59, -20.26])[:, None, None]) / np.array([5.26, 5.91])[:, None, None]


BUILT_IN = "fed with the built-in statistics (50k locations of SSL4EO-S12"


@pytest.mark.parametrize(
    ("inputs", "weights", "flags", "expected", "said"),
    [
        ("s2", "foreign.pth", "", built_in, BUILT_IN),
        ("s1", "foreign_s1.pth", "", built_in, BUILT_IN),
        ("s2", "foreign.pth", "--weight_source moco", built_in, BUILT_IN),
        ("s2", "foreign.pth", "--normalization zscore", published_zscore, BUILT_IN),
        (
            *("s2", "foreign.pth", "--weight_source moco --normalization native"),
            *(lambda raw, _: np.clip(raw / 10000, 0, 1), "fed by reflectance normalization, not with the statistics"),
        ),
        (
            *("s1", "foreign_s1.pth", "--weight_source softcon --normalization native"),
            *(soft_con, "fed by standard normalization, not with the statistics of"),
        ),
        ("s2", "random", "", own_ones, ""),
        ("s1", "random", "--normalization native", own_ones, ""),
    ],
)
def test_what_foreign_weights_are_fed(inputs, weights, flags, expected, said, darker, capsys):
    settings = settings_of(darker / "own", weights if weights == "random" else darker / weights, inputs, flags)
    _, origins = finetuning_task(settings)
    data = downstream_data(settings, normalizations(settings, origins), trained_sensors(settings, origins))
    with rasterio.open(next((darker / "raw" / "train" / inputs / "a").iterdir())) as dataset:
        raw = dataset.read()
    raw = raw if inputs == "s1" else raw.astype(np.float64)
    fed = data.train[0][inputs]
    assert data.train.labels.location_id(0) == "a"
    np.testing.assert_allclose(fed, expected(raw, S1 if inputs == "s1" else S2), rtol=1e-5, atol=1e-5)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{inputs}: fed")]
    assert len(lines) == bool(said)
    assert all(said in line and line.endswith(f"{darker / 'own' / 'train' / inputs}.lmdb") for line in lines)


def test_native_input_of_unknown_weights_is_refused(darker):
    settings = settings_of(darker / "own", darker / "foreign.pth", flags="--normalization native")
    _, origins = finetuning_task(settings)
    wanted = "--normalization native: the file does not tell whose weights these are; name the --weight_source"
    with pytest.raises(ValueError, match=wanted):
        normalizations(settings, origins)


def test_quantised_with_other_statistics(darker, tmp_path):
    """Clipped values cannot be brought back to the statistics of the weights."""
    told = {"statistics": darker / "statistics.yaml", "label_codes": str(darker / "raw" / "legend.yaml")}
    names = {"data_name_s1": "s1.lmdb", "data_name_s2": "s2.lmdb", "data_name_label": "labels.lmdb"}
    for part in ("train", "test"):
        writer.main(PretrainSet(darker / "raw" / part, tmp_path / part, layout="own", **told, **names))
    settings = settings_of(tmp_path, darker / "foreign.pth")
    _, origins = finetuning_task(settings)
    message = rf"train/s2\.lmdb: quantised with statistics of its own, but .*{re.escape(BUILT_IN)}.*; write the set"
    with pytest.raises(ValueError, match=message) as refused:
        downstream_data(settings, {}, trained_sensors(settings, origins))
    assert "\n" not in str(refused.value)
