"""Checkpoints of ViTs, whoever's they are, load as a whole; positions are fitted to the grid."""

import foreign
import pytest
import torch
from foreign import constants, holds, save
from foreign_vit import (
    DEPTH,
    DOFA,
    SATMAE,
    SCALEMAE,
    TINY,
    bare,
    behind,
    dino,
    dino_of_one_device,
    dofa,
    dofa_of_torchgeo,
    encoder,
    headless,
    mae,
    moco,
    satmae,
    satmae_plus_plus,
    scalemae,
    tensors,
    vit,
)

from cromss.models import build_pretrainer, build_segmenter, build_twin_segmenter
from cromss.models.sources import SOURCES
from cromss.models.weights import WeightsError, check_bands, inspect, load_encoder, load_segmenter
from cromss.sensors import S2_SUBSETS

pytestmark = pytest.mark.usefixtures("one_thread")

KERNEL_ORDER = "kernels read as (C, k, k, D): files from before 2024-06 have another order and look the same"

# file: how it is made, its bands | asked for: encoder, source | found: layout, source, prefix, modality
FOREIGN = {
    "satmae": (satmae, 10, SATMAE, "auto", "satmae", "satmae", "", "s2"),
    "satmae-told": (satmae, 10, SATMAE, "satmae", "satmae", "satmae", "", "s2"),
    "satmae-plus-plus": (satmae_plus_plus, 10, SATMAE, "auto", "satmae", "satmae", "", "s2"),
    "scalemae": (scalemae, 3, SCALEMAE, "auto", "mae", "scalemae", "", None),
    "scalemae-told": (scalemae, 3, SCALEMAE, "scalemae", "mae", "scalemae", "", None),
    "scalemae-without-decoder": (headless, 3, SCALEMAE, "auto", "bare", "scalemae", "", None),
    "dofa-s2": (dofa, 13, DOFA, "auto", "dofa", "dofa", "", None),
    "dofa-s1": (dofa, 2, DOFA, "dofa", "dofa", "dofa", "", None),
    "mae-s2": (mae, 13, TINY, "auto", "mae", "mae", "", "s2"),
    "mae-s1": (mae, 2, TINY, "mae", "mae", "mae", "", "s1"),
    "mae-split": (headless, 13, TINY, "mae", "bare", "mae", "", "s2"),
    "mae-of-imagenet": (mae, 3, TINY, "auto", "mae", "imagenet", "", None),
    "mae-of-imagenet-told": (mae, 3, TINY, "imagenet", "mae", "imagenet", "", None),
    "dino": (dino, 13, TINY, "auto", "dino", "dino", "module.backbone.", "s2"),
    "dino-of-one-device": (dino_of_one_device, 2, TINY, "dino", "dino", "dino", "backbone.", "s1"),
    "dino-bare": (headless, 13, TINY, "dino", "bare", "dino", "", "s2"),
    "dino-of-imagenet": (dino, 3, TINY, "auto", "dino", "imagenet", "module.backbone.", None),
    "dino-of-imagenet-told": (dino, 3, TINY, "imagenet", "dino", "imagenet", "module.backbone.", None),
    "moco-s2": (moco, 13, TINY, "auto", "moco", "moco", "module.base_encoder.", "s2"),
    "moco-s1": (moco, 2, TINY, "moco", "moco", "moco", "module.base_encoder.", "s1"),
    "timm": (bare, 3, TINY, "imagenet", "bare", "imagenet", "", None),
    "timm-untold": (bare, 13, TINY, "auto", "bare", "bare", "", "s2"),
}


@pytest.mark.parametrize(
    ("make", "bands", "name", "source", "layout", "told", "prefix", "modality"), FOREIGN.values(), ids=FOREIGN
)
def test_all_of_all(tmp_path, make, bands, name, source, layout, told, prefix, modality):
    target = vit(bands, name)
    report = load_encoder(target, save(make(bands), tmp_path / "w.pt"), source=source)
    wanted = tensors(bands, TINY if name == SCALEMAE else name, seed=-bands if name == DOFA else 0)
    assert holds(target, {key: value for key, value in wanted.items() if name != SCALEMAE or key != "pos_embed"})
    count = {TINY: 42, SATMAE: 48, SCALEMAE: 41, DOFA: 62}[name]
    assert (report.num_loaded, report.num_expected, report.parts) == (count, count, {"encoder": count})
    assert (report.layout, report.source, report.prefix, report.modality) == (layout, told, prefix, modality)
    assert (report.kind, report.in_channels) == {SATMAE: ("satmae", 10), DOFA: ("dofa", None)}.get(name, ("vit", bands))
    assert f"{count}/{count} tensors" in str(report)
    assert report.notes == ((KERNEL_ORDER,) if name == DOFA else ())


