"""ViT encoders: the pyramid's contract, every family through the shared tester, names and options refused."""

import numpy as np
import pytest
import torch
from model_tester import batch, check_frozen, check_trains_whole, check_travels

from cromss.encoder_names import VIT_HEADS
from cromss.models import build_change_segmenter, build_pretrainer, build_segmenter, build_twin_segmenter
from cromss.models.vit import STRIDES, ViTEncoder, ViTOptions, backbone, build_vit_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = "vit_tiny_patch16_224"
SMALL = ViTOptions(image_size=64)
FAMILIES = {
    PLAIN: {"in_channels": 6},
    "satmae_tiny_patch8_96": {"in_channels": 10},
    "scalemae_tiny_patch16_224": {"in_channels": 3},
    "dofa_tiny_patch16_224": {"in_channels": 2, "wavelengths": (5.405, 5.405)},
}


def encoder(name: str = PLAIN, in_channels: int = 4, options: ViTOptions = SMALL, **more) -> ViTEncoder:
    return build_vit_encoder(name, in_channels, options, **more).eval()


def network(kind: str, architecture: str, name: str = PLAIN):
    if kind == "twin":
        return build_twin_segmenter(architecture, name, {"s1": 2, "s2": 4}, 4, vit=SMALL)
    if kind == "change":
        return build_change_segmenter(architecture, name, 3, 4, vit=SMALL)
    return build_segmenter(architecture, name, num_classes=4, vit=SMALL, **FAMILIES[name])


@pytest.mark.parametrize(
    ("kind", "name", "architecture"),
    [("single", PLAIN, architecture) for architecture in VIT_HEADS]
    + [("single", name, "upernet") for name in FAMILIES if name != PLAIN]
    + [(kind, PLAIN, architecture) for kind in ("twin", "change") for architecture in ("fpn", "segmenter")],
)
def test_every_head_takes_every_vit_and_kind_of_input(kind, name, architecture, tmp_path):
    model = network(kind, architecture, name)
    check_trains_whole(model)
    model.zero_grad()
    check_frozen(model)
    check_travels(model, network(kind, architecture, name), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "architecture"),
    [*((PLAIN, head) for head in VIT_HEADS), ("vit_small_patch14_dinov2", "upernet"), ("satmae_tiny_patch8_96", "fpn")],
)
def test_sizes_of_the_published_sets(name, architecture):
    with torch.device("meta"):
        model = build_segmenter(architecture, name, in_channels=10, num_classes=4).eval()
    for size in (33, 510):
        assert model(torch.empty(2, 10, size, size, device="meta")).shape == (2, 4, size, size)


@pytest.mark.parametrize("channels", [2, 9, 13])
def test_band_counts(channels):
    model = build_segmenter("fpn", PLAIN, in_channels=channels, vit=SMALL).eval()
    with torch.no_grad():
        assert model(batch(channels, 40, 72)).shape == (2, 8, 40, 72)
    with pytest.raises(ValueError, match=f"images: this model takes {channels} bands"):
        model(batch(channels + 1))


@pytest.mark.parametrize("patch_size", [4, 8, 14, 16, 32])
def test_a_pyramid_in_the_contract_of_smp(patch_size):
    made = encoder(options=ViTOptions(patch_size=patch_size, image_size=64))
    assert made.output_stride == 32
    with torch.no_grad():
        features = made(batch(4, 64, 96))
    assert len(features) == len(made.out_channels) == 6
    for channels, stride, level in zip(made.out_channels, (1, 2, *STRIDES), features):
        assert level.shape == (2, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("vit_small_patch16_224", [2, 5, 8, 11]),
        ("vit_base_patch8_224", [2, 5, 8, 11]),
        ("vit_large_patch16_224", [5, 11, 17, 23]),
        ("satmae_large_patch8_96", [5, 11, 17, 23]),
    ],
)
def test_levels_come_from_evenly_spaced_blocks(name, blocks):
    with torch.device("meta"):
        assert build_vit_encoder(name, 10).blocks == blocks


@torch.no_grad()
def test_levels_are_the_normalised_tokens_after_those_blocks():
    made = build_vit_encoder(PLAIN, 4, SMALL, pyramid=False).eval()
    images, vit, maps = batch(4, 64, 32), made.vit, []
    tokens = vit._pos_embed(vit.patch_embed(images))
    for i, block in enumerate(vit.blocks):
        tokens = block(tokens)
        if i in (2, 5, 8, 11):
            maps.append(vit.norm(tokens))
    for level, expected in zip(made(images)[2:], maps, strict=True):
        for row, column in np.ndindex(4, 2):
            torch.testing.assert_close(level[:, :, row, column], expected[:, 1 + 2 * row + column])


