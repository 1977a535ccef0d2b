"""One tester for all downstream networks, whatever their encoder, head and input."""

import torch

from cromss.models.segmenter import Segmenter


def batch(channels: int = 13, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def step(model: torch.nn.Module, images: torch.Tensor) -> None:
    """One training step on random images."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    model(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def check_trains_whole(model: Segmenter, num_classes: int = 4) -> None:
    """Every parameter that is trainable gets a gradient, the others none, and every stage is one of them."""
    logits = model(batch(model.in_channels))
    assert logits.shape == (2, num_classes, 64, 64)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)
    staged = [id(p) for stage in model.stages() for p in stage]
    assert sorted(staged) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert all(model.stages())


def check_frozen(model: Segmenter) -> None:
    """A training step on frozen encoders moves the rest; thawed, it trains what it trained before."""
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    for _ in range(2):
        model.freeze_encoder()
    frozen = {id(p) for encoder in model.encoders.values() for p in (*encoder.parameters(), *encoder.buffers())}
    names = {name for name, value in model.state_dict(keep_vars=True).items() if id(value) in frozen}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model.eval().train(), batch(model.in_channels))
    moved = changed(before, model.state_dict())
    assert names
    assert moved
    assert not names & moved
    assert not any(module.training for encoder in model.encoders.values() for module in encoder.modules())
    assert not {id(p) for stage in model.stages() for p in stage} & frozen
    for _ in range(2):
        model.unfreeze_encoder()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert all(module.training for module in model.modules())


def check_travels(model: Segmenter, other: Segmenter, path) -> None:
    """Saved and loaded into another network of its kind, it gives the same logits, at an odd size, too."""
    images = batch(model.in_channels, 33, 70)
    with torch.no_grad():
        torch.save(model.state_dict(), path)
        other.load_state_dict(torch.load(path, weights_only=True))
        assert torch.equal(other.eval()(images), model.eval()(images))
