"""Our pretrainer's tensor names and the published ones (arXiv 2405.01217), as a table of prefixes."""

from collections.abc import Mapping

import torch

from cromss.models.stems import find_stems, listed
from cromss.models.weight_files import WeightsError

PUBLISHED_PREFIXES = {
    "mid": {
        "encoders.s1.": "net.encoder1.",
        "encoders.s2.": "net.encoder.",
        "encoders.common.": "net.encoder_common.",
        "decoder.": "net.decoder.",
        "segmentation_head.": "net.segmentation_head.",
    },
    "late": {
        "networks.s1.": "net.model1.",
        "networks.s2.": "net.model2.",
        "networks.common.": "net.model_common.",
    },
    "single": {"networks.s1.": "net.", "networks.s2.": "net."},
}
"""Fusion -> {our prefix: the published one} (arXiv 2405.01217); `common` is our own choice."""


def to_published(state_dict: Mapping[str, torch.Tensor], fusion: str) -> dict[str, torch.Tensor]:
    """Rename our pretrainer's tensors as in the published checkpoints.

    Args:
        state_dict: `build_pretrainer(...).state_dict()`.
        fusion: `"mid"`, `"late"`, or `"single"` for a pretrainer of one modality.

    Raises:
        WeightsError: Unknown fusion, or a name that does not belong to it.
    """
    if fusion not in PUBLISHED_PREFIXES:
        raise WeightsError(f"fusion {fusion!r}: choose one of {', '.join(PUBLISHED_PREFIXES)}")
    return _rename(state_dict, PUBLISHED_PREFIXES[fusion])


def from_published(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of a published checkpoint as in our pretrainer: undoes `to_published`.

    Mid and late fusion differ in their names; a single-modal network belongs to the sensor with as
    many bands as its stem.

    Raises:
        WeightsError: A name that no published network has.
    """
    return _rename(state_dict, _published_table(state_dict))


def _published_table(state_dict: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Published prefix -> ours, for the kind of network these names belong to."""
    for fusion, sign in (("mid", "net.encoder1."), ("late", "net.model1.")):
        if any(name.startswith(sign) for name in state_dict):
            return {theirs: ours for ours, theirs in PUBLISHED_PREFIXES[fusion].items()}
    stems = find_stems(state_dict)
    if len(stems) != 1 or stems[0].modality is None:
        raise WeightsError(f"state_dict: not a published network; encoders found: {listed(stems)}")
    return {"net.": f"networks.{stems[0].modality}."}


def _rename(state_dict: Mapping[str, torch.Tensor], prefixes: Mapping[str, str]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state_dict.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if old is None:
            raise WeightsError(f"state_dict: {name} does not begin with one of {', '.join(prefixes)}")
        renamed[prefixes[old] + name.removeprefix(old)] = tensor
    return renamed