@torch.no_grad()
def test_images_are_resized_where_a_patch_is_no_power_of_two():
    made = encoder(options=ViTOptions(patch_size=14, image_size=64))
    assert made.vit.patch_embed.grid_size == (4, 4)
    images = batch(4, 64, 96)
    resized = torch.nn.functional.interpolate(images, size=(56, 84), mode="bilinear", antialias=True)
    tokens = made.vit.forward_features(resized)[:, 1:]
    torch.testing.assert_close(made.maps(images)[3], tokens.unflatten(1, (4, 6)).permute(0, 3, 1, 2))


@torch.no_grad()
def test_channel_groups_are_averaged():
    made = encoder("satmae_tiny_patch8_96", 10)
    tokens = made.vit.forward_features(batch(10, 64, 32))[:, 1:]
    by_group = tokens.view(2, 3, 8, 4, 192)
    torch.testing.assert_close(made.maps(batch(10, 64, 32))[3], by_group.mean(1).permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_weights_fill_is_the_vit_alone(name):
    made = encoder(name, **FAMILIES[name])
    assert backbone(made) is made.vit
    assert not any("pyramid" in key or "head" in key for key in backbone(made).state_dict())
    resnet = torch.nn.Conv2d(1, 1, 1)
    assert backbone(resnet) is resnet


def test_patch_and_image_size_win_over_the_name():
    made = encoder(PLAIN, options=ViTOptions(patch_size=8, image_size=100))
    assert made.vit.patch_embed.proj.kernel_size == (8, 8)
    assert made.vit.pos_embed.shape == (1, 1 + 16 * 16, 192)
    with torch.device("meta"):
        named = build_vit_encoder("satmae_large_patch8_96", 10).vit
    assert named.pos_embed.shape == (1, 1 + 12 * 12, 768)
    assert len(named.blocks) == 24


def test_scalemae_is_told_of_ten_metre_pixels():
    assert encoder("scalemae_tiny_patch16_224", 3).vit.resolution == 10


def test_drop_path_rises_to_its_rate_and_rests_in_evaluation():
    made = encoder(options=ViTOptions(image_size=64, drop_path=0.3))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in made.vit.blocks]
    assert rates == pytest.approx([0.3 * i / 11 for i in range(12)])
    with torch.no_grad():
        assert torch.equal(made(batch(4))[5], made(batch(4))[5])
        made.train()
        assert not torch.equal(made(batch(4))[5], made(batch(4))[5])


