"""Which layers suffer from noisy labels: a network trained on them beside one trained on exact labels."""

from cromss.config import run
from cromss.settings.analysis import AnalysisSettings
from cromss.start_up import fast_imports


def main(settings: AnalysisSettings) -> None:
    """Compare the two layer by layer, and say what was found."""
    with fast_imports():
        from cromss.training.analysis import analyse

    page = analyse(settings)
    print(*page.finding, f"written: {page.path}", sep="\n")


if __name__ == "__main__":
    run(main, AnalysisSettings)
