"""The batch relation of multi-level logit distillation."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, repeat_for_samples, soften
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class BatchRelation(LogitLoss):
    """Teaches which samples of a batch have like probabilities.

    |P P' - Q Q'|^2 / B, with the teacher's and the student's probabilities P and Q (B, K) at
    temperature T. There is no factor T^2. The labels are not used. It relates the samples of a
    batch, those of cells (B, N, K) cell by cell.

    Args:
        temperature: T, greater than 0.

    Raises:
        ValueError: if `temperature` is not greater than 0.

    Source: Jin et al., "Multi-Level Logit Distillation" (CVPR 2023), batch-level alignment.

    Examples:
        >>> loss = keras_sdd.losses.BatchRelation(temperature=1.0)
        >>> teacher = np.log([[0.75, 0.25], [0.25, 0.75]])
        >>> student = np.zeros((2, 2))  # both samples alike
        >>> values = loss(np.array([0, 1]), teacher, student)
        >>> [round(float(x), 3) for x in values]  # four differences of 0.125: 4 * 0.125^2 / 2
        [0.031, 0.031]
    """

    relates_samples = True

    def __init__(self, temperature: float = 4.0) -> None:
        self.temperature = check_number("temperature", temperature, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        teacher, student = (
            ops.softmax(soften(x, self.temperature)) for x in (teacher_logits, student_logits)
        )
        _, _, across = multiply_samples(teacher, student)
        return repeat_for_samples(compare_samples(across), labels)


def multiply_samples(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Relate the samples of probabilities P and Q (B, ..., K).

    The difference is taken before the products, where little of it would be left.

    Returns:
        D = P - Q and S = P + Q as (..., B, K), and D S' (..., B, B).
    """
    teacher, student = (ops.moveaxis(x, 0, -2) for x in (teacher, student))
    gap, total = teacher - student, teacher + student
    return gap, total, ops.matmul(gap, ops.swapaxes(total, -1, -2))


def compare_samples(across: Tensor) -> Tensor:
    """|P P' - Q Q'|^2 / B (...): P P' - Q Q' is half of D S' and its transpose."""
    gap = (across + ops.swapaxes(across, -1, -2)) / 2
    return ops.mean(ops.sum(gap**2, axis=-1), axis=-1)
