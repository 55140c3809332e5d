"""The class relation of multi-level logit distillation."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, repeat_for_samples, soften
from keras_sdd.losses.batch_relation import multiply_samples
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class ClassRelation(LogitLoss):
    """Teaches which classes are probable in the same samples of a batch.

    |P' P - Q' Q|^2 / K, with the teacher's and the student's probabilities P and Q (B, K) at
    temperature T. There is no factor T^2. The labels are not used. It relates the samples of a
    batch, those of cells (B, N, K) cell by cell.

    Args:
        temperature: T, greater than 0.

    Raises:
        ValueError: if `temperature` is not greater than 0.

    Source: Jin et al., "Multi-Level Logit Distillation" (CVPR 2023), class-level alignment.

    Examples:
        >>> loss = keras_sdd.losses.ClassRelation(temperature=1.0)
        >>> teacher = np.log([[0.75, 0.25], [0.25, 0.75]])
        >>> student = np.zeros((2, 2))  # classes that always come together
        >>> values = loss(np.array([0, 1]), teacher, student)
        >>> [round(float(x), 3) for x in values]
        [0.031, 0.031]
    """

    relates_samples = True

    def __init__(self, temperature: float = 4.0) -> None:
        self.temperature = check_number("temperature", temperature, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        teacher, student = (
            ops.softmax(soften(x, self.temperature)) for x in (teacher_logits, student_logits)
        )
        loss = compare_classes(*multiply_samples(teacher, student))
        return repeat_for_samples(loss, labels)


def compare_classes(gap: Tensor, total: Tensor, across: Tensor) -> Tensor:
    """|P' P - Q' Q|^2 / K (...) from what `multiply_samples` gives."""
    # P' P - Q' Q is half of D' S and its transpose. The trace of its square, turned round, needs
    # matrices (B, B) in place of (K, K), which are large with 1000 classes.
    gaps, totals = (ops.matmul(x, ops.swapaxes(x, -1, -2)) for x in (gap, total))
    squares = gaps * totals + across * ops.swapaxes(across, -1, -2)
    return ops.sum(squares, axis=(-2, -1)) / (2 * gap.shape[-1])
