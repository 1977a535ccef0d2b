"""Transfer of a pretrained encoder to a set with exact labels."""

from cromss.config import run
from cromss.settings import FinetuneSettings
from cromss.signals import REQUEUE, listen
from cromss.start_up import fast_imports
from cromss.tables import in_words


def main(settings: FinetuneSettings) -> None:
    """Fine-tune, score every test pixel, and print the scores."""
    scores = settings.data.task.scores  # a set that is not there is refused before the slow import
    listen(REQUEUE)  # before the slow import: it would end the process
    with fast_imports():
        from cromss.training import finetune

    print(in_words(finetune(settings), scores))


if __name__ == "__main__":
    run(main, FinetuneSettings)
