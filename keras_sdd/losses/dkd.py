"""DKD: decoupled knowledge distillation."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import (
    LogitLoss,
    binary_divergence,
    nan_outside,
    soften,
    split_target,
    target_mask,
)
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class DKD(LogitLoss):
    """KD split into its target-class part and its non-target-class part.

    T^2 * (alpha * TCKD + beta * NCKD): TCKD is the divergence between the probabilities of
    "target or not", NCKD the divergence between the other classes among themselves.

    Args:
        alpha: weight of the target-class part, 0 or greater.
        beta: weight of the non-target-class part, 0 or greater.
        temperature: T, greater than 0.

    Raises:
        ValueError: for a weight below 0, or a temperature that is not greater than 0.

    Source: Zhao et al., "Decoupled Knowledge Distillation" (CVPR 2022), eq. 7.

    Examples:
        >>> loss = keras_sdd.losses.DKD(alpha=1.0, beta=8.0, temperature=1.0)
        >>> teacher = np.log([[0.6, 0.3, 0.1]])
        >>> student = np.log([[0.6, 0.1, 0.3]])  # as sure of class 0, and mistaken in the others
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 4)  # 1 * 0 + 8 * (0.75 ln 3 + 0.25 ln(1 / 3))
        4.3944
    """

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        self.alpha = check_number("alpha", alpha)
        self.beta = check_number("beta", beta)
        self.temperature = check_number("temperature", temperature, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        num_classes = student_logits.shape[-1]
        mask = target_mask(labels, num_classes)
        teacher, teacher_others = split_target(soften(teacher_logits, self.temperature), mask)
        student, student_others = split_target(soften(student_logits, self.temperature), mask)
        target = binary_divergence(teacher, student)
        others = ops.where(mask, 0.0, ops.exp(teacher_others) * (teacher_others - student_others))
        loss = self.alpha * target + self.beta * ops.sum(others, axis=-1)
        return self.temperature**2 * loss * nan_outside(labels, num_classes)
