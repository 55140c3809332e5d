"""WSLD: weighted soft labels."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, nan_outside, soften, target_mask
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class WSLD(LogitLoss):
    """Soft labels that count less where the student knows the label better than the teacher.

    T^2 * w * CE(p, q) with probabilities at temperature T and
    w = 1 - exp(-CE_student / (CE_teacher + 1e-7)), of the labels at temperature 1 and without
    gradient. It is a cross-entropy: it does not vanish where the student equals the teacher.

    Args:
        temperature: T, greater than 0.

    Raises:
        ValueError: if `temperature` is not greater than 0.

    Source: Zhou et al., "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
    Tradeoff Perspective" (ICLR 2021). The weight of the term there is 2.25 on CIFAR-100.

    Examples:
        >>> loss = keras_sdd.losses.WSLD(temperature=1.0)
        >>> teacher, student = np.log([[0.75, 0.25]]), np.zeros((1, 2))
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 4)  # (1 - exp(-ln 2 / ln(4 / 3))) ln 2
        0.6309
    """

    def __init__(self, temperature: float = 4.0) -> None:
        self.temperature = check_number("temperature", temperature, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        num_classes = student_logits.shape[-1]
        mask = target_mask(labels, num_classes)
        teacher, student = (soften(x, 1.0) for x in (teacher_logits, student_logits))
        # -log of the probability of the label.
        of_teacher, of_student = (
            ops.logsumexp(x, axis=-1) - ops.sum(ops.where(mask, x, 0.0), axis=-1)
            for x in (teacher, student)
        )
        weight = 1.0 - ops.exp(-ops.stop_gradient(of_student / (of_teacher + 1e-7)))
        soft_labels = ops.softmax(teacher / self.temperature)
        losses = -ops.sum(soft_labels * ops.log_softmax(student / self.temperature), axis=-1)
        return self.temperature**2 * weight * losses * nan_outside(labels, num_classes)
