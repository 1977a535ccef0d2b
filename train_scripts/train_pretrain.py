"""Single-modal pretraining on noisy labels."""

from cromss.config import run
from cromss.settings import SingleModalSettings
from cromss.signals import REQUEUE, listen
from cromss.start_up import fast_imports


def main(settings: SingleModalSettings) -> None:
    """Pretrain and print where the checkpoint is."""
    listen(REQUEUE)  # before the slow import: it would end the process
    with fast_imports():
        from cromss.training import pretrain

    print(pretrain(settings)["checkpoint"])


if __name__ == "__main__":
    run(main, SingleModalSettings)
