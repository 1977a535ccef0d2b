"""ONNX files: the same logits as PyTorch at any size, by a runtime of the test's own; what they tell; refusals."""

import json
from unittest.mock import Mock

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoints import save_checkpoint
from conftest import REPOSITORY, load_script

from cromss.config import parse, read, to_flat
from cromss.legends import DFC2020, OSCD
from cromss.models import build_segmenter
from cromss.models.onnx_export import OLDEST_TORCH, AnySize, write_onnx
from cromss.sensors import S1, S2
from cromss.settings import FinetuneSettings
from cromss.settings.export import ExportSettings
from cromss.training.export import export
from cromss.training.finetuning import segmenter

pytestmark = pytest.mark.skipif(
    torch.__version__ < OLDEST_TORCH, reason=f"PyTorch {torch.__version__} exports too little"
)

SMALL = "--model_type tu-test_resnet --crop_size 64"
STATISTICS = {"bands": list(S2.bands), "mean": list(range(1000, 2300, 100)), "std": list(range(500, 1800, 100))}


def save_transfer(path, arguments, legend=DFC2020, **card):
    """A checkpoint of a transfer that never ran, and its network."""
    settings = parse(FinetuneSettings, [*SMALL.split(), *arguments.split()])
    torch.manual_seed(0)
    network = segmenter(settings, legend.num_classes, settings.data.task.is_change).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    card |= {"classes": list(legend.classes), "colours": list(legend.colours), "settings": to_flat(settings)}
    torch.save({"state_dict": state, "cromss": card}, path)
    return network


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, session.run(None, {"images": images.numpy()})[0]


def images_of(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(7))


def test_a_transfer_says_the_same_in_onnx_at_any_size(tmp_path, capsys):
    told = {"normalization": {"s2": "common"}, "statistics": {"s2": STATISTICS}}
    network = save_transfer(tmp_path / "t.ckpt", "--model_framework unet", **told)
    tool = load_script("export_onnx", REPOSITORY / "train_scripts")
    tool.main(read(ExportSettings, [str(tmp_path / "t.ckpt"), "--out", str(tmp_path / "new" / "t.onnx")]))
    assert "largest difference from PyTorch: " in capsys.readouterr().out
    for shape in ((1, 13, 32, 32), (3, 13, 65, 50), (2, 13, 64, 128)):
        x = images_of(*shape)
        session, found = run_onnx(tmp_path / "new" / "t.onnx", x)
        with torch.no_grad():
            np.testing.assert_allclose(found, network(x).numpy(), rtol=0, atol=1e-4)
    assert session.get_inputs()[0].shape == ["batch", 13, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 8, "height", "width"]
    meta = session.get_modelmeta().custom_metadata_map
    assert (meta["modality"], json.loads(meta["bands"])) == ("s2", {"s2": list(S2.bands)})
    assert json.loads(meta["unit"]) == {"s2": "DN"}
    assert json.loads(meta["classes"]) == list(DFC2020.classes)
    assert meta["size"] == "any height and width from 32 pixels"
    normalised = json.loads(meta["normalization"])["s2"]
    assert (normalised["normalization"], normalised["mean"]) == ("common", STATISTICS["mean"])
    assert (tmp_path / "new" / "t.onnx").read_bytes().find(str(REPOSITORY).encode()) < 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.onnx"]


def test_pspnet_has_one_size(tmp_path):
    network = save_transfer(tmp_path / "p.ckpt", "--model_framework pspnet --input_type s12 --fusion_type twin")
    with pytest.raises(
        ValueError, match=r"--size 0: must be one size, such as 256: ONNX has this head \(pspnet, upernet"
    ):
        export(ExportSettings(str(tmp_path / "p.ckpt"), tmp_path / "p.onnx"))
    result = export(ExportSettings(str(tmp_path / "p.ckpt"), tmp_path / "p.onnx", size=50))
    assert result.difference < 1e-4
    x = images_of(3, 15, 50, 50)
    session, found = run_onnx(tmp_path / "p.onnx", x)
    with torch.no_grad():
        np.testing.assert_allclose(found, network(x).numpy(), rtol=0, atol=1e-4)
    assert session.get_inputs()[0].shape == ["batch", 15, 50, 50]
    assert "s1 VV VH then s2 B1" in session.get_modelmeta().custom_metadata_map["input"]


@pytest.mark.parametrize("architecture", ["unet", "deeplabv3plus", "fpn", "pspnet", "upernet", "pan"])
@pytest.mark.parametrize("side", [50, 64, 33])
def test_what_is_exported_is_the_network(architecture, side):
    torch.manual_seed(0)
    network = build_segmenter(architecture, "tu-test_resnet", 2, 3).eval()
    wrapped = AnySize(network)
    x = images_of(2, 2, max(side, wrapped.least), max(side + 7, wrapped.least))
    with torch.no_grad():
        torch.testing.assert_close(wrapped(x), network(x))
    assert wrapped.one_size == (architecture in ("pspnet", "upernet"))


