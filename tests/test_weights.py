"""Foreign checkpoints, whoever's they are, load strictly or not at all."""

import pytest
import torch
from foreign import (
    Attack,
    bare,
    behind,
    constants,
    decur,
    dino,
    encoder,
    headless,
    holds,
    late,
    mid,
    moco,
    satlas,
    satlas_repeated,
    save,
    single,
    tensors,
)

from cromss.models import build_pretrainer
from cromss.models.weights import WeightsError, check_bands, inspect, load_encoder
from cromss.sensors import S1, S2, S2_SUBSETS

pytestmark = pytest.mark.usefixtures("one_thread")

# file: how it is made, bands of its Sentinel-2 encoder | asked for: bands, source | found: layout, prefix, modality
FOREIGN = {
    "cromss-mid-s2": (mid, 13, 13, "auto", "cromss-mid", "net.encoder.", "s2"),
    "cromss-mid-s1": (mid, 13, 2, "auto", "cromss-mid", "net.encoder1.", "s1"),
    "cromss-mid-s2-9-bands": (mid, 9, 9, "cromss", "cromss-mid", "net.encoder.", "s2"),
    "cromss-mid-s1-9-bands": (mid, 9, 2, "cromss", "cromss-mid", "net.encoder1.", "s1"),
    "cromss-late-s2": (late, 13, 13, "cromss", "cromss-late", "net.model2.encoder.", "s2"),
    "cromss-late-s1": (late, 13, 2, "auto", "cromss-late", "net.model1.encoder.", "s1"),
    "single-s2": (single, 13, 13, "auto", "single", "net.encoder.", "s2"),
    "single-s1": (single, 2, 2, "cromss", "single", "net.encoder.", "s1"),
    "moco-s2": (moco, 13, 13, "auto", "moco", "module.encoder_q.", "s2"),
    "moco-s1": (moco, 2, 2, "moco", "moco", "module.encoder_q.", "s1"),
    "moco-torchgeo": (headless, 13, 13, "moco", "bare", "", "s2"),
    "dino": (dino, 13, 13, "auto", "dino", "module.backbone.", "s2"),
    "decur-s2": (decur, 13, 13, "auto", "decur", "module.backbone_2.", "s2"),
    "decur-s1": (decur, 13, 2, "decur", "decur", "module.backbone_1.", "s1"),
    "decur-split-s2": (bare, 13, 13, "decur", "bare", "", "s2"),
    "decur-split-s1": (bare, 2, 2, "decur", "bare", "", "s1"),
    "satlas": (satlas, 9, 9, "auto", "satlas", "backbone.resnet.", "s2"),
    "satlas-repeated": (satlas_repeated, 9, 9, "satlas", "satlas", "backbone.backbone.resnet.", "s2"),
    "softcon-s2": (bare, 13, 13, "softcon", "bare", "", "s2"),
    "softcon-s1": (bare, 2, 2, "softcon", "bare", "", "s1"),
    "torchgeo": (headless, 13, 13, "auto", "bare", "", "s2"),
}


@pytest.mark.parametrize(
    ("make", "file_bands", "bands", "source", "layout", "prefix", "modality"), FOREIGN.values(), ids=FOREIGN
)
def test_318_of_318(tmp_path, make, file_bands, bands, source, layout, prefix, modality):
    target = encoder(bands, "resnet50")
    report = load_encoder(target, save(make(file_bands, "resnet50"), tmp_path / "w.pt"), source=source)
    assert holds(target, tensors(bands, "resnet50"))
    assert (report.num_loaded, report.num_expected, report.parts) == (318, 318, {"encoder": 318})
    assert (report.layout, report.prefix, report.modality, report.in_channels) == (layout, prefix, modality, bands)
    told_by_layout = "cromss" if layout in ("cromss-mid", "cromss-late", "single") else layout
    assert report.source == (told_by_layout if source == "auto" else source)
    assert "318/318 tensors" in str(report)


def diverged(value: float) -> dict:
    return behind("") | {"layer4.1.bn2.running_var": torch.full((512,), value)}


def without(name: str) -> dict:
    return {key: value for key, value in behind("").items() if key != name}


