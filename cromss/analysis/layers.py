"""The layers of a branch in the order in which they run, and their features, one layer at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cromss.models.fusion import LateFusion, Pretrainer
from cromss.models.vit import ViTEncoder, backbone

PARTS = ("encoder", "decoder", "head")


@dataclass(frozen=True)
class Layer:
    """A layer of a network.

    Attributes:
        name: Part and place in it, `"encoder.layer1.0.conv1"`; the same in every network of this kind.
        part: One of `PARTS`. The pyramid of a ViT is of the decoder, with which it is learned.
        module: A convolution, or a block of a ViT.
    """

    name: str
    part: str
    module: nn.Module


See = Callable[[Layer, torch.Tensor], None]


def list_layers(model: Pretrainer, branch: str, images: torch.Tensor) -> list[Layer]:
    """Convolutions and transformer blocks of a branch, as they run.

    Layers that do not run are left out, and so are those with one cell for the whole image (gates of
    squeeze-and-excitation, pooled context): there is no place in it that could have a class.

    Args:
        model: The network.
        branch: One of its branches.
        images: Any `(B, C, H, W)` of the branch, sides divisible by its encoder's `output_stride`.

    Raises:
        ValueError: No such branch.
    """
    running: list[Layer] = []

    def note(layer: Layer, features: torch.Tensor) -> None:
        """Layers of one cell an image, as gates, have no map."""
        if features.shape[-2:].numel() > 1:
            running.append(layer)

    visit(model, branch, _candidates(model, branch), images, note)
    return running


def visit(model: Pretrainer, branch: str, layers: Sequence[Layer], images: torch.Tensor, see: See) -> torch.Tensor:
    """Run a branch in evaluation mode without gradients and show the output of every layer as it comes.

    Features are dropped as soon as `see` returns.

    Args:
        model: The network.
        branch: One of its branches.
        layers: Layers to show.
        images: `(B, C, H, W)`, sides divisible by the encoder's `output_stride`.
        see: Takes a layer and its features `(B, C_l, h, w)`; tokens of several channel groups are averaged.

    Returns:
        Logits `(B, K, H, W)`.

    Raises:
        ValueError: No such branch.
    """
    encoder, training, hooks = _encoder(model, branch), model.training, []
    try:
        for layer in layers:
            hooks.append(layer.module.register_forward_hook(_shower(layer, encoder, images.shape[-2:], see)))
        model.eval()
        with torch.no_grad():
            return model.segment(branch, images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def _shower(layer: Layer, encoder: nn.Module, size: Sequence[int], see: See) -> Callable[..., None]:
    """A hook that shows what a layer puts out, tokens `(B, N, D)` as a map."""

    def show(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        """Hand on the output as a map."""
        see(layer, output if output.ndim == 4 else _as_map(output, encoder, size))

    return show


def _as_map(tokens: torch.Tensor, encoder: ViTEncoder, size: Sequence[int]) -> torch.Tensor:
    """Tokens of a block, with class tokens before and of `G` channel groups, -> `(B, D, h, w)`."""
    grid = [side // encoder.token_stride for side in size]
    return tokens[:, encoder.vit.num_prefix_tokens :].unflatten(1, (-1, *grid)).mean(1).permute(0, 3, 1, 2)


def _candidates(model: Pretrainer, branch: str) -> list[Layer]:
    """Every convolution, and of a ViT every block, in whatever order."""
    encoder = _encoder(model, branch)
    whole = model.networks[branch] if isinstance(model, LateFusion) else model
    learned = set(backbone(encoder).modules())
    roots = {"encoder": encoder, "decoder": whole.decoder, "head": whole.segmentation_head}
    blocks = set(encoder.vit.blocks) if isinstance(encoder, ViTEncoder) else set()
    layers = []
    for root, network in roots.items():
        for name, module in network.named_modules(prefix=root):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or module in blocks:
                part = "decoder" if root == "encoder" and module not in learned else root
                layers.append(Layer(name, part, module))
    return layers


def _encoder(model: Pretrainer, branch: str) -> nn.Module:
    if branch not in model.encoders:
        raise ValueError(f"--branch {branch}: this network has {', '.join(model.encoders)}")
    return model.encoders[branch]
