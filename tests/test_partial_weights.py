"""Encoder, decoder blocks, decoder and head of a U-Net from CromSS checkpoints: exactly what the tag says."""

import copy
import json
from functools import cache

import pytest
import torch
from foreign import Attack, constants, lightning, moco, save

from cromss.models import build_change_segmenter, build_pretrainer, build_segmenter, build_twin_segmenter
from cromss.models.published_names import to_published
from cromss.models.weights import WeightsError, load_segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 5
BLOCKS = [f"decoder.blocks.{i}." for i in range(5)]
LOADED = {
    "encoder": (),
    **{f"de{n}": tuple(BLOCKS[:n]) for n in (1, 2, 3, 4)},
    "wocls": ("decoder.",),
    "all": ("decoder.", "segmentation_head."),
}
"""Tag -> what is loaded beside the encoder."""


def unet(*settings, **named):
    return copy.deepcopy(_unet(*settings, **named))


@cache
def _unet(bands: int = 13, classes: int = CLASSES, architecture: str = "unet", depth: int | None = None):
    return build_segmenter(architecture, "resnet18", bands, classes, encoder_depth=depth)


@cache
def pretrained(fusion: str, single: bool = False) -> dict[str, torch.Tensor]:
    bands = {"bands": {"s2": 13}} if single else {}
    with torch.device("meta"):
        model = build_pretrainer(fusion, "resnet18", num_classes=CLASSES, **bands)
    return constants(model.state_dict(), seed=0)


def published(fusion: str) -> dict:
    return lightning(to_published(pretrained(fusion), fusion))


def ours(fusion: str) -> dict:
    return {"state_dict": {f"model.{key}": value for key, value in pretrained(fusion).items()}}


def single() -> dict:
    return lightning(to_published(pretrained("late", single=True), "single"))