MID = r"found net\.encoder1\. \(64, 2, 7, 7\) \[s1\], net\.encoder\. \(64, 13, 7, 7\) \[s2\]"
BARE = r"found \(no prefix\) \(64, 13, 7, 7\) \[s2\]"
FEED = r"; feed the bands it was trained on \(--n_channels, --input_type\)$"
# how the file is made | bands of the encoder, options | what the line says
WRONG = {
    "other-depth": (
        lambda: behind("", 13, "resnet34"),
        13,
        {},
        r"layer1\.2\.conv1\.weight has no place in it.*" + BARE,
    ),
    "other-block": (lambda: behind("", 13, "resnet50"), 13, {}, r"conv1\.weight is \(64, 64, 1, 1\), not.*" + BARE),
    "other-bands": (mid, 9, {}, "no encoder takes 9 bands; " + MID + r" \(resnet\)" + FEED),
    "rgb": (lambda: behind("", 3), 13, {}, r"found \(no prefix\) \(64, 3, 7, 7\) \(resnet\)" + FEED),
    "other-modality": (mid, 13, {"modality": "s1"}, "no encoder takes 13 bands of s1; " + MID + r" \(resnet\)" + FEED),
    "other-source": (
        mid,
        13,
        {"source": "moco"},
        "no encoder takes 13 bands in moco; " + MID + r".*; leave --weight_source out$",
    ),
    "other-source-and-bands": (mid, 9, {"source": "moco"}, "no encoder takes 9 bands in moco; .*" + FEED),
    "no-encoder-of-both": (
        mid,
        15,
        {"modality": "common"},
        "15 bands of common; .*; --fusion_type twin takes an encoder for each sensor$",
    ),
    "both-in-other-bands": (
        lambda: behind("encoders.common.", 15),
        11,
        {"modality": "common"},
        "11 bands of common; .*" + FEED,
    ),
    "softcon-in-name-only": (mid, 13, {"source": "softcon"}, "no encoder takes 13 bands in softcon; " + MID),
    "no-such-source": (mid, 13, {"source": "macaw"}, "source 'macaw': choose one of auto, cromss, moco"),
    "no-weights-file": (mid, 13, {"source": "random"}, "source 'random': choose one of auto, cromss, moco"),
    "one-missing": (
        lambda: without("layer3.0.bn1.bias"),
        13,
        {},
        r", 1 of its tensors does not fit: layer3\.0\.bn1\.bias is missing.*" + BARE,
    ),
    "one-reshaped": (lambda: behind("") | {"bn1.bias": torch.zeros(63)}, 13, {}, r"bn1\.bias is \(63,\), not \(64,\)"),
    "nan": (
        lambda: diverged(float("nan")),
        13,
        {},
        r"layer4\.1\.bn2\.running_var holds NaN or infinity; the file is damaged.*" + BARE,
    ),
    "infinity": (lambda: diverged(float("inf")), 13, {}, r"layer4\.1\.bn2\.running_var holds NaN or infinity"),
    "no-resnet": (
        lambda: {"model": {"head.weight": torch.zeros(3, 3)}},
        13,
        {},
        "no encoder takes 13 bands; found none; give weights of a whole network or encoder$",
    ),
    "no-tensors": (lambda: {"epoch": 3}, 13, {}, "no tensors found"),
    "truncated": (None, 13, {}, "cannot be read as weights"),
    "code": (lambda: {"model": Attack("/nowhere/at/all")}, 13, {}, r"holds a pickled \w+\.system, which was not run"),
}


@pytest.mark.parametrize(("make", "bands", "options", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path, make, bands, options, message):
    path = save(make() if make else mid(), tmp_path / "w.pt")
    if make is None:
        path.write_bytes(path.read_bytes()[:-1000])
    target = encoder(bands)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_encoder(target, path, **options)
    assert "\n" not in str(caught.value)
    assert "w.pt" in str(caught.value) or "source" in options
    assert holds(target, before)


def test_a_deeper_encoder_names_what_is_missing(tmp_path):
    with pytest.raises(WeightsError, match=r"layer1\.2\.conv1\.weight is missing"):
        load_encoder(encoder(13, "resnet34"), save(mid(), tmp_path / "w.pt"))


def test_dino_takes_the_teacher_and_moco_the_query(tmp_path):
    teacher, query = encoder(), encoder()
    load_encoder(teacher, save(dict(reversed(dino().items())), tmp_path / "dino.pt"))
    load_encoder(query, save(moco(), tmp_path / "moco.pt"))
    assert holds(teacher, tensors())
    assert holds(query, tensors())


@pytest.mark.parametrize("fusion", ["mid", "late"])
@pytest.mark.parametrize("encoder_name", ["resnet18", "tu-resnet18"])
def test_our_own_checkpoints(tmp_path, fusion, encoder_name):
    with torch.device("meta"):
        model = build_pretrainer(fusion, encoder_name, common_branch=True)
    state = constants(model.state_dict(), seed=0)
    path = save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, tmp_path / "w.ckpt")
    branches = {"mid": "encoders.{}.", "late": "networks.{}.encoder."}[fusion]
    for modality, bands in {"s1": 2, "s2": 13, "common": 15}.items():
        target = encoder(bands, encoder_name)
        report = load_encoder(target, path, source="cromss")
        assert (report.modality, report.layout) == (modality, f"pretrainer-{fusion}")
        prefix = branches.format(modality)
        assert holds(target, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


@pytest.mark.parametrize("name", ["mobilenet_v2", "tu-efficientnet_b0"])
def test_other_encoders_by_their_own_names(tmp_path, name):
    target = encoder(13, name)
    load_encoder(target, save(behind("module.backbone.", 13, name), tmp_path / "w.pt"))
    assert holds(target, tensors(13, name))


def test_resnet_file_into_timms_wrapper(tmp_path):
    target = encoder(13, "tu-resnet18")
    report = load_encoder(target, save(moco(), tmp_path / "w.pt"))
    assert report.layout == "moco"
    assert holds(target, {f"model.{key}": value for key, value in tensors().items()})


def test_old_files_may_lack_step_counters(tmp_path):
    old = {key: value for key, value in behind("").items() if not key.endswith("num_batches_tracked")}
    target = encoder()
    target.bn1.num_batches_tracked += 9
    report = load_encoder(target, save(old, tmp_path / "w.pt"))
    assert report.num_expected - report.num_loaded == 20
    assert target.bn1.num_batches_tracked == 0
    assert torch.equal(target.conv1.weight, tensors()["conv1.weight"])


def test_half_precision_files_are_read(tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in behind("").items()}
    target = encoder()
    load_encoder(target, save(half, tmp_path / "w.pt"))
    assert target.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(target.conv1.weight.detach(), half["conv1.weight"].float())


def test_modality_decides_between_equal_band_counts(tmp_path):
    content = {"model": behind("module.backbone_1.") | behind("module.backbone_2.", seed=1)}
    path = save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"more than one encoder takes 13 bands, name the modality; found module"):
        load_encoder(encoder(), path)
    target = encoder()
    assert load_encoder(target, path, modality="s1").prefix == "module.backbone_1."
    assert holds(target, tensors())


