"""RLD: refined logit distillation."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import (
    EXCLUDED,
    LogitLoss,
    binary_divergence,
    nan_outside,
    soften,
    split_target,
    target_mask,
)
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class RLD(LogitLoss):
    """Takes a teacher's mistakes out of what it teaches, and keeps the rest.

    alpha * SCD + beta * MCD. SCD, sample confidence: t^2 times the divergence between the
    teacher's probability of its own likeliest class, or not, and the student's of the label, or
    not, at the confidence temperature t. MCD, masked correlation: T^2 times the divergence among
    the classes that the teacher ranks strictly below the label; where there is none, it is 0.

    Args:
        alpha: weight of sample confidence, 0 or greater.
        beta: weight of masked correlation, 0 or greater.
        temperature: T of masked correlation, greater than 0.
        confidence_temperature: t of sample confidence, greater than 0.

    Raises:
        ValueError: for a weight below 0, or a temperature that is not greater than 0.

    Source: Sun et al., "Knowledge Distillation with Refined Logits" (ICCV 2025).

    Examples:
        >>> loss = keras_sdd.losses.RLD(temperature=1.0)
        >>> teacher = np.log([[0.3, 0.6, 0.1]])  # takes class 0 for class 1
        >>> student = np.log([[0.5, 0.4, 0.1]])
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 4)  # it is to be as sure of class 0: 0.6 ln 1.2 + 0.4 ln 0.8
        0.0201
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        confidence_temperature: float = 1.0,
    ) -> None:
        self.alpha = check_number("alpha", alpha)
        self.beta = check_number("beta", beta)
        self.temperature = check_number("temperature", temperature, positive=True)
        self.confidence_temperature = check_number(
            "confidence_temperature", confidence_temperature, positive=True
        )

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        num_classes = student_logits.shape[-1]
        mask = target_mask(labels, num_classes)
        loss = self.alpha * self._compare_confidence(teacher_logits, student_logits, mask)
        loss = loss + self.beta * self._compare_others(teacher_logits, student_logits, mask)
        return loss * nan_outside(labels, num_classes)

    def _compare_confidence(self, teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
        likeliest = target_mask(ops.cast(ops.argmax(teacher, axis=-1), "int32"), teacher.shape[-1])
        temperature = self.confidence_temperature
        teacher, _ = split_target(soften(teacher, temperature), likeliest)
        student, _ = split_target(soften(student, temperature), mask)
        return temperature**2 * binary_divergence(teacher, student)

    def _compare_others(self, teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
        label_logit = ops.sum(ops.where(mask, teacher, 0.0), axis=-1, keepdims=True)
        # A compiler that computes the label's logit twice may find one rounding below the other.
        below = ops.logical_and(teacher < label_logit, ops.logical_not(mask))
        # Where all are masked the excluded are alike on both sides, and left out below.
        teacher, student = (
            ops.log_softmax(ops.where(below, soften(x, self.temperature), EXCLUDED))
            for x in (teacher, student)
        )
        gaps = ops.where(below, ops.exp(teacher) * (teacher - student), 0.0)
        return self.temperature**2 * ops.sum(gaps, axis=-1)
