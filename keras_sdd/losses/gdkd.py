"""GDKD: decoupled distillation by the teacher's likeliest classes."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_sdd._checks import check_integers, check_number, check_numbers
from keras_sdd.losses.base import EXCLUDED, LogitLoss, divergence, soften, target_mask
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class GDKD(LogitLoss):
    """KD split into the teacher's likeliest classes and the others.

    T^2 * (w0 * KL among the parts + w1 * KL inside the top k + w2 * KL inside the rest). In three
    parts the teacher's likeliest class is a part of its own, and w1 is of the others of the top k.
    Among equal logits the first classes are the likelier. The labels are not used.

    Args:
        num_top: k, 1 or greater and less than the number of classes; in three parts 2 or greater.
        weights: (w0, w1, w2), 0 or greater.
        temperature: T, greater than 0.
        three_parts: whether the likeliest class is a part of its own.

    Raises:
        ValueError: for options that do not fit, and if called with k classes or fewer.

    Source: Zheng and Cheng, "Rethinking Decoupled Knowledge Distillation: A Predictive
    Distribution Perspective" (2025); three parts: the authors' code.

    Examples:
        >>> loss = keras_sdd.losses.GDKD(num_top=1, weights=(1.0, 2.0, 8.0), temperature=1.0)
        >>> teacher = np.log([[0.6, 0.3, 0.1]])
        >>> student = np.log([[0.6, 0.1, 0.3]])
        >>> value = loss(np.array([0]), teacher, student)
        >>> round(float(value[0]), 4)  # all of the rest: 8 * (0.75 ln 3 + 0.25 ln(1 / 3))
        4.3944
    """

    def __init__(
        self,
        num_top: int = 5,
        weights: Sequence[float] = (1.0, 2.0, 8.0),
        temperature: float = 4.0,
        three_parts: bool = False,
    ) -> None:
        self.three_parts = bool(three_parts)
        check_integers(2 if self.three_parts else 1, num_top=num_top)
        self.num_top = int(num_top)
        self.weights = check_numbers("weights", weights, count=3)
        self.temperature = check_number("temperature", temperature, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        num_classes = student_logits.shape[-1]
        if self.num_top >= num_classes:
            raise ValueError(
                "`num_top` must leave classes for the rest: choose one less than the number of "
                f"classes. Received: num_top={self.num_top}, {num_classes} classes"
            )
        among, inside_top, inside_rest = self.weights
        top = find_top(teacher_logits, self.num_top)
        parts = [top, ops.logical_not(top)]
        if self.three_parts:
            likeliest = ops.cast(ops.argmax(teacher_logits, axis=-1), "int32")
            first = target_mask(likeliest, num_classes)
            parts = [first, ops.logical_and(top, ops.logical_not(first)), parts[1]]
        (teacher_parts, teacher), (student_parts, student) = (
            _split(soften(x, self.temperature), parts) for x in (teacher_logits, student_logits)
        )
        gaps = ops.exp(teacher) * (teacher - student)
        inside = ops.sum(ops.where(top, inside_top, inside_rest) * gaps, axis=-1)
        return self.temperature**2 * (among * divergence(teacher_parts, student_parts) + inside)


def find_top(logits: Tensor, count: int) -> Tensor:
    """Boolean mask (..., K) of the `count` largest logits; among equals, as the backend takes them.

    By their indices: a compiler that computes the logits twice may find the least of the largest
    one rounding beside itself.
    """
    _, indices = ops.top_k(logits, count)
    return ops.any(target_mask(indices, logits.shape[-1]), axis=-2)


def _split(logits: Tensor, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the parts (..., P), and of the classes (..., K) within their parts."""
    totals = [
        ops.logsumexp(ops.where(part, logits, EXCLUDED), axis=-1, keepdims=True) for part in parts
    ]
    own = totals[-1]
    for part, total in zip(parts[:-1], totals[:-1], strict=True):
        own = ops.where(part, total, own)
    return ops.log_softmax(ops.concatenate(totals, axis=-1)), logits - own
