"""Where settings meet components: from settings to metrics."""

from cromss.training.finetuning import finetune
from cromss.training.pretraining import pretrain

__all__ = ["finetune", "pretrain"]