@pytest.mark.parametrize("fusion", ["mid", "late"])
def test_twins_are_pretrained_with_upernet(fusion):
    options = ViTOptions(image_size=64, drop_path=0.1)
    model = build_pretrainer(fusion, PLAIN, {"s1": 2, "s2": 13}, 5, common_branch=True, vit=options)
    logits = model(s1=batch(2, 40, 32), s2=batch(13, 40, 32))
    assert {branch: tuple(value.shape) for branch, value in logits.items()} == dict.fromkeys(
        ("s1", "s2", "common"), (2, 5, 40, 32)
    )
    sum(value.square().mean() for value in logits.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    shared = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert shared == ({"encoders", "decoder", "segmentation_head"} if fusion == "mid" else {"networks"})


def test_dofa_twins_share_wavelengths_with_the_common_branch():
    waves = {"s1": (5.405, 5.405), "s2": (0.49, 0.56, 0.665)}
    model = build_pretrainer(
        "mid", "dofa_tiny_patch16_224", {"s1": 2, "s2": 3}, 4, common_branch=True, vit=SMALL, wavelengths=waves
    )
    told = {branch: encoder.vit.patch_embed.wavelengths.tolist() for branch, encoder in model.encoders.items()}
    assert told == {
        name: pytest.approx(values) for name, values in (waves | {"common": waves["s1"] + waves["s2"]}).items()
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder_name": "vit_smal_patch16_224"}, "no such encoder; did you mean vit_small_patch16_224"),
        ({"encoder_name": "vit_tiny"}, "did you mean vit_tiny_patch16_224"),
        ({"encoder_name": "tu-vit_qqqqqqqqqqqqqqqq_patchqqqqqqqq"}, "did you mean vit_small_patch16_224"),
        ({"encoder_name": "tu-vit_small_patch16_224"}, "ViTs go without tu-, vit_small_patch16_224"),
        ({"encoder_name": "vit_relpos_small_patch16_224"}, "no plain ViT; choose such as vit_small_patch16_224"),
        ({"encoder_name": "vit_base_patch16_rope_224"}, "no plain ViT; choose such as vit_small_patch16_224"),
        ({"encoder_name": "vit_base_r50_s16_224"}, "a plain ViT is wanted, such as vit_small_patch16_224"),
        ({"encoder_name": "satmae_giant_patch8_96"}, "its names are such as satmae_large_patch.*tiny, small"),
        ({"encoder_name": "dofa_base_patch16"}, "its names are such as dofa_large_patch16_224"),
        ({"encoder_name": "satmae_tiny_patch8_96", "in_channels": 13}, "takes the 10 bands B2 .*got 13"),
        ({"encoder_name": "dofa_tiny_patch16_224", "in_channels": 4}, r"wavelengths of the 4 bands.*\(--wavelengths\)"),
        ({"architecture": "pspnet"}, "choose one of unet, fpn, upernet, segmenter with vit_tiny"),
        ({"architecture": "pspnett"}, "choose one of unet, fpn, upernet, segmenter$"),
        ({"architecture": "segmenter", "encoder_name": "resnet18"}, "choose one of unet, .*upernet with resnet18"),
        ({"encoder_depth": 3}, "encoder_depth 3: vit_tiny_patch16_224 has no stages"),
        ({"encoder_name": "resnet18", "vit": ViTOptions(drop_path=0.1)}, "drop_path 0.1: only for ViTs"),
        ({"encoder_name": "resnet18", "vit": ViTOptions(image_size=96)}, "image_size 96: only for ViTs"),
        ({"encoder_name": "satmae_tiny_patch8_96", "encoder_weights": "imagenet", "in_channels": 10}, "timm has none"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_segmenter(**({"architecture": "upernet", "encoder_name": PLAIN} | settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vit_tiny", "vits16", "ViT-small", "deit_tiny_patch16_224"])
def test_names_suggested_can_be_built(name):
    with pytest.raises(ValueError, match=r"no such encoder; did you mean .*\?") as caught, torch.device("meta"):
        build_segmenter("unet", name)
    for suggested in str(caught.value).partition("did you mean ")[2].removesuffix("?").split(", "):
        with torch.device("meta"):
            build_segmenter("unet", suggested)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        (
            "vit_small_patch16_224.foo",
            False,
            "timm has no such weights; of this architecture vit_small_patch16_224.aug",
        ),
        ("vit_small_patch16_224.foo", True, "timm has no such weights; of this architecture vit_small_patch16_224.aug"),
        ("vit_giant_patch14_224", True, "timm has no such weights; of this architecture none"),
        ("vit_small_patch16_224:foo", False, "no plain ViT; choose such as vit_small_patch16_224"),
        ("vit_smal_patch16_224", False, "no plain ViT; choose such as vit_small_patch16_224"),
        ("resnet50", False, "a plain ViT is wanted, such as vit_small_patch16_224"),
    ],
)
def test_names_and_weights_that_timm_does_not_have(name, pretrained, message):
    with pytest.raises(ValueError, match=f"encoder_name '{name}': {message}") as caught:
        encoder(name, pretrained=pretrained)
    assert "\n" not in str(caught.value)


def test_weights_may_be_named_and_are_not_loaded_unasked():
    with torch.device("meta"):
        assert encoder("vit_tiny_patch16_224.augreg_in21k").vit.embed_dim == 192


def test_errors_inside_timm_stay_what_they_are(monkeypatch):
    def fail(*_, **__):
        raise TypeError("from deep inside")

    monkeypatch.setattr("timm.models.vision_transformer.VisionTransformer.__init__", fail)
    with pytest.raises(TypeError, match="from deep inside"):
        encoder()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (PLAIN, {"patch_size": -1}, "patch_size -1 of vit_tiny_patch16_224: must be 4 to 32"),
        (PLAIN, {"patch_size": 3}, "patch_size 3 of vit_tiny_patch16_224: must be 4 to 32"),
        (PLAIN, {"patch_size": 33}, "patch_size 33 of"),
        (PLAIN, {"image_size": -1}, "image_size -1 of vit_tiny_patch16_224: must be 16 to 8192"),
        (PLAIN, {"image_size": 15}, "image_size 15 of"),
        (PLAIN, {"image_size": 8193}, "image_size 8193 of"),
        (PLAIN, {"drop_path": 2}, "drop_path 2 of vit_tiny_patch16_224: must be at least 0 and under 1"),
        (PLAIN, {"drop_path": 1}, "drop_path 1 of"),
        (PLAIN, {"drop_path": -0.1}, "drop_path -0.1 of"),
        (PLAIN, {"drop_path": float("nan")}, "drop_path nan of"),
        ("satmae_tiny_patch0_96", {}, "patch_size 0 of satmae_tiny_patch0_96: must be 4 to 32"),
        ("dofa_tiny_patch2_224", {}, "patch_size 2 of dofa_tiny_patch2_224"),
        ("scalemae_tiny_patch64_224", {}, "patch_size 64 of"),
        ("dofa_tiny_patch16_0", {}, "image_size 0 of dofa_tiny_patch16_0: must be 16 to 8192"),
        ("satmae_tiny_patch8_9", {}, "image_size 9 of"),
        ("satmae_tiny_patch8_9000", {}, "image_size 9000 of"),
    ],
)
def test_numbers_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_vit_encoder(name, 10, ViTOptions(**options), wavelengths=(0.5,) * 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"patch_size": 4, "image_size": 16}, {"patch_size": 32, "image_size": 8192}])
def test_numbers_at_the_ends_of_the_range_are_taken(options):
    with torch.device("meta"):
        made = build_vit_encoder(PLAIN, 2, ViTOptions(drop_path=0.99, **options))
    assert made.patch_size == options["patch_size"]
