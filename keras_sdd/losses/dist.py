"""DIST: correlations of probabilities, over the classes and over the batch."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.losses.base import LogitLoss, repeat_for_samples, soften
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class DIST(LogitLoss):
    """Teaches what correlates with what, in place of the probabilities themselves.

    T^2 * (beta * inter + gamma * intra): inter is 1 minus the Pearson correlation of teacher and
    student over the classes of a sample, averaged over the samples; intra is 1 minus the
    correlation over the samples of a class, averaged over the classes. Both are of probabilities
    at temperature T; 1e-8 is added to the product of the norms. The labels are not used.

    It relates the samples of a batch, those of cells (B, N, K) cell by cell. In a batch of one
    sample intra is 1.

    Args:
        beta: weight of the part over the classes, 0 or greater.
        gamma: weight of the part over the batch, 0 or greater.
        temperature: T, greater than 0.

    Raises:
        ValueError: for a weight below 0, or a temperature that is not greater than 0.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher" (NeurIPS 2022).

    Examples:
        >>> loss = keras_sdd.losses.DIST(beta=1.0, gamma=1.0, temperature=1.0)
        >>> teacher = np.log([[0.75, 0.25], [0.25, 0.75]])
        >>> values = loss(np.array([0, 1]), teacher, -teacher)  # correlations of -1
        >>> [round(float(x), 4) for x in values]
        [4.0, 4.0]
    """

    relates_samples = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0) -> None:
        self.beta = check_number("beta", beta)
        self.gamma = check_number("gamma", gamma)
        self.temperature = check_number("temperature", temperature, positive=True)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        teacher, student = (
            ops.softmax(soften(x, self.temperature)) for x in (teacher_logits, student_logits)
        )
        inter = 1.0 - ops.mean(correlate(teacher, student, axis=-1), axis=0)
        intra = 1.0 - ops.mean(correlate(teacher, student, axis=0), axis=-1)
        loss = self.temperature**2 * (self.beta * inter + self.gamma * intra)
        return repeat_for_samples(loss, labels)


def correlate(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Pearson correlation of two tensors along an axis, which it removes."""
    a, b = (x - ops.mean(x, axis=axis, keepdims=True) for x in (a, b))
    # The root of 0 has no gradient: a batch of one sample, or equal probabilities.
    norms = [ops.sqrt(ops.maximum(ops.sum(x**2, axis=axis), 1e-24)) for x in (a, b)]
    return ops.sum(a * b, axis=axis) / (norms[0] * norms[1] + 1e-8)