def test_a_final_norm_that_a_file_of_dofa_lacks_starts_as_nothing(tmp_path):
    target = vit(9, DOFA)
    report = load_encoder(target, save(dofa_of_torchgeo(9), tmp_path / "w.pt"))
    norm = {"norm.weight": torch.ones(192), "norm.bias": torch.zeros(192)}
    assert holds(target, tensors(9, DOFA, seed=-9) | norm)
    assert (report.num_loaded, report.num_expected, report.parts) == (60, 62, {"encoder": 60})
    assert report.notes == ("final norm not in the file: it starts as 1 and 0", KERNEL_ORDER)
    assert f"60/62 tensors (encoder 60) from dofa (no prefix), unknown sensor, any bands; {report.notes[0]}; " in str(
        report
    )


def test_registers_and_layer_scale_of_dinov2(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    target = vit(3, name)
    path = save(behind("", 3, name) | {"mask_token": torch.zeros(1, 384)}, tmp_path / "w.pt")
    report = load_encoder(target, path, source="imagenet")
    assert holds(target, tensors(3, name))
    assert {"reg_token", "blocks.2.ls2.gamma"} < tensors(3, name).keys()
    assert report.num_loaded == len(tensors(3, name))
    report = load_encoder(vit(3, name, image_size=224), path)
    assert report.notes == ("pos_embed interpolated from 37x37 to 14x14",)


OURS = {
    "mid": ("model.encoders.s2.vit.", "pretrainer-mid", "s2"),
    "late": ("model.networks.s1.encoder.vit.", "pretrainer-late", "s1"),
    "segmenter": ("model.network.encoder.vit.", "segmenter", None),
    "twins": ("model.network.encoder.encoders.s1.vit.", "segmenter", "s1"),
    "siamese": ("model.network.encoder.encoders.images.vit.", "segmenter", None),
    "encoder": ("vit.", "bare", None),
}


@pytest.mark.parametrize(("prefix", "layout", "modality"), OURS.values(), ids=OURS)
@pytest.mark.parametrize(("name", "bands"), [(TINY, 3), (SATMAE, 10), (DOFA, 3)])
def test_our_own_names(tmp_path, prefix, layout, modality, name, bands):
    pyramid = {prefix.removesuffix("vit.") + "pyramid.0.0.weight": torch.zeros(4, 4, 2, 2)}
    target = encoder(bands, name)
    report = load_encoder(target, save({"state_dict": behind(prefix, bands, name) | pyramid}, tmp_path / "w.pt"))
    assert holds(target.vit, tensors(bands, name))
    own = layout == "bare" and name != TINY
    assert (report.layout, report.prefix) == (name.split("_")[0] if own else layout, prefix)
    assert report.modality == (modality or ("s2" if name == SATMAE else None))
    assert report.notes == ((KERNEL_ORDER,) if name == DOFA and report.source != "cromss" else ())


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_our_pretrainers_give_and_segmenters_take(tmp_path, fusion):
    model = build_pretrainer(fusion, TINY, num_classes=3)
    state = constants(model.state_dict(), seed=0)
    path = save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, tmp_path / "w.ckpt")
    twins = build_twin_segmenter("upernet", TINY, {"s1": 2, "s2": 13}, 2)
    for modality, prefix in {"s1": "s1.", "s2": "s2."}.items():
        report = load_segmenter(twins, path, modality)
        assert (report.modality, report.source, report.num_loaded) == (modality, "cromss", 150)
        start = f"encoders.{prefix}vit." if fusion == "mid" else f"networks.{prefix}encoder.vit."
        assert holds(twins.encoders[modality], {k.removeprefix(start): v for k, v in state.items() if start in k})
    with pytest.raises(WeightsError, match=r"no encoder takes 3 bands; found model\.(encoders|networks)\.s1\."):
        load_encoder(vit(3), path)


def test_the_modality_decides_between_encoders_of_any_bands(tmp_path):
    content = behind("model.encoders.s1.vit.", 2, DOFA) | behind("model.encoders.s2.vit.", 13, DOFA)
    card = {"bands": {"s1": ["VV", "VH"]}}
    path = save({"state_dict": content, "cromss": card}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="more than one encoder takes any bands, name the modality; found"):
        load_encoder(vit(2, DOFA), path)
    target = vit(2, DOFA)
    report = load_encoder(target, path, "s1")
    assert holds(target, tensors(2, DOFA))
    assert (report.modality, report.bands) == ("s1", ("VV", "VH"))


def test_the_decoder_of_a_vit_is_not_offered(tmp_path):
    segmenter = build_segmenter("unet", TINY, 13, 2)
    with pytest.raises(WeightsError, match="tag 'wocls': a ViT has no decoder of these weights; only encoder"):
        load_segmenter(segmenter, save(mae(), tmp_path / "w.pt"), tag="wocls")


