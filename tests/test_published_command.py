"""The command of the paper, on a set in its layout."""

import numpy as np
from sets import BANDS, SEASONS, write_published
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cromss.config import parse
from cromss.settings import MultiModalSettings
from cromss.training import pretrain

PUBLISHED = """
    --input_type s12 --fusion_type mid --model_type resnet50 --n_channels 13 --n_classes 9 --loss_type cd
    --consist_loss_type ce --label_smoothing --label_smoothing_factor 0.15 0.05 --label_smoothing_prior_type ts
    --sample_selection --sample_selection_rmup_func exp --sample_selection_rmdown_epoch 80 --sample_selection_prop 0.5
    --sample_selection_confidence_type ce --experiment ns_labels --validation 0.01 --num_workers 12
    --optimizer adam --learning_rate 0.005 --lr_adjust_type rop --lr_adjust 30
    --data_name_s1 0k_251k_uint8_s1.lmdb --data_name_s2 0k_251k_uint8_s2c.lmdb --data_name_label dw_labels.lmdb
"""


def test_published_command_on_the_published_layout(tmp_path):
    """Word for word but for paths, steps, batch size and device; 264 pixels, ResNet-50."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (4, SEASONS, 33, 33)).repeat(8, 2).repeat(8, 3).astype(np.uint8)
    arrays = {
        m: np.clip(labels[:, :, None] * 20 + rng.integers(0, 40, (4, SEASONS, len(BANDS[m]), 264, 264)), 0, 255)
        for m in ("s1", "s2")
    }
    write_published(tmp_path, {m: a.astype(np.uint8) for m, a in arrays.items()} | {"labels": labels})
    paths = ["--data_path", str(tmp_path), "--save_dir", str(tmp_path / "runs")]
    arguments = f"{PUBLISHED} --epochs 1 --batch_size 1 --max_steps 1 --accelerator cpu".split()
    pretrain(parse(MultiModalSettings, [*arguments, *paths]))
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "mid_s12_resnet50_seed42"
    losses = step_losses(folder)
    assert len(losses) == 1
    assert np.isfinite(losses).all()


def step_losses(run):
    events = EventAccumulator(str(run)).Reload()
    return [event.value for event in events.Scalars("train/loss_step")]
