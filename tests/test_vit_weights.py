"""Checkpoints of ViTs, whoever's they are, load strictly or not at all; positions are fitted to the grid."""

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
    dofa_with_heads,
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
    "dofa-with-heads": (dofa_with_heads, 9, DOFA, "auto", "dofa", "dofa", "", None),
    "mae-s2": (mae, 13, TINY, "auto", "mae", "mae", "", "s2"),
    "mae-s1": (mae, 2, TINY, "mae", "mae", "mae", "", "s1"),
    "mae-split": (headless, 13, TINY, "mae", "bare", "mae", "", "s2"),
    "mae-of-imagenet": (mae, 3, TINY, "auto", "mae", "imagenet", "", None),
    "mae-of-imagenet-told": (mae, 3, TINY, "imagenet", "mae", "imagenet", "", None),
    "dino": (dino, 13, TINY, "auto", "dino", "dino", "module.backbone.", "s2"),
    "dino-of-one-device": (dino_of_one_device, 2, TINY, "dino", "dino", "dino", "backbone.", "s1"),
    "dino-bare": (headless, 13, TINY, "dino", "bare", "dino", "", "s2"),
    "dino-of-imagenet": (dino, 3, TINY, "imagenet", "dino", "imagenet", "module.backbone.", None),
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
    wanted = {TINY: tensors(bands), SCALEMAE: tensors(bands), DOFA: dofa(bands)}.get(name) or tensors(bands, name)
    assert holds(target, {key: value for key, value in wanted.items() if name != SCALEMAE or key != "pos_embed"})
    count = {TINY: 42, SATMAE: 48, SCALEMAE: 41, DOFA: 60}[name]
    assert (report.num_loaded, report.num_expected, report.parts) == (count, count, {"encoder": count})
    assert (report.layout, report.source, report.prefix, report.modality) == (layout, told, prefix, modality)
    assert (report.kind, report.in_channels) == {SATMAE: ("satmae", 10), DOFA: ("dofa", None)}.get(name, ("vit", bands))
    assert f"{count}/{count} tensors" in str(report)
    assert report.notes == ()


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


def changed(content: dict, **values: torch.Tensor | None) -> dict:
    """A container with some of its tensors replaced, those for `None` left out."""
    (container,) = (key for key, value in content.items() if key in ("model", "state_dict", "teacher"))
    replaced = content[container] | {key.replace("__", "."): value for key, value in values.items()}
    return content | {container: {key: value for key, value in replaced.items() if value is not None}}


def grouped(*bands: int) -> dict:
    content = satmae()
    own = {key: value for key, value in content["model"].items() if "patch_embed" not in key}
    groups = {f"patch_embed.{group}.proj.weight": torch.zeros(192, count, 8, 8) for group, count in enumerate(bands)}
    return content | {"model": own | groups}


def shallow() -> dict:
    return {"model": {key: value for key, value in tensors().items() if not key.startswith("blocks.2.")}}


