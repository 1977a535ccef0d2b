"""Small ViTs with known weights, and what an encoder may expect of each of them."""

import copy
import zlib

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from cromss.models.recomputation import recompute_activations

CONTRACT = {"num_classes": 0, "global_pool": "", "dynamic_img_size": True}
TINY = CONTRACT | {"embed_dim": 64, "depth": 2, "num_heads": 2}


def fill(vit: VisionTransformer) -> VisionTransformer:
    """Weights that depend on nothing but their names."""
    state = {}
    for key, tensor in vit.state_dict().items():
        values = 0.1 * np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(tensor.shape))
        is_scale = "norm" in key and key.endswith("weight")
        state[key] = torch.tensor(values + is_scale, dtype=torch.float32)
    vit.load_state_dict(state)
    return vit.eval()


def noise(*shape: int) -> torch.Tensor:
    """One image `(1, *shape)`."""
    return torch.tensor(np.random.RandomState(0).standard_normal((1, *shape)), dtype=torch.float32)


def features(vit: VisionTransformer, images: torch.Tensor) -> list[torch.Tensor]:
    """Tokens after both blocks."""
    return vit.forward_intermediates(images, indices=[0, 1], norm=True, output_fmt="NLC", intermediates_only=True)


def check_contract(vit: VisionTransformer, num_groups: int) -> None:
    """Every token of every size, gradients everywhere, the same with checkpointing, copies and saved weights."""
    patch = vit.patch_embed.patch_size[0]
    vit = fill(vit)
    assert vit.patch_embed.num_patches == vit.patch_embed.grid_size[0] * vit.patch_embed.grid_size[1]
    assert vit.patch_embed.feat_ratio() == patch == vit.feature_info[0]["reduction"]
    for rows, columns in ((1, 1), (2, 5), vit.patch_embed.grid_size):
        images = noise(vit.in_chans, rows * patch, columns * patch).repeat(2, 1, 1, 1)
        levels = features(vit, images)
        assert [level.shape for level in levels] == [(2, num_groups * rows * columns, vit.embed_dim)] * 2
        torch.testing.assert_close(levels[0][0], levels[0][1])
    images = noise(vit.in_chans, 2 * patch, 2 * patch)
    gradients = []
    recomputing = copy.deepcopy(vit)
    assert recompute_activations(recomputing) >= len(vit.blocks)
    for network in (vit.train(), recomputing.train()):
        features(network, images)[1].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    without = [name for name, gradient in gradients[0].items() if gradient is None or not gradient.abs().any()]
    assert not without
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    other = copy.deepcopy(vit)
    with torch.no_grad():
        before = features(vit, images)[1]
        for parameter in other.parameters():
            parameter.zero_()
        assert not torch.equal(features(other, images)[1], before)
        other.load_state_dict(vit.state_dict())
        torch.testing.assert_close(features(other, images)[1], before)
