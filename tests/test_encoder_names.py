"""A ViT is told by the first word of its name."""

import pytest

from cromss.encoder_names import IMAGE_SIZES, OWN_FAMILIES, PATCH_SIZES, VIT_FAMILIES, family, is_vit


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
    assert VIT_FAMILIES == ("vit", "satmae", "scalemae", "dofa")
    assert set(VIT_FAMILIES) - set(OWN_FAMILIES) == {"vit"}


def test_limits_are_part_of_the_range():
    assert (PATCH_SIZES[0], PATCH_SIZES[-1]) == (4, 32)
    assert (IMAGE_SIZES[0], IMAGE_SIZES[-1]) == (16, 8192)
