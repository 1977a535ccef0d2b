"""Settings of the scripts: one field = one flag = one YAML key. No torch here, so `--help` is instant."""

from cromss.settings.common import Encoder, Optimisation, Runtime
from cromss.settings.finetuning import DownstreamData, FinetuneSettings
from cromss.settings.pretraining import MultiModalSettings, PretrainData, PretrainSettings, SingleModalSettings

__all__ = [
    "DownstreamData",
    "Encoder",
    "FinetuneSettings",
    "MultiModalSettings",
    "Optimisation",
    "PretrainData",
    "PretrainSettings",
    "Runtime",
    "SingleModalSettings",
]