def test_inspect(tmp_path):
    report = inspect(save(mid(), tmp_path / "w.pt"))
    assert [(stem.prefix, stem.shape, stem.modality) for stem in report.stems] == [
        ("net.encoder1.", (64, 2, 7, 7), "s1"),
        ("net.encoder.", (64, 13, 7, 7), "s2"),
    ]
    assert (report.layout, report.source, report.prefix, report.num_loaded) == ("cromss-mid", "cromss", None, 0)
    assert "net.encoder1. (64, 2, 7, 7) [s1]" in str(report)
    assert len(report.sha256) == 12
    assert inspect(save(late(), tmp_path / "w2.pt")).sha256 != report.sha256
    plain = inspect(save(behind(""), tmp_path / "w3.pt"))
    assert (plain.prefix, plain.in_channels, plain.modality, plain.source) == ("", 13, "s2", "bare")
    none = inspect(save({"model": {"blocks.0.attn.qkv.weight": torch.zeros(9, 3)}}, tmp_path / "w4.pt"))
    assert (none.num_tensors, none.stems, none.layout) == (1, (), "unknown")
    assert "encoders: none" in str(none)


@pytest.mark.parametrize(
    ("make", "source", "bands", "fits"),
    [
        (satlas, "auto", S2_SUBSETS[92], True),
        (satlas, "auto", tuple(f"B0{band[1:]}" if len(band) == 2 else band for band in S2_SUBSETS[92]), True),
        (satlas, "auto", S2_SUBSETS[9], False),
        (bare, "satlas", S2_SUBSETS[9], False),
        (bare, "auto", S2_SUBSETS[9], True),
        (mid, "auto", S2_SUBSETS[9], True),
        (mid, "auto", S2_SUBSETS[92], False),
        (bare, "moco", S2.bands, True),
        (bare, "moco", S2.bands[::-1], False),
        (bare, "softcon", S1.bands[::-1], False),
    ],
)
def test_bands_in_another_order_are_refused(tmp_path, make, source, bands, fits):
    report = load_encoder(encoder(len(bands)), save(make(len(bands)), tmp_path / "w.pt"), source=source)
    if fits:
        check_bands(report, bands)
        return
    with pytest.raises(WeightsError, match=rf"w\.pt: trained on bands .*, but {' '.join(bands)} are fed"):
        check_bands(report, bands)


def test_the_modality_asked_for_stands_where_the_file_tells_none(tmp_path):
    content = {"state_dict": behind("network.encoder.", 3), "cromss": {"bands": {"s2": ["B2", "B3", "B4"]}}}
    path = save(content, tmp_path / "w.ckpt")
    report = load_encoder(encoder(3), path, modality="s2")
    assert (report.layout, report.modality, report.bands) == ("segmenter", "s2", ("B2", "B3", "B4"))
    with pytest.raises(WeightsError, match="trained on bands B2 B3 B4, but B4 B3 B2 are fed"):
        check_bands(report, S2_SUBSETS[3])
    assert load_encoder(encoder(3), path).modality is None


def test_whole_numbers_are_no_weights(tmp_path):
    state = {name: (100 * value).to(torch.int8) for name, value in tensors().items()}
    with pytest.raises(
        WeightsError, match=r"is torch\.int8, not torch\.float32; the file is damaged, save it anew in finite"
    ):
        load_encoder(encoder(), save(state, tmp_path / "w.pt"))
