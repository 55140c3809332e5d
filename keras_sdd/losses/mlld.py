"""MLLD: multi-level logit distillation of one view."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_sdd._checks import check_numbers
from keras_sdd.losses.base import LogitLoss, divergence, soften
from keras_sdd.losses.batch_relation import compare_samples, multiply_samples
from keras_sdd.losses.class_relation import compare_classes
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class MLLD(LogitLoss):
    """`KD`, `BatchRelation` and `ClassRelation`, summed over several temperatures.

    The sum over T of T^2 * KL(p || q) + |P P' - Q Q'|^2 / B + |P' P - Q' Q|^2 / K. The labels are
    not used. It relates the samples of a batch, those of cells (B, N, K) cell by cell.

    The one-view form in which later papers compare it. As they code it all parts are scaled by the
    masked part of the samples or classes, about a half, which is a matter of the weight. The
    authors' second, stronger view of every image is not part of this loss.

    Args:
        temperatures: one T or more, each greater than 0.

    Raises:
        ValueError: for no temperatures, or one that is not greater than 0.

    Source: Jin et al., "Multi-Level Logit Distillation" (CVPR 2023).

    Examples:
        >>> loss = keras_sdd.losses.MLLD(temperatures=(1.0,))
        >>> teacher, student = np.log([[0.75, 0.25]]), np.zeros((1, 2))
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 4)  # KL 0.1308, samples 0.0156, classes 0.0703
        0.2167
    """

    relates_samples = True

    def __init__(self, temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0)) -> None:
        self.temperatures = check_numbers("temperatures", temperatures, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        teacher_logits, student_logits = (soften(x, 1.0) for x in (teacher_logits, student_logits))
        total = 0.0
        for temperature in self.temperatures:
            teacher, student = (
                ops.log_softmax(x / temperature) for x in (teacher_logits, student_logits)
            )
            total = total + temperature**2 * divergence(teacher, student)
            products = multiply_samples(ops.exp(teacher), ops.exp(student))
            total = total + compare_samples(products[-1]) + compare_classes(*products)
        return total