def test_a_branch_of_a_twin_is_the_branch(tmp_path, monkeypatch):
    seen = catch(monkeypatch)
    path = save_checkpoint(tmp_path / "twin.ckpt", "--input_type s12", bands={"s1": list(S1.bands)})
    wanted = r"--modality : must be one of s1, s2: --model .*twin\.ckpt has a branch for each"
    with pytest.raises(ValueError, match=wanted):
        export(ExportSettings(str(path), tmp_path / "t.onnx"))
    export(ExportSettings(str(path), tmp_path / "t.onnx", modality="s1"))
    network, channels, size, told = seen
    assert (channels, size, told["modality"]) == (2, 0, "s1")
    x = images_of(1, 2, 40, 33)
    with torch.no_grad():
        expected = network.network(s1=x, s2=torch.zeros(1, 13, 40, 33))["s1"]
        torch.testing.assert_close(network(x), expected)


def test_change_takes_both_dates(tmp_path, monkeypatch):
    seen = catch(monkeypatch)
    network = save_transfer(tmp_path / "c.ckpt", "--dataset OSCD --model_framework unet", OSCD)
    export(ExportSettings(str(tmp_path / "c.ckpt"), tmp_path / "c.onnx"))
    wrapped, channels, _, told = seen
    assert channels == 26
    assert "2 dates one after the other" in told["input"]
    assert "positive where change is seen" in told["output"]
    x = images_of(1, 26, 40, 64)
    with torch.no_grad():
        torch.testing.assert_close(wrapped(x), network(x))


def catch(monkeypatch):
    """What would be written."""
    seen = []
    monkeypatch.setattr("cromss.training.export.write_onnx", lambda *given: seen.extend(given[:4]) or 0.0)
    return seen


@pytest.mark.parametrize("folder", ["", "runs/a/"])
def test_the_checkpoint_is_told_by_its_name_alone(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    seen = catch(monkeypatch)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    save_transfer(f"{folder}my last.ckpt", "--model_framework unet")
    export(ExportSettings(f"{folder}my last.ckpt", tmp_path / "a.onnx"))
    assert seen[3]["checkpoint"] == "my last.ckpt"


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_file_that_says_something_else_is_not_kept(tmp_path, monkeypatch, difference):
    def export_empty(network, shape, size, told):
        import onnx

        return onnx.ModelProto()

    monkeypatch.setattr("cromss.models.onnx_export._exported", export_empty)
    monkeypatch.setattr("cromss.models.onnx_export._difference", lambda *given: difference)
    network = AnySize(build_segmenter("unet", "tu-test_resnet", 2, 3).eval())
    with pytest.raises(ValueError, match=r"--out .*a\.onnx: not written, logits differ by .* more than 0\.0001"):
        write_onnx(network, 2, 0, {}, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_counts_what_failed(monkeypatch, capsys):
    benchmark = load_script("onnx_export", REPOSITORY / "benchmarks")
    built = build_segmenter("unet", "tu-test_resnet", 2, 3)
    monkeypatch.setattr(benchmark, "networks", lambda: [("a", lambda: built, 2), ("b", lambda: built, 2)])
    monkeypatch.setattr(benchmark, "write_onnx", Mock(side_effect=[1e-6, ValueError("differs")]))
    assert benchmark.main() == 1
    assert [line.split(", ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "any size: 1.0e-06",
        "any size: differs",
    ]


def test_a_network_that_cannot_be_exported_is_refused_in_one_line(tmp_path, monkeypatch):
    def fails(*given, **words):
        cause = ValueError("\x1b[31mno such\x1b[0m operator\nand much more")
        raise RuntimeError("\x1b[96mThis is step 1/3\x1b[0m of the export") from cause

    monkeypatch.setattr(torch.onnx, "export", fails)
    network = AnySize(build_segmenter("unet", "tu-test_resnet", 2, 3).eval())
    with pytest.raises(ValueError, match=r"a\.onnx: not written, no such operator; try one size, --size 256$"):
        write_onnx(network, 2, 0, {}, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("MODEL --out a.pt", "--out a.pt: must be a file that ends with .onnx"),
        ("MODEL --out a.onnx --size -1", "--size -1: must be 0 to 16384"),
        ("MODEL --out a.onnx --size 8", "--size 8: must be at least 32"),
        ("MODEL --out a.onnx --modality s2", "--modality s2: must be left out: --model .* takes s2, stacked"),
        ("missing.ckpt --out a.onnx", "missing.ckpt: no such file"),
        ("folder --out a.onnx", "no checkpoint in this folder"),
        ("plain.pth --out a.onnx", "plain.pth: not a checkpoint of train_pretrain_mm.py"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    torch.save({"conv1.weight": torch.ones(1)}, "plain.pth")
    save_transfer("t.ckpt", "--model_framework unet")
    with pytest.raises(ValueError, match=line) as error:
        export(read(ExportSettings, arguments.replace("MODEL", "t.ckpt").split()))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.onnx").exists()


def test_missing_packages_are_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("cromss.models.onnx_export.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=r"onnxscript is not installed; pip install 'cromss\[onnx\]'"):
        export(ExportSettings("t.ckpt", tmp_path / "a.onnx"))


def test_an_old_pytorch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.6.0+cu124"))
    with pytest.raises(ValueError, match=r"^PyTorch 2\.6\.0\+cu124 does not write .* get 2\.7 or later$"):
        export(ExportSettings("t.ckpt", tmp_path / "a.onnx"))
