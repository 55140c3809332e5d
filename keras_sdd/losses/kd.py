"""KD: classic knowledge distillation."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, divergence, soften
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class KD(LogitLoss):
    """Kullback-Leibler divergence from the teacher's to the student's softened classes.

    T^2 * KL(softmax(t / T) || softmax(s / T)); the labels are not used.

    Args:
        temperature: T, greater than 0.

    Raises:
        ValueError: if `temperature` is not greater than 0.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network"; eq. 1 of the SDD paper.

    Examples:
        >>> loss = keras_sdd.losses.KD(temperature=1.0)
        >>> teacher = np.log([[0.75, 0.25]])  # logits of these probabilities
        >>> student = np.log([[0.5, 0.5]])
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 4)  # 0.75 ln(0.75 / 0.5) + 0.25 ln(0.25 / 0.5)
        0.1308
    """

    def __init__(self, temperature: float = 4.0) -> None:
        self.temperature = check_number("temperature", temperature, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        teacher = ops.log_softmax(soften(teacher_logits, self.temperature))
        student = ops.log_softmax(soften(student_logits, self.temperature))
        return self.temperature**2 * divergence(teacher, student)
