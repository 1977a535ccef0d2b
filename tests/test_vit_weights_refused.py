"""Checkpoints of ViTs that do not fit are refused in one line, and nothing is loaded."""

import foreign
import pytest
import torch
from foreign import holds, save
from foreign_vit import (
    DOFA,
    SATMAE,
    SCALEMAE,
    bare,
    dofa,
    dofa_of_torchgeo,
    mae,
    satmae,
    scalemae,
    tensors,
    vit,
)

from cromss.models.weights import WeightsError, load_encoder

pytestmark = pytest.mark.usefixtures("one_thread")


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
    "modality": (
        mae,
        (13,),
        {"modality": "s1"},
        r"no encoder takes 13 bands of s1; found .*; feed the .* \(--n_channels, --input_type\)$",
    ),
    "source": (
        mae,
        (13,),
        {"source": "dino"},
        "no encoder takes 13 bands in dino; found .*; leave --weight_source out$",
    ),
    "source-of-satmae": (satmae, (10, SATMAE), {"source": "mae"}, "no encoder takes 10 bands in mae"),
    "source-of-dofa": (
        dofa,
        (13, DOFA),
        {"source": "satmae"},
        "no encoder takes any bands in satmae; found .*; leave --weight_source out$",
    ),
    "scalemae-told-into-vit": (
        scalemae,
        (3,),
        {"source": "scalemae"},
        "source scalemae: its encoder is --model_type scalemae_large_patch16_224 or alike",
    ),
    "scalemae-told-of-a-bare-file-into-vit": (lambda: bare(3), (3,), {"source": "scalemae"}, "source scalemae: its"),
    "registers-of-dinov2": (
        lambda: bare(3) | {"register_tokens": torch.zeros(1, 4, 192)},
        (3,),
        {},
        r"register_tokens: DINOv2's own files with registers are not read; with timm's names \(reg_token\) they are",
    ),
    "half-a-norm-of-dofa": (
        lambda: dofa_of_torchgeo() | {"norm.bias": torch.zeros(192)},
        (13, DOFA),
        {},
        r"1 of its tensors does not fit: norm\.weight is missing",
    ),
    "other-norm-of-dofa": (
        lambda: dofa() | {"norm.bias": torch.zeros(96)},
        (13, DOFA),
        {},
        r"norm\.bias is \(96,\), not \(192,\)",
    ),
    "nan": (
        lambda: changed(mae(), blocks__2__norm1__bias=torch.full((192,), torch.nan)),
        (13,),
        {},
        r"w\.pt: blocks\.2\.norm1\.bias holds NaN or infinity; the file is damaged, save it anew in finite .*; found",
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
        r"pos_embed is torch\.int8, not torch\.float32; the file is damaged, save it anew in .* floating-point",
    ),
    "one-missing": (
        lambda: changed(mae(), blocks__1__attn__qkv__bias=None),
        (13,),
        {},
        r"1 of its tensors does not fit: blocks\.1\.attn\.qkv\.bias is missing",
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
        "no encoder takes any bands; found none; give weights of a whole network or encoder$",
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
