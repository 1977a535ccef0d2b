"""Our pretrainer's names and the published ones, there and back."""

import json

import pytest
import torch
from foreign import constants, holds, lightning, save

from cromss.models import build_pretrainer
from cromss.models.published_names import from_published, to_published
from cromss.models.weight_files import WeightsError, read_state_dict


@pytest.mark.parametrize(
    "layout",
    [f"{fusion}2_resnet50_{bands}" for fusion in ("mid", "late") for bands in ("13b", "9b")]
    + ["mid2_resnet18_13b", "late2_resnet18_13b"],
)
def test_names_and_shapes_of_the_published_files(reference, layout):
    published = json.loads((reference / "checkpoint_keys.json").read_text())[layout]["keys"]
    fusion, encoder_name, bands = layout.replace("2_", "_").split("_")
    with torch.device("meta"):
        model = build_pretrainer(fusion, encoder_name, bands={"s1": 2, "s2": int(bands[:-1])})
    ours = model.state_dict()
    renamed = to_published(ours, fusion)
    assert {key: list(value.shape) for key, value in renamed.items()} == published
    assert list(from_published(renamed)) == list(ours)
    assert all(from_published(renamed)[key] is value for key, value in ours.items())


@pytest.mark.parametrize(
    ("fusion", "settings"),
    [
        ("mid", {"common_branch": True}),
        ("late", {"common_branch": True}),
        ("single", {"bands": {"s1": 2}}),
        ("single", {"bands": {"s2": 13}}),
    ],
)
def test_renaming_there_and_back(fusion, settings):
    with torch.device("meta"):
        ours = build_pretrainer("late" if fusion == "single" else fusion, "resnet18", **settings).state_dict()
    published = to_published(ours, fusion)
    assert len(published) == len(ours)
    assert all(key.startswith("net.") for key in published)
    assert list(from_published(published)) == list(ours)


def test_names_that_belong_nowhere():
    with pytest.raises(WeightsError, match="fusion 'early': choose one of mid, late, single"):
        to_published({}, "early")
    with pytest.raises(WeightsError, match=r"networks\.s1\.x does not begin with one of encoders\.s1"):
        to_published({"networks.s1.x": torch.zeros(1)}, "mid")
    with pytest.raises(WeightsError, match=r"x does not begin with one of net\.encoder1"):
        from_published({"net.encoder1.y": torch.zeros(1), "x": torch.zeros(1)})
    with pytest.raises(WeightsError, match="not a published network; encoders found: none"):
        from_published({"x": torch.zeros(1)})


def test_a_published_file_becomes_our_pretrainer(tmp_path):
    model = build_pretrainer("mid", "resnet18")
    state = constants(model.state_dict(), seed=0)
    path = save(lightning(to_published(state, "mid")), tmp_path / "w.ckpt")
    model.load_state_dict(from_published(read_state_dict(path)))
    assert holds(model, state)
