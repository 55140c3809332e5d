"""Several logit losses as one."""

from collections.abc import Sequence

import keras

from keras_sdd._checks import check_numbers
from keras_sdd.losses.base import LogitLoss, check_logit_loss
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class Sum(LogitLoss):
    """The weighted sum of logit losses.

    It relates samples if any of them does.

    Args:
        losses: sequence of `LogitLoss`, one or more.
        weights: a number for each of them, 0 or greater; None for 1 each.

    Raises:
        ValueError: for anything else.

    Examples:
        >>> parts = [keras_sdd.losses.KD(1.0), keras_sdd.losses.NKD()]
        >>> teacher, student = np.log([[0.6, 0.3, 0.1]]), np.zeros((1, 3))
        >>> [round(float(part(np.array([0]), teacher, student)[0]), 4) for part in parts]
        [0.2007, 1.6989]
        >>> loss = keras_sdd.losses.Sum(parts, weights=(1.0, 0.1))
        >>> round(float(loss(np.array([0]), teacher, student)[0]), 4)
        0.3706
    """

    def __init__(self, losses: Sequence[LogitLoss], weights: Sequence[float] | None = None) -> None:
        self.losses = tuple(losses) if isinstance(losses, (list, tuple)) else (losses,)
        if not self.losses:
            raise ValueError("A sum needs one loss or more. Received: losses=()")
        for loss in self.losses:
            check_logit_loss(loss)
        if weights is not None:
            weights = check_numbers("weights", weights, count=len(self.losses))
        self.weights = weights
        self.relates_samples = any(loss.relates_samples for loss in self.losses)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        weights = self.weights or [1.0] * len(self.losses)
        return sum(
            weight * loss(labels, teacher_logits, student_logits)
            for weight, loss in zip(weights, self.losses, strict=True)
        )
