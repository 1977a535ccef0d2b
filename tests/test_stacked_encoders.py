"""Two sensors or two dates in one stack: which features come out, which parameters are trained at which rate."""

import pytest
import torch

from cromss.models import build_change_segmenter, build_segmenter, build_twin_segmenter
from cromss.models.stacked_encoders import SiameseEncoder, TwinEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

BANDS = {"s1": 2, "s2": 4}


def stack(channels: int = 6, side: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def twins():
    return build_twin_segmenter("unet", "resnet18", BANDS, 4).eval()


@pytest.fixture(scope="module")
def change():
    return build_change_segmenter(encoder_name="resnet18", in_channels=3).eval()


@torch.no_grad()
def test_twins_average_the_features_of_each_level(twins):
    images = stack()
    features = twins.encoder(images)
    own = twins.encoders["s1"](images[:, :2]), twins.encoders["s2"](images[:, 2:])
    assert torch.equal(features[0], images)
    assert [level.shape[1] for level in features] == twins.encoder.out_channels
    for level, first, second in zip(features[1:], own[0][1:], own[1][1:], strict=True):
        torch.testing.assert_close(level, (first + second) / 2)


def test_twins_have_both_encoders_and_one_head(twins):
    assert isinstance(twins.encoder, TwinEncoder)
    assert list(twins.encoders) == ["s1", "s2"]
    assert [encoder.conv1.in_channels for encoder in twins.encoders.values()] == [2, 4]
    one = build_segmenter("unet", "resnet18", 4, 4)
    assert len(list(twins.network.decoder.parameters())) == len(list(one.network.decoder.parameters()))
    with pytest.raises(ValueError, match="images: this model takes 6 bands"):
        twins(stack(5))


@torch.no_grad()
def test_the_order_of_the_bands_mapping_is_that_of_the_stack():
    encoder = build_twin_segmenter("fpn", "resnet18", {"s2": 4, "s1": 2}, 4).eval().encoder
    images = stack()
    stems = encoder.encoders["s2"](images[:, :4])[1], encoder.encoders["s1"](images[:, 4:])[1]
    torch.testing.assert_close(encoder(images)[1], sum(stems) / 2)


@torch.no_grad()
def test_dates_are_compared_by_one_encoder(change):
    images = stack()
    features = change.encoder(images)
    first, second = (change.encoders["images"](date) for date in (images[:, :3], images[:, 3:]))
    assert isinstance(change.encoder, SiameseEncoder)
    assert [level.shape[1] for level in features] == change.encoder.out_channels
    for level, one, other in zip(features, first, second, strict=True):
        torch.testing.assert_close(level, (one - other).abs())


@torch.no_grad()
def test_the_order_of_the_dates_does_not_matter_and_equal_dates_do_not_differ(change):
    images = stack(side=70)
    swapped = torch.cat([images[:, 3:], images[:, :3]], dim=1)
    assert change(images).shape == (2, 1, 70, 70)
    torch.testing.assert_close(change(images), change(swapped))
    same = torch.cat([images[:, :3]] * 2, dim=1)
    assert all(not level.any() for level in change.encoder(same))


def test_both_dates_pass_batchnorm_together():
    model = build_change_segmenter(encoder_name="resnet18", in_channels=3).train()
    with torch.no_grad():
        model(stack())
        stem = model.encoders["images"].conv1(torch.cat([stack()[:, :3], stack()[:, 3:]]))
    norm = model.encoders["images"].bn1
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * stem.mean(dim=(0, 2, 3)))


def names(model, stage) -> set[str]:
    """What a stage holds: the encoder's part or the decoder's, without modality and leaf names."""
    owned = {id(p) for p in stage}
    found = {name for name, p in model.network.named_parameters() if id(p) in owned}
    return {
        ".".join(part for part in name.split(".") if part not in ("encoders", "s1", "s2", "images")) for name in found
    }


STEM = {"encoder.conv1.weight", "encoder.bn1.weight", "encoder.bn1.bias"}


