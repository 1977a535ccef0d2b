"""Segmenter's mask transformer: masks as the paper defines them, for any number of classes and any grid."""

import numpy as np
import pytest
import torch

from cromss.models.mask_transformer import MaskTransformer
from cromss.models.stages import by_stage

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 32


def build(num_classes, embed_dim=DIM, **options):
    torch.manual_seed(0)
    return MaskTransformer(embed_dim, num_classes, **options)


def randomise(decoder):
    """Give every parameter values that differ, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return decoder


def tokens(height=3, width=5, batch=2, embed_dim=DIM):
    return torch.randn(batch, embed_dim, height, width, generator=torch.Generator().manual_seed(2))


def unit(vector):
    return vector / np.sqrt((vector**2).sum())


def naive_masks(decoder, patches, classes):
    """`(N, D)` patches and `(K, D)` classes -> `(N, K)`, one number after the other."""
    weights = {name: value.detach().double().numpy() for name, value in decoder.named_parameters()}
    masks = np.empty((len(patches), len(classes)))
    for n, patch in enumerate(patches):
        for k, embedding in enumerate(classes):
            one = unit(weights["project_patches.weight"] @ patch)
            other = unit(weights["project_classes.weight"] @ embedding)
            masks[n, k] = sum(a * b for a, b in zip(one, other))
        if len(classes) > 2:
            mean, variance = masks[n].mean(), ((masks[n] - masks[n].mean()) ** 2).mean()
            masks[n] = (masks[n] - mean) / np.sqrt(variance + 1e-5)
        masks[n] = masks[n] * weights["mask_norm.weight"] + weights["mask_norm.bias"]
    return masks


@pytest.mark.parametrize("num_classes", [1, 2, 3, 8])
def test_masks_are_normalised_products_of_the_projections(num_classes):
    decoder = randomise(build(num_classes))
    seen = []
    decoder.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    masks = decoder([tokens()]).detach().numpy()
    assert masks.shape == (2, num_classes, 3, 5)
    for image, encoded in zip(masks, seen[0].double().numpy()):
        assert len(encoded) == 3 * 5 + num_classes
        expected = naive_masks(decoder, encoded[:15], encoded[15:])
        by_place = np.array([[image[:, row, column] for column in range(5)] for row in range(3)])
        np.testing.assert_allclose(by_place.reshape(15, num_classes), expected, atol=2e-5)


def test_only_the_last_features_count():
    decoder = build(3).eval()
    last = tokens()
    others = [torch.full((2, 7, 12, 20), torch.nan), torch.full((2, DIM, 6, 10), torch.nan)]
    torch.testing.assert_close(decoder([*others, last]), decoder([last]))


@pytest.mark.parametrize("num_classes", [2, 5])
def test_permuted_classes_permute_the_masks(num_classes):
    decoder = randomise(build(num_classes)).eval()
    before = decoder([tokens()])
    order = torch.arange(num_classes).roll(1)
    with torch.no_grad():
        decoder.class_embeddings.copy_(decoder.class_embeddings[:, order])
        decoder.mask_norm.weight.copy_(decoder.mask_norm.weight[order])
        decoder.mask_norm.bias.copy_(decoder.mask_norm.bias[order])
    after = decoder([tokens()])
    torch.testing.assert_close(after, before[:, order], atol=1e-5, rtol=1e-5)
    assert (after - before).abs().max() > 0.1


def test_moved_patches_move_the_masks():
    """Tokens carry their places themselves; the decoder adds none."""
    decoder = randomise(build(4)).eval()
    images = tokens()
    torch.testing.assert_close(decoder([images.flip(2, 3)]), decoder([images]).flip(2, 3), atol=1e-5, rtol=1e-5)


def test_classes_see_every_patch():
    """One patch that changes, changes the masks of the others through the class embeddings."""
    decoder = randomise(build(4)).eval()
    images = tokens()
    changed = images.clone()
    changed[0, :, 0, 0] += 3
    difference = (decoder([changed]) - decoder([images])).abs()
    assert difference[0, :, 2, 4].max() > 1e-4
    assert difference[1].max() < 1e-5


@pytest.mark.parametrize("num_classes", [1, 2, 3, 9])
def test_every_parameter_gets_a_gradient(num_classes):
    decoder = build(num_classes)
    masks = decoder([tokens()])
    (masks * torch.randn_like(masks)).sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("num_classes", [1, 2, 3, 9])
def test_fresh_logits_have_about_unit_spread(num_classes):
    """Neither dead, as a norm over one mask would be, nor saturated, as one over two would be."""
    masks = build(num_classes, embed_dim=128)([tokens(8, 8, embed_dim=128)])
    assert 0.3 < masks.std() < 3
    assert all(len(mask.detach().unique()) > 32 for mask in masks[0])


def test_one_mask_learns_to_tell_patches_apart():
    decoder = build(1, depth=1)
    images = tokens(4, 4)
    labels = (images[:, :1] > 0).float()
    optimiser = torch.optim.Adam(decoder.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(decoder([images]), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < losses[0]


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 3), (13, 11)])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_any_grid(grid, num_classes):
    masks = build(num_classes)([tokens(*grid)])
    assert masks.shape == (2, num_classes, *grid)
    assert masks.isfinite().all()


@pytest.mark.parametrize(
    ("embed_dim", "heads"), [(32, 1), (64, 1), (100, 1), (192, 3), (200, 2), (384, 6), (768, 12), (320, 5)]
)
def test_heads_have_about_64_channels(embed_dim, heads):
    assert build(2, embed_dim, depth=1).blocks[0].attn.num_heads == heads


def test_depth_and_heads_are_as_told():
    decoder = build(2, depth=3, num_heads=4)
    assert [block.attn.num_heads for block in decoder.blocks] == [4, 4, 4]


def test_initial_weights_are_those_of_a_vit():
    decoder = build(50, 128)
    small = [decoder.class_embeddings, decoder.project.weight, *(block.mlp.fc1.weight for block in decoder.blocks)]
    small += [block.attn.qkv.weight for block in decoder.blocks]
    assert all(abs(weight.std().item() - 0.02) < 0.002 for weight in small)
    large = [decoder.project_patches.weight, decoder.project_classes.weight]
    assert all(abs(weight.std().item() - 128**-0.5) < 0.005 for weight in large)
    biases = [parameter for name, parameter in decoder.named_parameters() if name.endswith("bias")]
    assert len(biases) == 1 + 2 * 6 + 1 + 1
    assert all((bias == 0).all() for bias in biases)
    assert (build(3).mask_norm.weight == 1).all()
    assert build(1, 64).mask_norm.weight.item() == 8


@pytest.mark.parametrize("num_classes", [1, 3])
def test_what_is_done_last_is_of_the_last_stage(num_classes):
    decoder = build(num_classes)
    stages = list(by_stage(decoder).values())
    last = [decoder.project_patches, decoder.project_classes, decoder.mask_norm]
    wanted = [id(parameter) for module in last for parameter in module.parameters()]
    assert [id(parameter) for parameter in stages[-1]][-4:] == wanted
    first = [id(parameter) for parameter in (decoder.class_embeddings, *decoder.project.parameters())]
    assert [id(parameter) for parameter in stages[0]] == first


def test_saved_and_loaded_it_stays_the_same(tmp_path):
    decoder = randomise(build(3))
    torch.save(decoder.state_dict(), tmp_path / "decoder.pt")
    other = MaskTransformer(DIM, 3)
    other.load_state_dict(torch.load(tmp_path / "decoder.pt", weights_only=True))
    torch.testing.assert_close(other([tokens()]), decoder([tokens()]))


@pytest.mark.parametrize("num_classes", [1, 4])
def test_mixed_precision_gives_about_the_same(num_classes):
    decoder = build(num_classes)
    with torch.autocast("cpu", torch.bfloat16):
        masks = decoder([tokens()])
    torch.testing.assert_close(masks.float(), decoder([tokens()]), atol=0.15, rtol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embed_dim": 0}, "embed_dim 0: at least 1 is needed"),
        ({"embed_dim": -64}, "embed_dim -64: at least 1 is needed"),
        ({"num_classes": 0}, "num_classes 0: at least 1 is needed"),
        ({"num_classes": -2}, "num_classes -2: at least 1 is needed"),
        ({"depth": 0}, "depth 0: at least 1 is needed"),
        ({"depth": -1}, "depth -1: at least 1 is needed"),
        ({"num_heads": 0}, "num_heads 0: must divide the 32 channels"),
        ({"num_heads": -4}, "num_heads -4: must divide the 32 channels"),
        ({"num_heads": 3}, "num_heads 3: must divide the 32 channels"),
        ({"num_heads": 64}, "num_heads 64: must divide the 32 channels"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        MaskTransformer(**{"embed_dim": DIM, "num_classes": 3} | arguments)
    assert "\n" not in str(caught.value)
