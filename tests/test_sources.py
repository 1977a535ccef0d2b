"""Whose weights there are: layouts, bands in order, native normalisation."""

from typing import get_args, get_type_hints

import pytest

from cromss.models.sources import FILE_SOURCES, SOURCES, native_normalization, source_of
from cromss.models.stems import LAYOUTS
from cromss.normalization import NORMALIZATIONS
from cromss.sensors import MODALITIES
from cromss.settings.finetuning import DownstreamModel


def test_the_flag_offers_every_source_with_a_file():
    words = get_args(get_type_hints(DownstreamModel)["weight_source"])
    assert set(words) == {"auto", *FILE_SOURCES}


def test_every_layout_belongs_to_one_source():
    owners = [name for layout in LAYOUTS for name, source in SOURCES.items() if layout in source.layouts]
    assert len(owners) == len(LAYOUTS)
    assert {layout: source_of(layout) for layout in LAYOUTS}["single"] == "cromss"
    assert source_of("unknown") == source_of("anything") == source_of("bare") == "bare"
    assert [source_of(layout) for layout in ("mae", "satmae", "dofa")] == ["mae", "satmae", "dofa"]


@pytest.mark.parametrize("layout", ["mae", "dino"])
def test_vits_of_three_bands_are_imagenets(layout):
    assert [source_of(layout, bands, "vit") for bands in (13, 2, 3)] == [layout, layout, "imagenet"]
    assert native_normalization(source_of(layout, 3, "vit"), "s2") == "imagenet"


def test_resnets_and_other_layouts_of_three_bands_are_not():
    assert source_of("dino", 3, "resnet") == source_of("dino", 3) == "dino"
    assert [source_of(layout, 3, "vit") for layout in ("moco", "segmenter", "bare")] == ["moco", "cromss", "bare"]


def test_order_of_the_sources():
    resnets, vits = ("cromss", "moco", "dino", "decur", "satlas", "softcon"), ("mae", "satmae", "scalemae", "dofa")
    assert (*resnets, *vits, "imagenet", "bare") == FILE_SOURCES


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("mae", {"mae", "bare"}),
        ("satmae", {"satmae"}),
        ("scalemae", {"mae", "bare"}),
        ("dofa", {"dofa"}),
        ("imagenet", {"mae", "dino", "bare"}),
        ("softcon", {"bare"}),
    ],
)
def test_layouts_that_files_may_have(name, accepted):
    assert set(SOURCES[name].accepted) == accepted


@pytest.mark.parametrize(("name", "source"), SOURCES.items())
def test_bands_and_normalisations_are_known_ones(name, source):
    assert set(source.native) <= set(MODALITIES)
    assert set(source.native.values()) <= set(NORMALIZATIONS)
    for count, bands in source.bands.items():
        assert len(bands) == count
        assert any(set(bands) <= set(modality.bands) for modality in MODALITIES.values())
    assert ("bare" in source.accepted) == ("bare" in source.shared_layouts or name == "bare")


@pytest.mark.parametrize(
    ("source", "modality", "wanted"),
    [
        ("cromss", "s1", "common"),
        ("cromss", "s2", "common"),
        ("cromss", "ortho", "common"),
        ("random", "s2", "common"),
        ("moco", "s2", "reflectance"),
        ("dino", "s2", "reflectance"),
        ("decur", "s2", "reflectance"),
        ("moco", "s1", "standard"),
        ("decur", "s1", "standard"),
        ("softcon", "s1", "standard"),
        ("softcon", "s2", "standard"),
        ("satlas", "s2", "satlas"),
        ("imagenet", "s2", "imagenet"),
        ("mae", "s1", "standard"),
        ("mae", "s2", "reflectance"),
        ("satmae", "s2", "satmae"),
        ("scalemae", "s2", "imagenet"),
        ("dofa", "s1", "dofa"),
        ("dofa", "s2", "dofa"),
        ("imagenet", "ortho", "imagenet"),
    ],
)
def test_native_normalisation(source, modality, wanted):
    assert native_normalization(source, modality) == wanted


@pytest.mark.parametrize(
    ("source", "modality", "message"),
    [
        ("bare", "s2", r"name the --weight_source \(cromss, moco, dino, decur, .*, dofa, imagenet\), or"),
        ("satmae", "s1", "satmae weights have none for s1, only for s2"),
        ("dofa", "ortho", "dofa weights have none for ortho, only for s1, s2"),
        ("mae", "ortho", "mae weights have none for ortho"),
        ("scalemae", "ortho", "scalemae weights have none for ortho, only for s2"),
        ("satlas", "s1", "satlas weights have none for s1, only for s2"),
        ("moco", "ortho", "moco weights have none for ortho, only for s1, s2"),
        ("imagenet", "s1", "imagenet weights have none for s1"),
    ],
)
def test_no_native_normalisation(source, modality, message):
    with pytest.raises(ValueError, match=f"--normalization native: .*{message}") as caught:
        native_normalization(source, modality)
    assert "\n" not in str(caught.value)