def part_of(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def unet_in(state: dict[str, torch.Tensor], modality: str) -> dict[str, torch.Tensor]:
    """The modality's U-Net in a pretrainer's tensors, by a U-Net's own names."""
    if f"networks.{modality}.encoder.conv1.weight" in state:
        return part_of(state, f"networks.{modality}.")
    encoder = {f"encoder.{key}": value for key, value in part_of(state, f"encoders.{modality}.").items()}
    return encoder | {key: value for key, value in state.items() if not key.startswith("encoders.")}


def same(network: torch.nn.Module, before: dict, wanted: dict, loaded: tuple[str, ...]) -> int:
    """Number of tensors loaded, after checking that these are from the file and the others as before."""
    state = network.state_dict()
    for key, value in state.items():
        assert torch.equal(value, (wanted if key.startswith(loaded) else before)[key]), key
    return sum(key.startswith(loaded) for key in state)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Layout and fusion -> a file."""
    folder, kinds = tmp_path_factory.mktemp("files"), [(published, "mid"), (published, "late"), (ours, "mid")]
    return {kind: save(kind[0](kind[1]), folder / f"{i}.pt") for i, kind in enumerate(kinds)}


@pytest.mark.parametrize(("tag", "beside"), LOADED.items())
@pytest.mark.parametrize(
    ("make", "fusion", "modality", "bands"),
    [(published, "mid", "s1", 2), (published, "late", "s2", 13), (ours, "mid", "s2", 13)],
)
def test_every_tag(files, make, fusion, modality, bands, tag, beside):
    segmenter = unet(bands)
    before = {key: value.clone() for key, value in segmenter.network.state_dict().items()}
    report = load_segmenter(segmenter, files[make, fusion], modality, tag)
    count = same(segmenter.network, before, unet_in(pretrained(fusion), modality), ("encoder.", *beside))
    assert report.num_loaded == report.num_expected == sum(report.parts.values()) == count
    assert list(report.parts) == ["encoder", *(prefix.removesuffix(".") for prefix in beside)]
    assert report.source == "cromss"
    assert all(f"{part} {number}" in str(report) for part, number in report.parts.items())


@pytest.mark.parametrize("tag", ["de2", "all"])
def test_single_modal_files(tmp_path, tag):
    segmenter = unet()
    before = {key: value.clone() for key, value in segmenter.network.state_dict().items()}
    report = load_segmenter(segmenter, save(single(), tmp_path / "w.pt"), tag=tag)
    wanted = unet_in(pretrained("late", single=True), "s2")
    assert same(segmenter.network, before, wanted, ("encoder.", *LOADED[tag])) == report.num_loaded


@pytest.mark.parametrize("layout", ["mid2_resnet50_13b", "mid2_resnet50_9b", "late2_resnet50_13b"])
def test_names_of_the_published_files(tmp_path, reference, layout):
    keys = json.loads((reference / "checkpoint_keys.json").read_text())[layout]["keys"]
    state = constants({key: torch.empty(shape, device="meta") for key, shape in keys.items()}, seed=0)
    bands = int(layout.split("_")[2].removesuffix("b"))
    segmenter = build_segmenter("unet", "resnet50", bands, 9)
    report = load_segmenter(segmenter, save(lightning(state, bands), tmp_path / "w.pt"), "s2", "all")
    assert report.parts == {"encoder": 318, "decoder": 60, "segmentation_head": 2}
    prefix = "net.decoder." if layout.startswith("mid") else "net.model2.decoder."
    for key, value in segmenter.network.decoder.state_dict().items():
        assert torch.equal(value, state[prefix + key].to(value.dtype))


def test_a_fine_tuned_unet_gives_all(tmp_path):
    source, target = unet(), unet()
    path = save({"state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "w.pt")
    load_segmenter(target, path, tag="all")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


def test_segmenters_give_and_take_encoders(tmp_path):
    source, target = unet(architecture="pspnet"), unet(architecture="fpn")
    report = load_segmenter(target, save(source.state_dict(), tmp_path / "w.pt"))
    assert (report.layout, report.num_loaded) == ("segmenter", 120)
    state = source.encoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in target.encoder.state_dict().items())


def test_twins_take_both_encoders_and_the_shared_decoder(tmp_path):
    twins = build_twin_segmenter("unet", "resnet18", {"s1": 2, "s2": 13}, CLASSES)
    state = pretrained("mid")
    path = save(published("mid"), tmp_path / "w.pt")
    for modality in ("s1", "s2"):
        load_segmenter(twins, path, modality, "all")
    loaded = twins.network.state_dict()
    for key, value in state.items():
        place = key.replace("encoders.", "encoder.encoders.") if key.startswith("encoders.") else key
        assert torch.equal(loaded[place], value), key
    assert len(loaded) == len(state)
    again = build_twin_segmenter("fpn", "resnet18", {"s1": 2, "s2": 13}, 2)
    own = save({"state_dict": {f"model.{k}": v for k, v in twins.state_dict().items()}}, tmp_path / "own.pt")
    assert load_segmenter(again, own, "s1").prefix == "model.network.encoder.encoders.s1."
    assert torch.equal(again.encoders["s1"].conv1.weight, state["encoders.s1.conv1.weight"])


def test_change_segmenters_take_and_give(tmp_path):
    change = build_change_segmenter(encoder_name="resnet18")
    report = load_segmenter(change, save(published("late"), tmp_path / "w.pt"), "s2", "wocls")
    assert list(report.parts) == ["encoder", "decoder"]
    target = unet()
    own = save({"state_dict": {f"model.{k}": v for k, v in change.state_dict().items()}}, tmp_path / "own.pt")
    load_segmenter(target, own, "s2", "wocls")
    assert torch.equal(target.encoder.conv1.weight, change.encoders["images"].conv1.weight)


MID = r"found net\.encoder1\. \(64, 2, 7, 7\) \[s1\], net\.encoder\. \(64, 13, 7, 7\) \[s2\]"


def broken(change) -> dict:
    content = published("mid")
    change(content["state_dict"])
    return content


NAN = {"net.decoder.blocks.2.conv1.1.weight": torch.full((64,), torch.nan)}
RESHAPED = {"net.decoder.blocks.1.conv1.1.bias": torch.zeros(7)}
WRONG = {
    "extra-classes": (
        lambda: published("mid"),
        {"classes": 8},
        "all",
        r"0\.weight is \(5, 16, 3, 3\), not \(8.*" + MID,
    ),
    "no-decoder": (
        moco,
        {},
        "wocls",
        r"module\.decoder\. is not this decoder, \d+ of its .* is missing; .* found module",
    ),
    "one-missing": (lambda: broken(lambda s: s.pop("net.decoder.blocks.0.conv1.0.weight")), {}, "de1", "is missing"),
    "one-reshaped": (lambda: broken(lambda s: s.update(RESHAPED)), {}, "de2", r"conv1\.1\.bias is \(7,\), not"),
    "nan": (lambda: broken(lambda s: s.update(NAN)), {}, "de3", r"conv1\.1\.weight holds NaN"),
    "other-bands": (lambda: published("mid"), {"bands": 9}, "all", "no encoder takes 9 bands of s2; " + MID),
    "other-depth": (lambda: published("mid"), {"depth": 4}, "wocls", r"net\.decoder\. is not this decoder.*" + MID),
    "too-few-blocks": (lambda: published("mid"), {"depth": 3}, "de4", "tag 'de4': this decoder has 3 blocks"),
    "no-unet": (lambda: published("mid"), {"architecture": "fpn"}, "de1", "only unet has the decoder.*, not fpn"),
    "no-such-tag": (lambda: published("mid"), {}, "de5", "tag 'de5': choose one of encoder, de1"),
    "code": (lambda: {"model": Attack("/nowhere/at/all")}, {}, "all", r"holds a pickled \w+\.system"),
}


@pytest.mark.parametrize(("make", "settings", "tag", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path, make, settings, tag, message):
    segmenter = unet(**settings)
    before = {key: value.clone() for key, value in segmenter.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_segmenter(segmenter, save(make(), tmp_path / "w.pt"), "s2", tag)
    assert "\n" not in str(caught.value)
    assert "w.pt" in str(caught.value) or "tag" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in segmenter.state_dict().items())


def test_faults_outside_the_part_asked_for_do_not_matter(tmp_path):
    content = broken(lambda state: state.update(NAN))
    assert load_segmenter(unet(), save(content, tmp_path / "w.pt"), "s2", "de2").num_loaded == 120 + 2 * 12


@pytest.mark.parametrize("modality", [None, "common"])
def test_twins_want_the_modality(tmp_path, modality):
    twins = build_twin_segmenter("unet", "resnet18", {"s1": 2, "s2": 13}, CLASSES)
    with pytest.raises(WeightsError, match="this model has encoders for s1, s2, name one"):
        load_segmenter(twins, save(published("mid"), tmp_path / "w.pt"), modality)
