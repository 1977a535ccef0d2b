"""Settings of encoders, their weights and their optimisation: what does not fit ends in one line."""

import numpy as np
import pytest
from test_config import error_of

from cromss.config import parse, read, save_yaml
from cromss.models.sources import FILE_SOURCES, SOURCES, native_normalization
from cromss.normalization import NORMALIZATIONS
from cromss.sensors import S2, S2_SUBSETS
from cromss.settings import FinetuneSettings, MultiModalSettings, SingleModalSettings


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (FinetuneSettings, "--weight_epoch 3", "--weight_epoch"),
        (MultiModalSettings, "--learning_rate -1", "--learning_rate"),
        (FinetuneSettings, "--model_framework segnet", "--model_framework"),
        (FinetuneSettings, "--scheduler_values 0.5 0.1", "--scheduler_values 0.5 0.1: must be the epoch"),
        (FinetuneSettings, "--scheduler_values 40 1e-5 3", "--scheduler_values"),
        (FinetuneSettings, "--scheduler_type none --scheduler_values 40", "must be empty with --scheduler_type none"),
        (FinetuneSettings, "--scheduler_type exp --scheduler_values 1.5", "the factor an epoch"),
        (FinetuneSettings, "--scheduler_type step --scheduler_values 3 2.5", "the epochs at which"),
        (FinetuneSettings, "--encoder_finetune_tag eft", "--encoder_finetune_epoch 0: must be at least 1"),
        (FinetuneSettings, "--encoder_finetune_epoch 3", "must be 0 but for --encoder_finetune_tag eft"),
        (
            FinetuneSettings,
            "--encoder_finetune_tag eft --encoder_finetune_epoch 9 --epochs 9",
            "--encoder_finetune_epoch 9: must be under --epochs 9",
        ),
        (FinetuneSettings, "--fusion_type twin", "--fusion_type twin: must be early but for --input_type s12"),
        (FinetuneSettings, "--weight_path_s1 a.ckpt", "must be empty but for --fusion_type twin"),
        (FinetuneSettings, "--weight_load_tag wocls", "must be encoder but for --model_framework unet"),
        (
            FinetuneSettings,
            "--model_framework unet --weight_load_tag all",
            "must be encoder with --weight_path random",
        ),
        (FinetuneSettings, "--weight_source moco", "--weight_source moco: must be auto with --weight_path random"),
        (FinetuneSettings, "--moving_batchnorm --encoder_finetune_tag etr", "--moving_batchnorm"),
        (FinetuneSettings, "--scheduler_type step --scheduler_values inf", "the epochs at which"),
        (FinetuneSettings, "--scheduler_values 40 1", "a final rate of at most --learning_rate 0.0005"),
        (FinetuneSettings, "--scheduler_type step --scheduler_values 60", "epochs under --epochs 50"),
        (FinetuneSettings, "--lr_varying_factor 0", "--lr_varying_factor 0.0"),
        (SingleModalSettings, "--input_type s2 --init_s1 a.pt", "--init_s1 a.pt"),
        (MultiModalSettings, "--weight_decay inf", "--weight_decay inf"),
        (MultiModalSettings, "--lr_adjust inf", "--lr_adjust inf"),
        (MultiModalSettings, "--learning_rate inf", "--learning_rate inf"),
        (MultiModalSettings, "--lr_adjust_type exp", "--lr_adjust 30"),
        (MultiModalSettings, "--lr_adjust_type cos", "--lr_adjust 30: must be a final rate of at most"),
        (MultiModalSettings, "--lr_adjust_type cos --lr_adjust -1e-5", "--lr_adjust -1e-05"),
        (MultiModalSettings, "--lr_adjust_type cos --lr_adjust nan", "--lr_adjust nan"),
        (MultiModalSettings, "--layer_decay 0", "--layer_decay 0.0: must be over 0 and at most 1"),
        (MultiModalSettings, "--layer_decay 1.1", "--layer_decay 1.1"),
        (MultiModalSettings, "--warmup_epochs 5", "--warmup_epochs 5: must be 0 with --lr_adjust_type rop"),
        (MultiModalSettings, "--warmup_epochs -1", "--warmup_epochs -1"),
        (FinetuneSettings, "--warmup_epochs 50", "--warmup_epochs 50: must be at least 0 and under --epochs 50"),
        (FinetuneSettings, "--warmup_epochs 9 --scheduler_values 9", "must be epochs over --warmup_epochs 9"),
        (
            FinetuneSettings,
            "--warmup_epochs 9 --scheduler_type step --scheduler_values 20 8",
            "--scheduler_values 20.0 8.0: must be epochs over --warmup_epochs 9",
        ),
        (FinetuneSettings, "--optimizer lion", "--optimizer"),
        (FinetuneSettings, "--encoder_depth 7", "--encoder_depth 7"),
        (FinetuneSettings, "--scheduler_values 8 -1", "--scheduler_values 8.0 -1.0"),
    ],
)
def test_bad_flags_end_in_one_line(settings, arguments, message, capsys):
    assert message in error_of(settings, arguments.split(), capsys)


