"""Swapped: any logit loss on teacher logits of which the label's is the largest."""

import keras
from keras import ops

from keras_sdd.losses.base import LogitLoss, check_logit_loss, nan_outside, target_mask
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class Swapped(LogitLoss):
    """A logit loss on what the teacher would have said, had it been right.

    The teacher's logit of the label and its largest one change places before the loss.

    Args:
        loss: any `LogitLoss`, for example `KD()`.

    Raises:
        ValueError: if `loss` is none.

    Source: a rival in Sun et al., "Knowledge Distillation with Refined Logits" (ICCV 2025).

    Examples:
        >>> loss = keras_sdd.losses.Swapped(keras_sdd.losses.KD(1.0))
        >>> teacher, student = np.log([[0.25, 0.75]]), np.zeros((1, 2))
        >>> value = loss(np.array([0]), teacher, student)  # that of a teacher of 0.75 and 0.25
        >>> round(float(value[0]), 4)
        0.1308
    """

    def __init__(self, loss: LogitLoss) -> None:
        self.loss = check_logit_loss(loss)
        self.relates_samples = self.loss.relates_samples

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        num_classes = teacher_logits.shape[-1]
        mask = target_mask(labels, num_classes)
        likeliest = ops.cast(ops.argmax(teacher_logits, axis=-1), "int32")
        largest = ops.max(teacher_logits, axis=-1, keepdims=True)
        label_logit = ops.sum(ops.where(mask, teacher_logits, 0.0), axis=-1, keepdims=True)
        swapped = ops.where(target_mask(likeliest, num_classes), label_logit, teacher_logits)
        swapped = ops.where(mask, largest, swapped)
        return self.loss(labels, swapped, student_logits) * nan_outside(labels, num_classes)
