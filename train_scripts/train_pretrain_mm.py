"""CromSS pretraining: twin Sentinel-1 and Sentinel-2 encoders on noisy labels."""

from cromss.config import run
from cromss.settings import MultiModalSettings
from cromss.signals import REQUEUE, listen
from cromss.start_up import fast_imports


def main(settings: MultiModalSettings) -> None:
    """Pretrain and print where the checkpoint is."""
    listen(REQUEUE)  # before the slow import: it would end the process
    with fast_imports():
        from cromss.training import pretrain

    print(pretrain(settings)["checkpoint"])


if __name__ == "__main__":
    run(main, MultiModalSettings)
