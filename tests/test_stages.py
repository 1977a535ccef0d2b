"""Which parameters share a learning rate, and in which order."""

import pytest
import torch
from torch import nn

from cromss.models import build_pretrainer
from cromss.models.stages import beside, by_stage, encoder_stages, trainable
from cromss.models.vit import ViTOptions


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.blocks = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(12))
        self.norm = nn.LayerNorm(1)


def test_blocks_in_order_and_the_unnamed_with_the_one_before():
    encoder = Encoder()
    stages = by_stage(encoder)
    assert list(stages) == ["stem", *(f"blocks.{i}" for i in range(12))]
    assert stages["stem"] == [encoder.token]
    assert stages["blocks.1"] == [encoder.blocks[1].weight]
    assert stages["blocks.11"] == [encoder.blocks[11].weight, encoder.norm.weight, encoder.norm.bias]


def test_a_stage_of_several_encoders_holds_all_of_them():
    first, second = Encoder(), Encoder()
    stages = encoder_stages([first, second])
    assert len(stages) == 13
    assert stages[3] == [first.blocks[2].weight, second.blocks[2].weight]


def test_beside_is_what_no_part_owns():
    whole = nn.ModuleDict({"encoder": Encoder(), "head": nn.Linear(1, 1)})
    assert beside(whole, [whole["encoder"]]) == [whole["head"].weight, whole["head"].bias]


def test_frozen_parameters_and_empty_stages_are_dropped():
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1), requires_grad=False)
    assert trainable([[other], [one, other]]) == [[one]]


@pytest.mark.parametrize("fusion", ["mid", "late"])
@pytest.mark.parametrize(("encoder_name", "count"), [("resnet18", 5 + 1), ("vit_tiny_patch16_224", 13 + 1)])
def test_stages_of_a_pretrainer(fusion, encoder_name, count):
    options = {"vit": ViTOptions(image_size=32)} if encoder_name.startswith("vit") else {}
    with torch.device("meta"):
        model = build_pretrainer(fusion, encoder_name, common_branch=True, **options)
    stages = model.stages()
    assert len(stages) == count
    assert sorted(map(id, (p for stage in stages for p in stage))) == sorted(map(id, model.parameters()))
    stems = [p for p in stages[0] if p.ndim == 4]
    assert [p.shape[1] for p in stems] == [2, 13, 15]
    heads = {id(p) for name, p in model.named_parameters() if "segmentation_head" in name or "pyramid" in name}
    assert heads < {id(p) for p in stages[-1]}