VIT, SATMAE, SCALEMAE, DOFA = (
    f"--model_type {name}"
    for name in (
        *("vit_small_patch16_224", "satmae_large_patch8_96", "scalemae_large_patch16_224"),
        "dofa_base_patch16_224",
    )
)
UPERNET = "--model_framework upernet"
NATIVE = f"{UPERNET} --normalization native --weight_path"


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (MultiModalSettings, f"{VIT} --patch_size 3", "--patch_size 3: must be 4 to 32, or 0"),
        (MultiModalSettings, f"{VIT} --patch_size 64", "--patch_size 64"),
        (MultiModalSettings, f"{VIT} --image_size 8", "--image_size 8: must be 16 to 8192, or 0"),
        (MultiModalSettings, f"{VIT} --image_size -224", "--image_size -224"),
        (MultiModalSettings, f"{VIT} --drop_path 1", "--drop_path 1.0: must be at least 0 and under 1"),
        (MultiModalSettings, f"{VIT} --drop_path nan", "--drop_path nan"),
        (MultiModalSettings, f"{VIT} --wavelengths 0.5", "--wavelengths 0.5: must be left out with"),
        (MultiModalSettings, f"{DOFA} --wavelengths 0", "--wavelengths 0.0: must be in um, such as 0.665: 0 to 100"),
        (
            MultiModalSettings,
            f"{DOFA} --wavelengths 664 560",
            "--wavelengths 664.0 560.0: must be in um, such as 0.665",
        ),
        (MultiModalSettings, f"{DOFA} --wavelengths inf", "--wavelengths inf"),
        (MultiModalSettings, f"{DOFA} --wavelengths 0.5", "must be 15 numbers, one for each band of s1 and s2"),
        (MultiModalSettings, "--patch_size 8", "--patch_size 8: must be left out with --model_type resnet50"),
        (MultiModalSettings, "--image_size 96", "--image_size 96: must be left out"),
        (SingleModalSettings, "--drop_path 0.1", "--drop_path 0.1: must be left out"),
        (FinetuneSettings, "--wavelengths 0.5", "--wavelengths 0.5: must be left out"),
        (FinetuneSettings, "--model_type tu-vit_small_patch16_224 --patch_size 8", "which is no ViT"),
        (MultiModalSettings, f"{SATMAE} --n_channels 10", f"{SATMAE}: must be another encoder, or --input_type s2"),
        (MultiModalSettings, f"{SCALEMAE} --n_channels 3", "scalemae takes Sentinel-2 alone"),
        (SingleModalSettings, f"{SATMAE} --n_channels 10 --input_type s1", "satmae takes Sentinel-2 alone"),
        (SingleModalSettings, SATMAE, f"--n_channels 13: must be 10 with {SATMAE}"),
        (SingleModalSettings, f"{SCALEMAE} --n_channels 10", f"--n_channels 10: must be 3 with {SCALEMAE}"),
        (FinetuneSettings, f"{SATMAE} {UPERNET} --n_channels 9", "--n_channels 9: must be 10"),
        (FinetuneSettings, f"{SCALEMAE} {UPERNET}", "--n_channels 13: must be 3"),
        (FinetuneSettings, f"{SATMAE} {UPERNET} --n_channels 10 --input_type s12", "or --input_type s2"),
        (FinetuneSettings, f"{SCALEMAE} {UPERNET} --n_channels 3 --input_type s1", "or --input_type s2"),
        (FinetuneSettings, f"{DOFA} {UPERNET} --wavelengths 0.49 0.56", "must be 13 numbers, one for each band of s2"),
        (
            FinetuneSettings,
            f"{DOFA} {UPERNET} --dataset NYC --input_type ortho",
            "must be 4 numbers, one for each band",
        ),
        (
            FinetuneSettings,
            VIT,
            f"--model_framework pspnet: must be unet, fpn, upernet or segmenter with the ViT {VIT}",
        ),
        (FinetuneSettings, "--model_framework segmenter", "must be another head with --model_type resnet50"),
        (FinetuneSettings, f"{VIT} {UPERNET} --encoder_depth 4", "--encoder_depth 4: must be 0 with the ViT"),
        (
            FinetuneSettings,
            f"{VIT} --model_framework unet --weight_path a.ckpt --weight_load_tag de2",
            "--weight_load_tag de2: must be encoder with the ViT",
        ),
        (FinetuneSettings, "--weight_source timm", "--weight_source"),
        (FinetuneSettings, f"{VIT} {UPERNET} --moving_batchnorm", "must be left out with the ViT"),
        (
            FinetuneSettings,
            f"{VIT} {UPERNET} --drop_path 0.1",
            "--drop_path 0.1: must be 0 with --encoder_finetune_tag",
        ),
        (
            FinetuneSettings,
            f"{DOFA} {UPERNET} --weight_path imagenet",
            "--weight_path imagenet: must be random or a file",
        ),
        (
            FinetuneSettings,
            f"{SATMAE} {UPERNET} --n_channels 10 --weight_path imagenet",
            f"or a file with {SATMAE}: timm",
        ),
        (
            FinetuneSettings,
            f"{DOFA} {UPERNET} --input_type s12 --fusion_type twin --weight_path_s1 imagenet",
            "--weight_path_s1 imagenet: must be random or a file",
        ),
        (MultiModalSettings, f"{DOFA} --init_s1 imagenet", f"--init_s1 imagenet: must be random or a file with {DOFA}"),
        (SingleModalSettings, f"{SCALEMAE} --n_channels 3 --init_s2 imagenet", "--init_s2 imagenet: must be random"),
        (MultiModalSettings, f"{DOFA} --pre_train", f"--pre_train True: must be left out with {DOFA}"),
        (
            FinetuneSettings,
            f"{DOFA} {NATIVE} a.pth",
            "--n_channels 13: must be 92 or 9 or 3 with --normalization native",
        ),
        (FinetuneSettings, f"{DOFA} {NATIVE} a.pth", "of dofa weights, or --weight_source cromss if they are ours"),
        (
            FinetuneSettings,
            f"{DOFA} {NATIVE} a.pth --weight_source dofa --n_channels 10",
            "--n_channels 10: must be 92",
        ),
        (FinetuneSettings, f"{DOFA} {NATIVE} a.pth --input_type s12", "--n_channels 13: must be 92 or 9 or 3"),
        (
            FinetuneSettings,
            f"{VIT} {NATIVE} imagenet",
            "--n_channels 13: must be 3 with --normalization native of imagenet",
        ),
        (
            FinetuneSettings,
            "--normalization native --weight_path a --weight_source satlas",
            "--n_channels 13: must be 92",
        ),
    ],
)
def test_encoders_that_do_not_fit_end_in_one_line(settings, arguments, message, capsys):
    assert message in error_of(settings, arguments.split(), capsys)


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (MultiModalSettings, f"{VIT} --patch_size 8 --image_size 96 --drop_path 0.1 --grad_checkpointing"),
        (MultiModalSettings, f"{VIT} --lr_adjust_type cos --lr_adjust 0 --warmup_epochs 9 --layer_decay 0.75"),
        (MultiModalSettings, f"{DOFA} --n_channels 3 --wavelengths 5.4 5.4 0.66 0.56 0.49 --optimizer adamw"),
        (SingleModalSettings, f"{SATMAE} --n_channels 10"),
        (SingleModalSettings, f"{SCALEMAE} --n_channels 3"),
        (FinetuneSettings, f"{SATMAE} {UPERNET} --n_channels 10 --weight_path a.pth --weight_source satmae"),
        (FinetuneSettings, f"{SCALEMAE} {UPERNET} --n_channels 3 --weight_path a.pth --weight_source scalemae"),
        (FinetuneSettings, f"{DOFA} {UPERNET} --input_type s12 --fusion_type twin"),
        (FinetuneSettings, f"{DOFA} {UPERNET} --n_channels 92 --wavelengths {' '.join(['0.5'] * 9)}"),
        (FinetuneSettings, f"{DOFA} {UPERNET} --dataset NYC --input_type ortho --wavelengths 0.8 0.66 0.56 0.49"),
        *((FinetuneSettings, f"{VIT} --model_framework {head}") for head in ("unet", "fpn", "upernet", "segmenter")),
        *(
            (FinetuneSettings, f"{VIT} {UPERNET} --drop_path 0.1 --encoder_finetune_tag {tag}")
            for tag in ("etr", "eft --encoder_finetune_epoch 3")
        ),
        (FinetuneSettings, f"{VIT} {UPERNET} --weight_path imagenet"),
        (MultiModalSettings, f"{VIT} --pre_train"),
        (FinetuneSettings, f"{DOFA} {NATIVE} random"),
        (FinetuneSettings, f"{DOFA} {NATIVE} a.pth --n_channels 92"),
        (FinetuneSettings, f"{DOFA} {NATIVE} a.ckpt --weight_source cromss"),
        (FinetuneSettings, f"{DOFA} {NATIVE} a.pth --input_type s1"),
        (FinetuneSettings, f"{DOFA} {UPERNET} --weight_path a.pth"),
        (FinetuneSettings, "--warmup_epochs 5 --scheduler_values 6 1e-6"),
        (FinetuneSettings, "--warmup_epochs 5 --scheduler_type exp --scheduler_values 0.9"),
    ],
)
def test_encoders_and_schedules_that_fit_survive_yaml(settings, arguments, tmp_path):
    wanted = parse(settings, arguments.split())
    save_yaml(wanted, tmp_path / "a.yaml")
    assert parse(settings, ["--config", str(tmp_path / "a.yaml")]) == wanted


def passes(function, *arguments):
    """Whether a call raises no ValueError."""
    try:
        function(*arguments)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("source", [name for name in FILE_SOURCES if "s2" in SOURCES[name].native])
@pytest.mark.parametrize("n_channels", S2_SUBSETS)
def test_bands_are_refused_exactly_where_the_native_normalisation_does_not_know_them(source, n_channels):
    bands, flags = S2_SUBSETS[n_channels], f"{NATIVE} a.pth --weight_source {source} --n_channels {n_channels}"
    zeros = np.zeros((len(bands), 4, 4), np.uint16)
    known = passes(NORMALIZATIONS[native_normalization(source, "s2")], zeros, S2, bands)
    assert passes(read, FinetuneSettings, flags.split()) == known


@pytest.mark.parametrize("settings", [MultiModalSettings, SingleModalSettings])
def test_help_tells_the_learning_rate_of_vits_and_the_published_one(settings, capsys):
    with pytest.raises(SystemExit):
        parse(settings, ["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "ViTs want about 5e-4." in said
    assert settings().optimisation.learning_rate == 0.005
