"""Networks as ONNX files: written, run beside the network itself, and kept only if both say the same."""

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from cromss.models.fusion import Pretrainer
from cromss.models.grid_pooling import GridPool
from cromss.models.mask_transformer import MaskTransformer
from cromss.models.segmenter import Segmenter

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OLDEST_TORCH = (2, 7)
TOLERANCE = 1e-4
"""Largest difference of a logit that is let pass."""

OPSET = 18
"""The first one with the antialiased resizing that ViTs do."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_AXES = {0: "batch", 2: "height", 3: "width"}


class AnySize(nn.Module):
    """A segmenter, or a branch of a pretrainer, for images of any size, in words that an export understands.

    Args:
        network: What is wrapped.
        branch: Branch of a pretrainer.

    Attributes:
        stride: What the encoder divides, in pixels.
        least: Smallest side, in pixels.
    """

    def __init__(self, network: Segmenter | Pretrainer, branch: str = ""):
        super().__init__()
        self.network = network
        self.branch = branch
        encoder = network.encoders[branch] if branch else network.encoder
        self.stride = encoder.output_stride
        self.least = self.stride * (1 if branch else network.smallest)

    @property
    def one_size(self) -> bool:
        """Whether a part can be exported for one size only: pooling to a grid (PSPNet, UPerNet), mask transformer."""
        return any(isinstance(module, GridPool | MaskTransformer) for module in self.modules())

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """What the network itself makes of images."""
        return self.network.segment_any_size(self.branch, images) if self.branch else self.network(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, C, H, W)` -> logits `(B, K, H, W)`."""
        height, width = images.shape[-2:]
        padded = self._mirrored(self._mirrored(images, 2), 3)
        logits = self.network.segment(self.branch, padded) if self.branch else self.network.network(padded)
        return logits[..., :height, :width]

    def _mirrored(self, images: torch.Tensor, axis: int) -> torch.Tensor:
        """Continued behind the last row or column by its mirror image, to a multiple of the stride."""
        last = images.shape[axis] - 1
        places = torch.arange((last // self.stride + 1) * self.stride, device=images.device)
        return images.index_select(axis, last - (places - last).abs())


def require_packages() -> None:
    """Refuse to go on without what the extra asks for.

    Raises:
        ValueError: A package is missing, or PyTorch is older than `OLDEST_TORCH`.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise ValueError(f"{missing[0]} is not installed; pip install 'cromss[onnx]'")
    if torch.__version__ < OLDEST_TORCH:
        raise ValueError(f"PyTorch {torch.__version__} does not write ONNX files of all networks; get 2.7 or later")


def write_onnx(network: AnySize, channels: int, size: int, told: Mapping[str, str], out: Path) -> float:
    """Write a network, run the file beside it at two sizes (with one size: two batches), and keep it if they agree.

    Args:
        network: What to write, in evaluation mode and on the CPU.
        channels: Number of bands of its input.
        size: Side of the images in pixels; 0 for any.
        told: Metadata.
        out: The file; it appears whole or not at all.

    Returns:
        Largest difference of a logit.

    Raises:
        ValueError: The export fails, or the file says something else than the network.
    """
    import onnx

    shapes = _shapes(network, channels, size)
    partial = out.with_name(f"{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        onnx.save(_exported(network, shapes[0], size, told), partial)
        difference = _difference(network, partial, shapes)
        if not difference <= TOLERANCE:
            raise ValueError(f"logits differ by {difference:.2g} from those of PyTorch, more than {TOLERANCE:g}")
        partial.replace(out)
    except OSError:
        raise
    except Exception as error:  # exporter and runtime have many kinds
        remedy = "" if size else "; try one size, --size 256"
        raise ValueError(f"--out {out}: not written, {_cause(error)}{remedy}") from error
    finally:
        partial.unlink(missing_ok=True)
    return difference


def _shapes(network: AnySize, channels: int, size: int) -> list[tuple[int, ...]]:
    """Input shapes to compare; the first one is what the export sees."""
    if size:
        return [(2, channels, size, size), (1, channels, size, size)]
    least, half = network.least, network.stride // 2
    return [(2, channels, 3 * least - half, 2 * least - 3), (1, channels, 2 * least, 3 * least + 1)]


def _exported(network: AnySize, shape: tuple[int, ...], size: int, told: Mapping[str, str]):
    """The network as a model of ONNX."""
    import onnx

    axes = [0] if size else list(_AXES)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network,
            (torch.rand(shape, generator=torch.Generator().manual_seed(0)),),
            dynamo=True,
            dynamic_shapes={"images": dict.fromkeys(axes, torch.export.Dim.DYNAMIC)},
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    model = program.model_proto
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]  # where the exporter was on this machine
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for axis in axes:
            value.type.tensor_type.shape.dim[axis].dim_param = _AXES[axis]
    onnx.helper.set_model_props(model, dict(told))
    return model


def _difference(network: AnySize, path: Path, shapes: Sequence[tuple[int, ...]]) -> float:
    """Largest difference between the logits of a file and of the network it was made of."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    differences = []
    for number, shape in enumerate(shapes):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            expected = network.plain(images)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        if found.shape != tuple(expected.shape):
            raise ValueError(f"logits are {found.shape}, not {tuple(expected.shape)} as PyTorch's")
        differences.append((torch.from_numpy(found) - expected).abs().max())
    return float(torch.stack(differences).max())


def _cause(error: BaseException) -> str:
    """First line of what an error came from, without colours: exporters wrap it in advice."""
    while error.__cause__:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
