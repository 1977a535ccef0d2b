"""Transfer of a pretrained encoder to a set with exact labels."""

from cromss.config import run
from cromss.settings import FinetuneSettings


def main(settings: FinetuneSettings) -> None:
    """Fine-tune, score every test tile, and print the scores."""
    from cromss.metrics import MEANS
    from cromss.training import finetune

    metrics = finetune(settings)
    print("  ".join(f"{name} {100 * metrics[key]:.2f} %" for key, name in MEANS.items()))


if __name__ == "__main__":
    run(main, FinetuneSettings)
