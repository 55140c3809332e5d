"""WTTM: transformed teacher matching, weighted by sample."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, divergence
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class WTTM(LogitLoss):
    """`TTM` in which samples count more whose teacher spreads its probability.

    sum(p^g) * KL(p^g / sum p^g || q); the sum over the classes lies between 1, of a certain
    teacher, and K^(1 - g), of an undecided one. The labels are not used.

    Args:
        power: g, greater than 0; the weights are meant for g below 1.

    Raises:
        ValueError: if `power` is not greater than 0.

    Source: Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (ICLR
    2024).

    Examples:
        >>> loss = keras_sdd.losses.WTTM(power=0.5)
        >>> teacher = np.log([[0.9, 0.1]])
        >>> value = loss(np.array([0]), teacher, np.zeros((1, 2)))
        >>> round(float(value[0]), 4)  # 0.1308, that of `TTM`, times 0.9^0.5 + 0.1^0.5
        0.1655
    """

    def __init__(self, power: float = 0.2) -> None:
        self.power = check_number("power", power, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        powers = self.power * ops.log_softmax(teacher_logits)
        total = ops.logsumexp(powers, axis=-1, keepdims=True)
        loss = divergence(powers - total, ops.log_softmax(student_logits))
        return ops.exp(ops.squeeze(total, -1)) * loss
