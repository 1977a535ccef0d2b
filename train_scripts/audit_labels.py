"""Which noisy labels to doubt: the pixels whose label both modalities of a pretrained twin doubt."""

from cromss.config import run
from cromss.settings.audit import AuditSettings


def main(settings: AuditSettings) -> None:
    """Audit the labels of a set, and say what was found."""
    from cromss.training.audit import audit

    result = audit(settings)
    print(*result.told, f"written: {result.out}", sep="\n")


if __name__ == "__main__":
    run(main, AuditSettings)
