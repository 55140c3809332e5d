"""NKD: normalized knowledge distillation."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import EXCLUDED, LogitLoss, nan_outside, soften, target_mask
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class NKD(LogitLoss):
    """Cross-entropy of the target class and of the normalized other classes, taught apart.

    -p_t log q_t - gamma * T^2 * sum over the other classes of p' log q', with the teacher's p and
    the student's q at temperature 1, and p', q' at temperature T renormalized without the target.
    It is a cross-entropy: it does not vanish where the student equals the teacher.

    Args:
        gamma: weight of the non-target part, 0 or greater.
        temperature: T of the non-target part, greater than 0.
        mask_target: whether the target class leaves the non-target part, as the paper writes it.
            `False` keeps it in: the reading of the SDD authors' code.

    Raises:
        ValueError: for a weight below 0, or a temperature that is not greater than 0.

    Source: Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation" (ICCV 2023),
    eq. 6.

    Examples:
        >>> loss = keras_sdd.losses.NKD(gamma=1.5, temperature=1.0)
        >>> teacher, student = np.log([[0.6, 0.3, 0.1]]), np.zeros((1, 3))
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 4)  # 0.6 ln 3 + 1.5 ln 2
        1.6989
    """

    def __init__(
        self, gamma: float = 1.5, temperature: float = 1.0, mask_target: bool = True
    ) -> None:
        self.gamma = check_number("gamma", gamma)
        self.temperature = check_number("temperature", temperature, positive=True)
        self.mask_target = bool(mask_target)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        num_classes = student_logits.shape[-1]
        mask = target_mask(labels, num_classes)
        target = ops.where(mask, ops.softmax(teacher_logits) * ops.log_softmax(student_logits), 0.0)
        teacher, student = (soften(x, self.temperature) for x in (teacher_logits, student_logits))
        if self.mask_target:
            teacher, student = (ops.where(mask, EXCLUDED, x) for x in (teacher, student))
        others = ops.softmax(teacher) * ops.log_softmax(student)
        if self.mask_target:
            others = ops.where(mask, 0.0, others)
        loss = ops.sum(target + self.gamma * self.temperature**2 * others, axis=-1)
        return -loss * nan_outside(labels, num_classes)
