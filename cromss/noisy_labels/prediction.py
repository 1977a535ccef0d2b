"""What a network says of each pixel, in the forms that confidences and losses share."""

from torch import Tensor


class Prediction:
    """Logits as distributions over the classes; the softmax is taken once, for all who need it.

    Attributes:
        logits: `(B, K, H, W)` float32.
        log_probs: Log-probabilities, the same shape.
        probs: Probabilities, the same shape.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.float()
        self.log_probs = self.logits.log_softmax(1)
        self.probs = self.log_probs.exp()

    @property
    def num_classes(self) -> int:
        """Number of classes `K`."""
        return self.logits.shape[1]


def as_prediction(logits: Tensor | Prediction) -> Prediction:
    """Logits as a `Prediction`, unless they are one already."""
    return logits if isinstance(logits, Prediction) else Prediction(logits)
