"""NormKD: a temperature for each sample."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, divergence, soften
from keras_sdd.losses.standardized import standardize
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class NormKD(LogitLoss):
    """KD in which every sample has its own temperature, one for each network.

    T_teacher^2 * KL(softmax(t / T_teacher) || softmax(s / T_student)), where a temperature is the
    factor times the standard deviation of the network's logits over the classes (with K - 1); the
    student's carries gradient. It is `Standardized(KD(factor))`, weighted by the teacher's
    variance. The labels are not used.

    Args:
        factor: temperature of logits whose standard deviation is 1, greater than 0.

    Raises:
        ValueError: if `factor` is not greater than 0.

    Source: Chi et al., "NormKD: Normalized Logits for Knowledge Distillation" (2023).

    Examples:
        >>> loss = keras_sdd.losses.NormKD(factor=1.0)
        >>> teacher = np.array([[2.0, 0.0, -2.0]])  # of standard deviation 2
        >>> student = np.array([[-1.0, 0.0, 1.0]])
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 3)  # 2^2 times that of `Standardized(KD(1.0))`, 1.1504
        4.602
    """

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = check_number("factor", factor, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        (teacher, std), (student, _) = map(standardize, (teacher_logits, student_logits))
        teacher, student = (ops.log_softmax(soften(x, self.factor)) for x in (teacher, student))
        return (self.factor * ops.squeeze(std, -1)) ** 2 * divergence(teacher, student)