# how the file is made | encoder: bands, name, options of load_encoder | what the line says
WRONG = {
    "patch": (
        lambda: {"model": tensors(13, "vit_small_patch8_224")},
        (13, "vit_small_patch16_224"),
        {},
        r"w\.pt: patch 8 in the file, 16 in --model_type/--patch_size; found \(no prefix\) \(384, 13, 8, 8\)",
    ),
    "patch-of-satmae": (satmae, (10, SATMAE, 16), {}, "patch 8 in the file, 16 in --model_type/--patch_size"),
    "patch-of-dofa": (dofa, (13, DOFA, 8), {}, "patch 16 in the file, 8 in --model_type/--patch_size"),
    "width": (mae, (13, "vit_small_patch16_224"), {}, "width 192 in the file, 384 in --model_type"),
    "depth": (shallow, (13,), {}, "depth 2 in the file, 3 in --model_type"),
    "more-groups": (
        lambda: grouped(2, 2, 2, 2, 2),
        (10, SATMAE),
        {},
        "groups of 4, 4, 2 bands wanted, the file has 5 groups of 2, 2, 2, 2, 2; found",
    ),
    "other-groups": (
        lambda: grouped(4, 2, 4),
        (10, SATMAE),
        {},
        "groups of 4, 4, 2 bands wanted, the file has 3 groups of 4, 2, 4",
    ),
    "groups-of-13-bands": (lambda: grouped(5, 4, 4), (10, SATMAE), {}, "the file has 3 groups of 5, 4, 4"),
    "satmae-into-vit": (satmae, (10,), {}, "no vit encoder in it; --model_type must .* found .* 4\\+4\\+2.*satmae"),
    "vit-into-satmae": (lambda: mae(10), (10, SATMAE), {}, "no satmae encoder in it; --model_type must .*vit"),
    "vit-into-dofa": (mae, (13, DOFA), {}, "no dofa encoder in it; --model_type must .*vit"),
    "dofa-into-vit": (dofa, (13,), {}, "no vit encoder in it; --model_type must .*any.*dofa"),
    "satmae-into-dofa": (satmae, (10, DOFA), {}, "no dofa encoder in it"),
    "resnet-into-vit": (foreign.moco, (13,), {}, "no vit encoder in it; --model_type must .*resnet"),
    "bands": (mae, (9,), {}, r"no encoder takes 9 bands; found \(no prefix\) \(192, 13, 16, 16\) \[s2\] \(vit\)"),
    "bands-of-scalemae": (scalemae, (13, SCALEMAE), {}, r"no encoder takes 13 bands; found .* \(192, 3, 16, 16\)"),
    "modality": (mae, (13,), {"modality": "s1"}, "no encoder takes 13 bands of s1"),
    "source": (mae, (13,), {"source": "dino"}, "no encoder takes 13 bands in dino; found"),
    "source-of-satmae": (satmae, (10, SATMAE), {"source": "mae"}, "no encoder takes 10 bands in mae"),
    "source-of-dofa": (dofa, (13, DOFA), {"source": "satmae"}, "no encoder takes any bands in satmae"),
    "nan": (
        lambda: changed(mae(), blocks__2__norm1__bias=torch.full((192,), torch.nan)),
        (13,),
        {},
        r"blocks\.2\.norm1\.bias holds NaN or infinity; --model_type must",
    ),
    "nan-in-positions": (
        lambda: changed(mae(), pos_embed=torch.full((1, 145, 192), torch.nan)),
        (13,),
        {},
        "pos_embed holds NaN or infinity",
    ),
    "whole-numbers": (
        lambda: changed(mae(), pos_embed=torch.ones(1, 145, 192, dtype=torch.int8)),
        (13,),
        {},
        r"pos_embed is torch\.int8, not torch\.float32",
    ),
    "one-missing": (
        lambda: changed(mae(), blocks__1__attn__qkv__bias=None),
        (13,),
        {},
        r"1 of its tensors do not fit: blocks\.1\.attn\.qkv\.bias is missing",
    ),
    "block-missing": (
        lambda: changed(mae(), **{key: None for key in tensors() if key.startswith("blocks.1.")}),
        (13,),
        {},
        r"12 of its tensors do not fit: blocks\.1\.norm1\.weight is missing",
    ),
    "no-norm": (lambda: changed(mae(), norm__weight=None), (13,), {}, r"norm\.weight is missing"),
    "no-positions": (lambda: changed(mae(), pos_embed=None), (13,), {}, "pos_embed is missing"),
    "no-class-token": (lambda: changed(mae(), cls_token=None), (13,), {}, "cls_token is missing"),
    "no-channel-embedding": (lambda: changed(satmae(), channel_embed=None), (10, SATMAE), {}, "channel_embed is miss"),
    "no-generator": (
        lambda: {key: value for key, value in dofa().items() if "fc_weight" not in key},
        (13, DOFA),
        {},
        "no encoder takes any bands; found none",
    ),
    "one-too-many": (
        lambda: changed(mae(), blocks__0__ls1__gamma=torch.ones(192)),
        (13,),
        {},
        r"blocks\.0\.ls1\.gamma has no place in it",
    ),
    "positions-no-square": (
        lambda: changed(mae(), pos_embed=torch.ones(1, 196, 192)),
        (13,),
        {},
        r"w\.pt: pos_embed of 196 tokens is no square grid after 1 of class and registers; --model_type must",
    ),
    "positions-of-no-patch": (lambda: changed(mae(), pos_embed=torch.ones(1, 1, 192)), (13,), {}, "is no square grid"),
    "positions-empty": (lambda: changed(mae(), pos_embed=torch.ones(1, 0, 192)), (13,), {}, "is no square grid"),
    "positions-flat": (lambda: changed(mae(), pos_embed=torch.ones(197, 192)), (13,), {}, r"pos_embed is \(197, 192\)"),
    "positions-too-many": (
        lambda: changed(mae(), pos_embed=torch.ones(2, 145, 192)),
        (13,),
        {},
        r"pos_embed is \(2, 145, 192\), not \(1, 197, 192\)",
    ),
    "positions-narrower": (
        lambda: changed(mae(), pos_embed=torch.ones(1, 145, 144)),
        (13,),
        {},
        r"pos_embed is \(1, 197, 144\), not \(1, 197, 192\)",
    ),
}


@pytest.mark.parametrize(("make", "settings", "options", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path, make, settings, options, message):
    target = vit(*settings)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_encoder(target, save(make(), tmp_path / "w.pt"), **options)
    assert "\n" not in str(caught.value)
    assert "w.pt: " in str(caught.value)
    assert holds(target, before)


@pytest.mark.parametrize("make", [mae, satmae, dofa])
def test_a_resnet_takes_no_vit(tmp_path, make):
    with pytest.raises(WeightsError, match="no resnet encoder in it; --model_type must be the encoder"):
        load_encoder(foreign.encoder(), save(make(), tmp_path / "w.pt"))


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
    assert report.notes == (f"pos_embed interpolated from {grids}",)
    assert str(report).endswith(f"bands; pos_embed interpolated from {grids}")
    state = target.state_dict()
    wanted = dofa(bands) if name == DOFA else tensors(bands, name)
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