@pytest.mark.parametrize("kind", ["single", "twin", "change"])
def test_stages_of_a_unet_from_input_to_output(kind, twins, change):
    model = {"twin": twins, "change": change}.get(kind) or build_segmenter("unet", "resnet18", 6, 4)
    stages = [names(model, stage) for stage in model.stages()]
    assert stages[0] == STEM
    for number, stage in enumerate(stages[1:5], 1):
        assert {name.split(".")[1] for name in stage} == {f"layer{number}"}
    for number, stage in enumerate(stages[5:10]):
        assert {name.split(".")[2] for name in stage} == {str(number)}
    assert stages[10] == {"segmentation_head.0.weight", "segmentation_head.0.bias"}
    assert len(stages) == 11


def test_a_stage_of_twins_holds_both(twins):
    stem = {id(p) for p in twins.stages()[0]}
    assert stem == {id(p) for e in twins.encoders.values() for p in (e.conv1.weight, e.bn1.weight, e.bn1.bias)}


@pytest.mark.parametrize(
    ("architecture", "encoder_name", "depth", "count"),
    [
        ("linknet", "resnet18", None, 5 + 5 + 1),
        ("manet", "resnet18", None, 5 + 1 + 5 + 1),
        ("unetplusplus", "resnet18", None, 5 + 5 + 1),
        ("fpn", "resnet18", None, 5 + 1 + 1),
        ("deeplabv3plus", "resnet18", None, 5 + 1 + 1),
        ("pspnet", "resnet18", None, 3 + 1 + 1),
        ("pspnet", "resnet18", 5, 5 + 1 + 1),
        ("unet", "tu-resnet18", None, 5 + 5 + 1),
        ("fpn", "mobilenet_v2", None, 19 + 1 + 1),
        ("fpn", "tu-efficientnet_b0", None, 1 + 7 + 1 + 1),
        ("fpn", "densenet121", None, 1 + 1 + 1),
    ],
)
def test_number_of_stages(architecture, encoder_name, depth, count):
    model = build_segmenter(architecture, encoder_name, 2, 4, depth)
    assert len(model.stages()) == count
    model.freeze_encoder()
    frozen = model.stages()
    model.unfreeze_encoder()
    own = {id(p) for p in model.encoder.parameters()}
    thawed = model.stages()
    assert [len(stage) for stage in frozen] == [len(s) for s in thawed if not own & {id(p) for p in s}]


def test_columns_of_unetplusplus_run_one_after_the_other():
    decoder = build_segmenter("unetplusplus", "resnet18", 2, 4).network.decoder
    order = []
    for name, block in decoder.blocks.items():
        block.register_forward_hook(lambda *_, name=name: order.append(name))
    with torch.no_grad():
        decoder.eval()([torch.zeros(1, c, 64 // 2**i, 64 // 2**i) for i, c in enumerate((2, 64, 64, 128, 256, 512))])
    columns = [int(name.split("_")[2]) - int(name.split("_")[1]) for name in order]
    assert columns == sorted(columns)
    assert set(columns) == set(range(5))


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"s2": 13}, "bands {'s2': 13}: twins take two or more of s1, s2"),
        ({}, "bands {}: twins take two or more"),
        ({"s1": 2, "s3": 4}, "twins take two or more of s1, s2"),
        ({"s1": 2, "s2": 0}, "in_channels 0"),
    ],
)
def test_bad_bands_are_refused(bands, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_twin_segmenter("unet", "resnet18", bands, 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("builder", ["twin", "change"])
def test_other_bad_settings_are_refused_as_for_one_encoder(builder):
    build = {
        "twin": lambda **s: build_twin_segmenter(
            **({"architecture": "unet", "encoder_name": "resnet18"} | s), bands=BANDS, num_classes=4
        ),
        "change": lambda **s: build_change_segmenter(**({"encoder_name": "resnet18"} | s)),
    }[builder]
    with pytest.raises(ValueError, match="architecture 'segformer': choose one of"):
        build(architecture="segformer")
    with pytest.raises(ValueError, match="encoder_name 'resnet180'"):
        build(encoder_name="resnet180")
    with pytest.raises(ValueError, match="encoder_depth 2"):
        build(encoder_depth=2)
