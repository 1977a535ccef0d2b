"""Transfer of a pretrained encoder to a set with exact labels."""

from cromss.config import run
from cromss.settings import FinetuneSettings


def main(settings: FinetuneSettings) -> None:
    """Fine-tune, score every test pixel, and print the scores."""
    from cromss.training import finetune

    metrics = finetune(settings)
    print(
        "  ".join(
            told(name, metrics[key], metrics.get("std", {}).get(key)) for key, name in settings.data.task.scores.items()
        )
    )


def told(name: str, score: float | None, spread: float | None) -> str:
    """`IoU 12.34 +- 0.56 %`; a score that is not defined is a dash."""
    if score is None:
        return f"{name} -"
    return f"{name} {100 * score:.2f}" + (f" +- {100 * spread:.2f}" if spread is not None else "") + " %"


if __name__ == "__main__":
    run(main, FinetuneSettings)
