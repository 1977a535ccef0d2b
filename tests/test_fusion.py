"""Pretraining networks: the published numbers, any size, and clear refusals."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from published import reference_model

from cromss.models import build_pretrainer, encoders

pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def small(fusion: str = "mid", encoder_name: str = "resnet18", common_branch: bool = False) -> torch.nn.Module:
    return build_pretrainer(fusion, encoder_name, num_classes=4, common_branch=common_branch).eval()


def images(batch: int = 2, height: int = 64, width: int = 64, s2: int = 13) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"s1": 2, "s2": s2}
    return {name: torch.randn(batch, count, height, width, generator=generator) for name, count in sizes.items()}


@pytest.fixture(scope="module")
def forward_arrays(reference):
    return np.load(reference / "h_forward_resnet18.npz")


@pytest.mark.parametrize("fusion", ["mid", "late"])
@pytest.mark.parametrize(
    ("mode", "suffix", "dtype", "tolerance"),
    [
        ("eval", "", torch.float32, 5e-5),
        ("eval", "_f64", torch.float64, 1e-10),
        ("train", "", torch.float64, 1e-4),
        ("train", "", torch.float32, 1.5e-4),
    ],
)
def test_logits_equal_the_published_networks(forward_arrays, fusion, mode, suffix, dtype, tolerance):
    """In training mode the published float32 logits are themselves 8e-5 off those of float64, as ours may be."""
    model = reference_model(fusion, dtype).train(mode == "train")
    inputs = {f"s{i}": torch.from_numpy(forward_arrays[f"x{i}"]).to(dtype) for i in (1, 2)}
    with torch.no_grad():
        logits = model(**inputs)
    for i in (1, 2):
        wanted = forward_arrays[f"{fusion}2__{mode}_logits{i}{suffix}"]
        assert logits[f"s{i}"].dtype == dtype
        np.testing.assert_allclose(logits[f"s{i}"].numpy(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("fusion", "common_branch", "millions"),
    [("mid", False, 56.06), ("mid", True, 79.60), ("late", False, 65.07), ("late", True, 97.63)],
)
def test_parameter_counts_of_resnet50(fusion, common_branch, millions):
    with torch.device("meta"):
        model = build_pretrainer(fusion, "resnet50", common_branch=common_branch)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions
    assert set(model.encoders) == {"s1", "s2", *(["common"] if common_branch else [])}
    assert model.encoders["s2"].conv1.in_channels == 13
    if common_branch:
        assert model.encoders["common"].conv1.in_channels == 15


@pytest.mark.parametrize("bands", ["13b", "9b"])
@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_exact_parameter_counts_of_the_published_files(reference, fusion, bands):
    layout = json.loads((reference / "checkpoint_keys.json").read_text())[f"{fusion}2_resnet50_{bands}"]
    with torch.device("meta"):
        model = build_pretrainer(fusion, "resnet50", bands={"s1": 2, "s2": int(bands[:-1])})
    assert sum(p.numel() for p in model.parameters()) == layout["n_parameters"]


@pytest.mark.parametrize("encoder_name", ["mobilenet_v2", "tu-test_resnet"])
@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_trains_every_parameter(fusion, encoder_name):
    model = build_pretrainer(fusion, encoder_name, bands={"s1": 2, "s2": 9}, num_classes=4, common_branch=True)
    logits = model(**images(s2=9))
    assert list(logits) == ["s1", "s2", "common"]
    assert all(branch.shape == (2, 4, 64, 64) for branch in logits.values())
    sum(branch.square().mean() for branch in logits.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("height", "width"), [(264, 264), (33, 70), (31, 5), (1, 1)])
@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_any_size(fusion, height, width):
    with torch.no_grad():
        logits = small(fusion)(**images(1, height, width))
    assert all(branch.shape == (1, 4, height, width) for branch in logits.values())


def test_padding_is_the_mirrored_image_cropped_back():
    given = images(1, 40, 64)
    mirrored = {name: torch.cat([image, image[:, :, 15:39].flip(2)], dim=2) for name, image in given.items()}
    with torch.no_grad():
        padded, by_hand = small()(**given), small()(**mirrored)
    torch.testing.assert_close(padded["s2"], by_hand["s2"][:, :, :40])


def test_sizes_that_fit_are_left_alone():
    image = torch.rand(1, 2, 64, 96)
    assert encoders.pad_to_multiple(image, 32) is image


def test_middle_fusion_shares_decoder_and_head_late_fusion_shares_nothing():
    mid = dict(small("mid").named_parameters())
    assert {name.split(".")[0] for name in mid} == {"encoders", "decoder", "segmentation_head"}
    late = dict(small("late").named_parameters())
    assert {".".join(name.split(".")[:2]) for name in late} == {"networks.s1", "networks.s2"}


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_branches_see_only_their_own_images(fusion):
    model, given = small(fusion, common_branch=True), images(1)
    other = given | {"s1": given["s1"] + 1}
    with torch.no_grad():
        before, after = model(**given), model(**other)
    assert torch.equal(before["s2"], after["s2"])
    assert not torch.equal(before["s1"], after["s1"])
    assert not torch.equal(before["common"], after["common"])


def test_common_branch_stacks_s1_before_s2():
    model, given = small("late", common_branch=True), images(1)
    stacked = torch.cat([given["s1"], given["s2"]], dim=1)
    with torch.no_grad():
        expected = model.networks["common"](stacked)
        torch.testing.assert_close(model(s2=given["s2"], s1=given["s1"])["common"], expected)


@pytest.mark.parametrize("fusion", ["mid", "late"])
@pytest.mark.parametrize(("name", "count"), [("s1", 2), ("s2", 13)])
def test_a_single_modality_is_one_unet(fusion, name, count):
    model = build_pretrainer(fusion, "resnet18", bands={name: count}, num_classes=4).eval()
    logits = model(**{name: torch.rand(1, count, 32, 32)})
    assert list(logits) == [name]
    assert list(model.encoders) == [name]
    with torch.device("meta"):
        unet = encoders.build_network("unet", "resnet18", count, 4)
    assert len(model.state_dict()) == len(unet.state_dict())


def test_state_dict_travels(tmp_path):
    model, given = small("mid", common_branch=True), images(1)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    twin = build_pretrainer("mid", "resnet18", num_classes=4, common_branch=True).eval()
    twin.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        before, after = model(**given), twin(**given)
    assert all(torch.equal(before[branch], after[branch]) for branch in before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "middle"}, "fusion 'middle': choose one of mid, late"),
        ({"encoder_name": "resnet51"}, "did you mean .*resnet50"),
        ({"encoder_name": "tu-resnet5O"}, "did you mean .*tu-resnet50"),
        ({"encoder_name": "qqqq"}, "encoder_name 'qqqq': no such encoder; choose --model_type such as resnet50, tu-<"),
        ({"bands": {}}, "bands {}: name one or more of s1, s2"),
        ({"bands": {"s3": 4}}, "bands .*s1, s2"),
        ({"bands": {"s1": 0, "s2": 13}}, "in_channels 0"),
        ({"bands": {"s2": 13}, "common_branch": True}, "common_branch: .* only s2"),
        ({"num_classes": 0}, "num_classes 0"),
        (
            {"encoder_name": "resnet18", "encoder_weights": "imgnet"},
            "encoder_weights 'imgnet': resnet18 offers imagenet",
        ),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_pretrainer(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s1": None}, "takes the modalities s1, s2; got s2"),
        ({"s1": None, "s2": None}, "got none"),
        ({"s3": torch.zeros(2, 2, 64, 64)}, "got s1, s2, s3"),
        ({"s2": torch.zeros(2, 12, 64, 64)}, r"s2: this model takes 13 bands.*got \(2, 12, 64, 64\)"),
        ({"s1": torch.zeros(2, 64, 64)}, "s1: this model takes 2 bands"),
        ({"s1": torch.zeros(2, 2, 64, 32)}, r"share \(B, H, W\)"),
        ({"s1": torch.zeros(1, 2, 64, 64)}, r"share \(B, H, W\)"),
    ],
)
def test_bad_images_are_refused(change, message):
    given = {name: image for name, image in (images() | change).items() if image is not None}
    with pytest.raises(ValueError, match=message):
        small()(**given)


@pytest.mark.parametrize("encoder_name", ["resnet18", "tu-resnet18"])
def test_no_network_is_one_line(monkeypatch, encoder_name):
    def offline(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", offline)
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(ValueError, match=r"could not be downloaded .* or give a weights file$") as caught:
        build_pretrainer("mid", encoder_name, encoder_weights="imagenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_filled_weights_are_those_of_the_reference_run(reference, fusion):
    expected = np.load(reference / "h_forward_resnet18.npz")[f"{fusion}2__weight_abs_sum"]
    total = sum(tensor.double().abs().sum().item() for tensor in reference_model(fusion).state_dict().values())
    assert total == pytest.approx(float(expected), rel=1e-9)
