"""Foreign checkpoints, re-created layout by layout, loaded strictly and without running code."""

import argparse
import json
import os
import pickle
from functools import cache
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from cromss.models import build_pretrainer, build_segmenter
from cromss.models.published_names import from_published, to_published
from cromss.models.weights import WeightsError, inspect, load_encoder, read_state_dict

torch.set_num_threads(2)


def encoder(bands: int = 13, name: str = "resnet18") -> torch.nn.Module:
    """An encoder of zeros (built without drawing weights: these tests are about names and shapes)."""
    with torch.device("meta"):
        empty = smp.encoders.get_encoder(name, in_channels=bands)
    empty = empty.to_empty(device="cpu")
    for tensor in empty.state_dict().values():
        tensor.zero_()
    return empty


def constants(state_dict: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """One random number for each tensor, spread over its shape: files stay tiny, mix-ups are seen."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: (1 + 9 * torch.rand((), generator=generator)).to(value.dtype).expand(value.shape)
        for key, value in state_dict.items()
    }


@cache
def tensors(bands: int = 13, name: str = "resnet18", seed: int = 0) -> dict[str, torch.Tensor]:
    """What an encoder's file should hold."""
    return constants(encoder(bands, name).state_dict(), seed + bands)


def behind(prefix: str, bands: int = 13, name: str = "resnet18", seed: int = 0) -> dict[str, torch.Tensor]:
    classifier = {f"{prefix}fc.weight": torch.zeros(5, 7), f"{prefix}fc.bias": torch.zeros(5)}
    return {prefix + key: value for key, value in tensors(bands, name, seed).items()} | classifier


def lightning(state_dict: dict) -> dict:
    settings = argparse.Namespace(model_type="resnet50", n_channels=13, gpus=[0, 1])
    return {"epoch": 7, "state_dict": state_dict, "hyper_parameters": settings, "optimizer_states": [{"lr": 0.1}]}


def mid(bands: int = 13, name: str = "resnet18") -> dict:
    decoder = {"net.decoder.blocks.0.conv1.0.weight": torch.zeros(4, 4, 3, 3)}
    return lightning(behind("net.encoder1.", 2, name) | behind("net.encoder.", bands, name) | decoder)


def late(bands: int = 13, name: str = "resnet18") -> dict:
    return lightning(behind("net.model1.encoder.", 2, name) | behind("net.model2.encoder.", bands, name))


def moco(bands: int = 13, name: str = "resnet18") -> dict:
    keys = behind("module.encoder_k.", bands, name, seed=1) | {"module.queue": torch.zeros(8, 8)}
    return {"arch": "resnet50", "state_dict": keys | behind("module.encoder_q.", bands, name)}


def dino(bands: int = 13, name: str = "resnet18") -> dict:
    student = behind("module.backbone.", bands, name, seed=1)
    return {"student": student, "teacher": behind("module.backbone.", bands, name), "args": argparse.Namespace(lr=0.1)}


def decur(bands: int = 13, name: str = "resnet18") -> dict:
    return {"model": behind("module.backbone_1.", 2, name) | behind("module.backbone_2.", bands, name)}


LAYOUTS = [
    (mid, 13, "cromss-mid", "net.encoder.", "s2"),
    (mid, 9, "cromss-mid", "net.encoder.", "s2"),
    (mid, 2, "cromss-mid", "net.encoder1.", "s1"),
    (late, 13, "cromss-late", "net.model2.encoder.", "s2"),
    (late, 2, "cromss-late", "net.model1.encoder.", "s1"),
    (lambda bands: lightning(behind("net.encoder.", bands)), 13, "single", "net.encoder.", "s2"),
    (lambda bands: lightning(behind("net.encoder.", bands)), 2, "single", "net.encoder.", "s1"),
    (moco, 13, "moco", "module.encoder_q.", "s2"),
    (moco, 2, "moco", "module.encoder_q.", "s1"),
    (dino, 13, "dino", "module.backbone.", "s2"),
    (decur, 13, "decur", "module.backbone_2.", "s2"),
    (decur, 2, "decur", "module.backbone_1.", "s1"),
    (lambda bands: behind("backbone.resnet.", bands), 9, "satlas", "backbone.resnet.", "s2"),
    (lambda bands: behind("backbone.backbone.resnet.", bands), 9, "satlas", "backbone.backbone.resnet.", "s2"),
    (lambda bands: behind("", bands), 13, "bare", "", "s2"),
    (lambda bands: {"model_state_dict": behind("", bands)}, 12, "bare", "", "s2"),
    (lambda bands: behind("", bands), 3, "bare", "", None),
    (lambda bands: behind("somebody.s.", bands), 13, "unknown", "somebody.s.", "s2"),
]


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def holds(loaded: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    state = loaded.state_dict()
    return state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(("make", "bands", "layout", "prefix", "modality"), LAYOUTS)
def test_every_layout(tmp_path, make, bands, layout, prefix, modality):
    target = encoder(bands)
    content = make(13) if bands == 2 and make in (mid, late, decur) else make(bands)
    report = load_encoder(target, save(content, tmp_path / "w.pt"))
    assert holds(target, tensors(bands))
    assert (report.layout, report.prefix, report.modality, report.in_channels) == (layout, prefix, modality, bands)
    assert report.num_loaded == report.num_expected == len(tensors(bands))
    assert f"{report.num_loaded}/{report.num_expected} tensors" in str(report)


@pytest.mark.parametrize(("make", "bands"), [(mid, 13), (late, 2), (moco, 13), (dino, 13)])
def test_resnet50_loads_318_of_318(tmp_path, make, bands):
    target = encoder(bands, "resnet50")
    report = load_encoder(target, save(make(13, "resnet50"), tmp_path / "w.pt"))
    assert (report.num_loaded, report.num_expected) == (318, 318)
    assert holds(target, tensors(bands, "resnet50"))


@pytest.mark.parametrize("fusion", ["mid", "late"])
@pytest.mark.parametrize("encoder_name", ["resnet18", "tu-resnet18"])
def test_our_own_checkpoints(tmp_path, fusion, encoder_name):
    with torch.device("meta"):
        model = build_pretrainer(fusion, encoder_name, common_branch=True)
    state = constants(model.state_dict(), seed=0)
    path = save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, tmp_path / "w.ckpt")
    branches = {"mid": "encoders.{}.", "late": "networks.{}.encoder."}[fusion]
    for modality, bands in {"s1": 2, "s2": 13, "common": 15}.items():
        target = encoder(bands, encoder_name)
        report = load_encoder(target, path, source=f"pretrainer-{fusion}")
        assert report.modality == modality
        prefix = branches.format(modality)
        assert holds(target, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def test_safetensors(tmp_path):
    save_file({key: value.contiguous() for key, value in behind("").items()}, tmp_path / "encoder.safetensors")
    target = encoder()
    assert load_encoder(target, tmp_path / "encoder.safetensors").layout == "bare"
    assert holds(target, tensors())


def test_segmenters_give_and_take(tmp_path):
    source, target = build_segmenter("pspnet", "resnet18"), build_segmenter("fpn", "resnet18")
    report = load_encoder(target.encoder, save(source.state_dict(), tmp_path / "w.pt"))
    assert (report.layout, report.num_loaded) == ("segmenter", 120)
    assert holds(target.encoder, source.encoder.state_dict())


@pytest.mark.parametrize("name", ["mobilenet_v2", "tu-efficientnet_b0"])
def test_other_encoders_by_their_own_names(tmp_path, name):
    target = encoder(13, name)
    load_encoder(target, save(behind("module.backbone.", 13, name), tmp_path / "w.pt"))
    assert holds(target, tensors(13, name))


def test_resnet_file_into_timms_wrapper(tmp_path):
    target = encoder(13, "tu-resnet18")
    report = load_encoder(target, save(moco(), tmp_path / "w.pt"))
    assert report.layout == "moco"
    assert holds(target, {f"model.{key}": value for key, value in tensors().items()})


def test_old_files_may_lack_step_counters(tmp_path):
    old = {key: value for key, value in behind("").items() if not key.endswith("num_batches_tracked")}
    target = encoder()
    target.bn1.num_batches_tracked += 9
    report = load_encoder(target, save(old, tmp_path / "w.pt"))
    assert report.num_expected - report.num_loaded == 20
    assert target.bn1.num_batches_tracked == 0
    assert torch.equal(target.conv1.weight, tensors()["conv1.weight"])


def test_half_precision_files_are_read(tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in behind("").items()}
    target = encoder()
    load_encoder(target, save(half, tmp_path / "w.pt"))
    assert target.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(target.conv1.weight.detach(), half["conv1.weight"].float())


def test_old_container_without_zip(tmp_path):
    torch.save(mid(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    target = encoder()
    assert load_encoder(target, tmp_path / "w.pt").layout == "cromss-mid"
    assert holds(target, tensors())


def test_modality_decides_between_equal_band_counts(tmp_path):
    content = {"model": behind("module.backbone_1.") | behind("module.backbone_2.", seed=1)}
    path = save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"more than one encoder takes 13 bands, name the modality; found module"):
        load_encoder(encoder(), path)
    target = encoder()
    assert load_encoder(target, path, modality="s1").prefix == "module.backbone_1."
    assert holds(target, tensors())


def test_inspect(tmp_path):
    report = inspect(save(mid(), tmp_path / "w.pt"))
    assert [(stem.prefix, stem.shape, stem.modality) for stem in report.stems] == [
        ("net.encoder1.", (64, 2, 7, 7), "s1"),
        ("net.encoder.", (64, 13, 7, 7), "s2"),
    ]
    assert (report.layout, report.prefix, report.num_loaded) == ("cromss-mid", None, 0)
    assert "net.encoder1. (64, 2, 7, 7) [s1]" in str(report)
    assert len(report.sha256) == 12
    assert inspect(save(late(), tmp_path / "w2.pt")).sha256 != report.sha256
    single = inspect(save(behind(""), tmp_path / "w3.pt"))
    assert (single.prefix, single.in_channels, single.modality) == ("", 13, "s2")


def test_inspect_without_a_resnet(tmp_path):
    report = inspect(save({"model": {"blocks.0.attn.qkv.weight": torch.zeros(9, 3)}}, tmp_path / "w.pt"))
    assert (report.num_tensors, report.stems, report.layout) == (1, (), "unknown")
    assert "encoders: none" in str(report)


FOUND_MID = r"found net\.encoder1\. \(64, 2, 7, 7\) \[s1\], net\.encoder\. \(64, 13, 7, 7\) \[s2\]"


@pytest.mark.parametrize(
    ("make", "bands", "options", "message"),
    [
        (mid, 9, {}, "no encoder takes 9 bands; " + FOUND_MID),
        (mid, 13, {"modality": "s1"}, "no encoder takes 13 bands of s1; " + FOUND_MID),
        (mid, 13, {"source": "moco"}, "no encoder takes 13 bands in moco; " + FOUND_MID),
        (mid, 13, {"source": "macaw"}, "source 'macaw': choose one of auto, cromss-mid"),
        (lambda: behind("", 3), 13, {}, r"found \(no prefix\) \(64, 3, 7, 7\)"),
        (lambda: behind("", 13, "resnet34"), 13, {}, r"layer1\.2\.conv1\.weight has no place in it"),
        (lambda: behind("", 13, "resnet50"), 13, {}, r"layer1\.0\.conv1\.weight is \(64, 64, 1, 1\), not"),
        (lambda: {"model": {"head.weight": torch.zeros(3, 3)}}, 13, {}, "no encoder takes 13 bands; found none"),
        (lambda: {"epoch": 3}, 13, {}, "no tensors found"),
        (lambda: [1, 2], 13, {}, "no tensors found"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path, make, bands, options, message):
    target = encoder(bands)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_encoder(target, save(make(), tmp_path / "w.pt"), **options)
    assert "\n" not in str(caught.value)
    assert holds(target, before)


def test_a_deeper_encoder_names_what_is_missing(tmp_path):
    with pytest.raises(WeightsError, match=r"layer1\.2\.conv1\.weight is missing"):
        load_encoder(encoder(13, "resnet34"), save(mid(), tmp_path / "w.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_refused(tmp_path, value):
    content = behind("") | {"layer4.1.bn2.running_var": torch.full((512,), value)}
    with pytest.raises(WeightsError, match=r"layer4\.1\.bn2\.running_var holds NaN or infinity"):
        load_encoder(encoder(), save(content, tmp_path / "w.pt"))


class Attack:
    """A pickle that makes a file when it is opened carelessly."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("hidden", [False, True])
def test_code_is_refused_and_not_run(tmp_path, zipped, hidden):
    attack = Attack(tmp_path / "ran")
    content = mid() | {"hyper_parameters": argparse.Namespace(attack=attack)} if hidden else attack
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"w\.pt: holds a pickled \w+\.system, which was not run") as caught:
        inspect(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Attack(tmp_path / "ran"), protocol=2))
    with pytest.raises(WeightsError):
        read_state_dict(tmp_path / "w.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(tmp_path, suffix, share):
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in behind("").items()}, path)
    else:
        save(mid(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match=rf"w{suffix}: cannot be read as weights") as caught:
        load_encoder(encoder(), path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.pt: no such file"):
        inspect(tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match="a folder, not a weights file"):
        inspect(tmp_path)


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
