"""TTM: transformed teacher matching."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, divergence, soften
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class TTM(LogitLoss):
    """Divergence from a softened teacher to the student as it is.

    KL(p^g / sum p^g || q) with the teacher's and the student's probabilities p and q at
    temperature 1. A power g of the probabilities is a temperature 1 / g of the logits; the student
    has none, and no factor T^2 is needed. The labels are not used.

    Args:
        power: g, greater than 0.

    Raises:
        ValueError: if `power` is not greater than 0.

    Source: Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (ICLR
    2024).

    Examples:
        >>> loss = keras_sdd.losses.TTM(power=0.5)
        >>> teacher = np.log([[0.9, 0.1]])  # of which the roots are as 0.75 to 0.25
        >>> value = loss(np.array([0]), teacher, np.zeros((1, 2)))
        >>> round(float(value[0]), 4)
        0.1308
    """

    def __init__(self, power: float = 0.1) -> None:
        self.power = check_number("power", power, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        teacher = ops.log_softmax(soften(teacher_logits, 1.0 / self.power))
        return divergence(teacher, ops.log_softmax(student_logits))
