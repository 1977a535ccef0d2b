"""A ViT is told by the first word of its name."""

import pytest

from cromss.encoder_names import VIT_FAMILIES, family, is_vit


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vit_small_patch16_224", "vit"),
        ("vit_base_patch14_dinov2", "vit"),
        ("satmae_large_patch8_96", "satmae"),
        ("scalemae_large_patch16_224", "scalemae"),
        ("dofa_base_patch16_224", "dofa"),
        ("resnet50", ""),
        ("tu-resnet50", ""),
        ("tu-vit_small_patch16_224", ""),
        ("vitamin_small_224", ""),
        ("mobilevit_s", ""),
        ("mit_b0", ""),
        ("Vit_small_patch16_224", ""),
        ("vit", ""),
        ("dofa", ""),
        ("_vit", ""),
        ("", ""),
    ],
)
def test_family(name, wanted):
    assert family(name) == wanted
    assert is_vit(name) is (wanted != "")


def test_families_are_words():
    assert all(family(f"{word}_x") == word for word in VIT_FAMILIES)
