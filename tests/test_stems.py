"""Encoders found by their first layer: kind, sizes, groups, and what keeps one from another."""

import pytest
import torch

from cromss.models.stems import Stem, find_stems, first_convolution, listed


def blocks(prefix: str, depth: int) -> dict[str, torch.Tensor]:
    return {f"{prefix}blocks.{block}.norm1.bias": torch.zeros(8) for block in range(depth)}


def plain(prefix: str = "", bands: int = 13, patch: int = 16, depth: int = 12) -> dict[str, torch.Tensor]:
    return {f"{prefix}patch_embed.proj.weight": torch.zeros(8, bands, patch, patch)} | blocks(prefix, depth)


def grouped(prefix: str, *bands: int) -> dict[str, torch.Tensor]:
    names = {f"{prefix}patch_embed.{i}.proj.weight": torch.zeros(8, count, 4, 4) for i, count in enumerate(bands)}
    return names | blocks(prefix, 2)


def generated(prefix: str = "", width: int = 8, patch: int = 14) -> dict[str, torch.Tensor]:
    start = f"{prefix}patch_embed."
    return blocks(prefix, 1) | {
        f"{start}weight_generator.fc_weight.bias": torch.zeros(width * patch**2),
        f"{start}weight_generator.fc_bias.bias": torch.zeros(width),
        f"{start}fclayer.w1.weight": torch.zeros(128, 128),
    }


def resnet(prefix: str = "", bands: int = 13) -> dict[str, torch.Tensor]:
    return {f"{prefix}conv1.weight": torch.zeros(64, bands, 7, 7), f"{prefix}layer1.0.conv1.weight": torch.zeros(9)}


@pytest.mark.parametrize(
    ("tensors", "wanted"),
    [
        (resnet("net.encoder."), Stem("net.encoder.", (64, 13, 7, 7), "single", "s2")),
        (plain(), Stem("", (8, 13, 16, 16), "bare", "s2", "vit", (), 12)),
        (plain("module.backbone.", 2, 8, 3), Stem("module.backbone.", (8, 2, 8, 8), "dino", "s1", "vit", (), 3)),
        (plain("backbone."), Stem("backbone.", (8, 13, 16, 16), "dino", "s2", "vit", (), 12)),
        (plain("x.", 3), Stem("x.", (8, 3, 16, 16), "unknown", None, "vit", (), 12)),
        (plain() | {"decoder_pred.bias": torch.zeros(1)}, Stem("", (8, 13, 16, 16), "mae", "s2", "vit", (), 12)),
        (grouped("", 4, 4, 2), Stem("", (8, 10, 4, 4), "satmae", "s2", "satmae", (4, 4, 2), 2)),
        (
            grouped("model.encoders.s2.vit.", *([1] * 12)),
            Stem("model.encoders.s2.vit.", (8, 12, 4, 4), "pretrainer-mid", "s2", "satmae", (1,) * 12, 2),
        ),
        (generated(), Stem("", (8, None, 14, 14), "dofa", None, "dofa", (), 1)),
        (
            generated("encoders.s1.vit."),
            Stem("encoders.s1.vit.", (8, None, 14, 14), "pretrainer-mid", "s1", "dofa", (), 1),
        ),
    ],
)
def test_what_a_stem_tells(tensors, wanted):
    assert find_stems(tensors) == (wanted,)
    assert find_stems(dict(reversed(tensors.items()))) == (wanted,)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        plain(depth=0),
        {"patch_embed.proj.weight": torch.zeros(8, 3, 2, 16, 16)} | blocks("", 2),
        {"xpatch_embed.proj.weight": torch.zeros(8, 3, 16, 16)} | blocks("x", 2),
        {"patch_embed.0.proj.weight": torch.zeros(8)} | blocks("", 2),
        {name: value for name, value in generated().items() if "fc_bias" not in name},
        generated(width=0),
        {"conv1.weight": torch.zeros(64, 3, 3, 3)},
    ],
)
def test_what_is_no_encoder(tensors):
    assert find_stems(tensors) == ()
    assert listed(()) == "none"


def test_single_is_told_by_what_stands_beside():
    both = resnet("net.encoder1.", 2) | resnet("net.encoder.")
    assert [stem.layout for stem in find_stems(both)] == ["cromss-mid"] * 2
    assert [stem.layout for stem in find_stems(resnet("net.encoder."))] == ["single"]


def test_lists_name_kinds():
    stems = find_stems(resnet("a.", 2) | plain("b.") | resnet("c.", 3) | generated("d."))
    assert listed(stems) == (
        "a. (64, 2, 7, 7) [s1], c. (64, 3, 7, 7) (resnet), b. (8, 13, 16, 16) [s2] (vit), d. (8, any, 14, 14) (dofa)"
    )


@pytest.mark.parametrize(
    ("file", "encoder", "misfits"),
    [
        (plain(), plain(bands=3), []),
        (plain(patch=8), plain(), ["patch 8 in the file, 16 in --model_type/--patch_size"]),
        (plain(depth=3), plain(), ["depth 3 in the file, 12 in --model_type"]),
        (generated(width=3), generated(), ["width 3 in the file, 8 in --model_type"]),
        (grouped("", 4, 4, 2), grouped("", 4, 4, 2), []),
        (grouped("", 5, 5), grouped("", 4, 4, 2), ["groups of 4, 4, 2 bands wanted, the file has 2 groups of 5, 5"]),
    ],
)
def test_misfits(file, encoder, misfits):
    (theirs,), (ours,) = find_stems(file), find_stems(encoder)
    assert theirs.misfits(ours) == misfits


@pytest.mark.parametrize("tensors", [plain(), grouped("", 4, 4, 2), generated(), resnet()])
def test_files_for_resnets_and_vits_are_searched_alike(tensors):
    assert first_convolution(tensors) == ("conv1.weight", (7, 7))


def test_other_encoders_are_found_by_their_own_first_convolution():
    swin = {"scale": torch.zeros(3), "patch_embed.proj.weight": torch.zeros(96, 3, 4, 4)}
    assert first_convolution(swin) == ("patch_embed.proj.weight", (4, 4))
    file = {f"x.{name}": value for name, value in swin.items()} | resnet("y.")
    (stem,) = find_stems(file, *first_convolution(swin))
    assert (stem.prefix, stem.kind, stem.depth) == ("x.", "other", 0)