@pytest.mark.parametrize(
    ("make", "bands", "kind", "line"),
    [
        (mae, 13, "vit", "(no prefix) (192, 13, 16, 16) [s2] (vit)"),
        (moco, 2, "vit", "module.base_encoder. (192, 2, 16, 16) [s1] (vit)"),
        (satmae, 10, "satmae", "(no prefix) (192, 4+4+2, 8, 8) [s2] (satmae)"),
        (dofa, 13, "dofa", "(no prefix) (192, any, 16, 16) (dofa)"),
        (foreign.bare, 13, "resnet", "(no prefix) (64, 13, 7, 7) [s2] (resnet)"),
    ],
)
def test_inspect(tmp_path, make, bands, kind, line):
    report = inspect(save(make(bands), tmp_path / "w.pt"))
    assert line in str(report)
    assert {stem.kind for stem in report.stems} == {kind}
    assert report.kind == (kind if len(report.stems) == 1 else None)
    assert report.source in SOURCES


def test_inspect_lists_every_kind(tmp_path):
    content = foreign.behind("a.") | behind("b.", 2) | behind("c.", 10, SATMAE) | behind("d.", 2, DOFA)
    report = inspect(save(content, tmp_path / "w.pt"))
    assert [(stem.prefix, stem.kind, stem.depth) for stem in report.stems] == [
        *(("a.", "resnet", 0), ("b.", "vit", DEPTH), ("c.", "satmae", DEPTH), ("d.", "dofa", DEPTH))
    ]
    assert "b. (192, 2, 16, 16) [s1] (vit), c. (192, 4+4+2, 8, 8) [s2] (satmae)" in str(report)


@pytest.mark.parametrize(
    ("make", "bands", "name", "image_size", "grids"),
    [
        (mae, 13, TINY, 256, "14x14 to 16x16"),
        (bare, 13, TINY, 96, "14x14 to 6x6"),
        (satmae, 10, SATMAE, 256, "12x12 to 32x32"),
        (dofa, 2, DOFA, 256, "14x14 to 16x16"),
    ],
)
def test_positions_are_interpolated_and_it_is_said(tmp_path, make, bands, name, image_size, grids):
    target = vit(bands, name, image_size=image_size)
    report = load_encoder(target, save(make(bands), tmp_path / "w.pt"))
    assert report.notes[0] == f"pos_embed interpolated from {grids}"
    assert f"bands; pos_embed interpolated from {grids}" in str(report)
    state = target.state_dict()
    wanted = tensors(bands, name, seed=-bands if name == DOFA else 0)
    torch.testing.assert_close(state["pos_embed"], wanted["pos_embed"][:, :1].expand_as(state["pos_embed"]))
    assert all(torch.equal(state[key], wanted[key]) for key in state.keys() - {"pos_embed"})
    assert report.num_loaded == report.num_expected == len(state)


def test_scalemae_has_no_positions_to_interpolate(tmp_path):
    report = load_encoder(vit(3, SCALEMAE, image_size=256), save(scalemae(), tmp_path / "w.pt"))
    assert (report.notes, report.num_loaded) == ((), 41)


def test_our_scalemae_is_cromss(tmp_path):
    path = save({"state_dict": behind("model.encoders.s2.vit.", 3, SCALEMAE)}, tmp_path / "w.pt")
    assert load_encoder(vit(3, SCALEMAE), path).source == "cromss"


@pytest.mark.parametrize(
    ("make", "bands", "name", "fed", "fits"),
    [
        (mae, 3, TINY, S2_SUBSETS[3], True),
        (mae, 3, TINY, ("R", "G", "B"), True),
        (mae, 3, TINY, S2_SUBSETS[3][::-1], False),
        (mae, 3, TINY, ("NIR", "R", "G"), False),
        (scalemae, 3, SCALEMAE, ("B2", "B3", "B4"), False),
        (satmae, 10, SATMAE, S2_SUBSETS[10], True),
        (satmae, 10, SATMAE, S2_SUBSETS[10][::-1], False),
        (dofa, 9, DOFA, S2_SUBSETS[92], True),
        (dofa, 2, DOFA, ("VH", "VV"), True),
    ],
)
def test_bands_that_are_fed(tmp_path, make, bands, name, fed, fits):
    report = load_encoder(vit(bands, name), save(make(bands), tmp_path / "w.pt"))
    if fits:
        check_bands(report, fed)
        return
    with pytest.raises(WeightsError, match=rf"w\.pt: trained on bands .*, but {' '.join(fed)} are fed"):
        check_bands(report, fed)


def test_half_precision_files_are_read(tmp_path):
    target = vit(image_size=256)
    half = {key: value.half() for key, value in tensors().items()}
    report = load_encoder(target, save(half, tmp_path / "w.pt"))
    assert report.notes
    assert target.pos_embed.dtype == torch.float32
    torch.testing.assert_close(target.norm.weight.detach(), half["norm.weight"].float())
