"""LSKD: any logit loss on standardized logits."""

import keras
from keras import ops

from keras_sdd.losses.base import LogitLoss, check_logit_loss
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class Standardized(LogitLoss):
    """A logit loss that compares how the classes lie to each other, not how far apart.

    Both networks' logits become (z - mean) / (std + 1e-7) over the classes, std with K - 1, and go
    into the loss. The student's mean and std carry gradient.

    Args:
        loss: any `LogitLoss`, for example `KD(2.0)`.

    Raises:
        ValueError: if `loss` is none.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation" (CVPR 2024), algorithms 1
    and 2; the base temperature of the paper is the temperature of the loss.

    Examples:
        >>> loss = keras_sdd.losses.Standardized(keras_sdd.losses.KD(1.0))
        >>> teacher = np.array([[2.0, 0.0, -2.0]])
        >>> student = np.array([[-1.0, 0.0, 1.0]])
        >>> values = [loss(np.array([0]), teacher, factor * student) for factor in (1, 10)]
        >>> [round(float(x[0]), 4) for x in values]
        [1.1504, 1.1504]
    """

    def __init__(self, loss: LogitLoss) -> None:
        self.loss = check_logit_loss(loss)
        self.relates_samples = self.loss.relates_samples

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        teacher, student = (standardize(x)[0] for x in (teacher_logits, student_logits))
        return self.loss(labels, teacher, student)


def standardize(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Standardized logits (..., K), and the standard deviation (..., 1) that they had."""
    # Equal logits become exactly 0 this way, and large ones keep their differences.
    shifted = logits - ops.stop_gradient(logits[..., :1])
    centered = shifted - ops.mean(shifted, axis=-1, keepdims=True)
    variance = ops.sum(centered**2, axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    std = ops.sqrt(ops.maximum(variance, 1e-24))  # the root of 0 has no gradient
    return centered / (std + 1e-7), std
