"""The relation between the cells of a scale, of implicit clustering distillation (iCD)."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_sdd._checks import check_number, check_numbers, check_scales
from keras_sdd.losses.base import Configurable, as_tensors, fits
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class CellRelation(Configurable):
    """Teaches which cells of an image are like which, scale by scale.

    The sum over the scales of w * sum over the cells i of a scale of
    KL(softmax(g_i / T) || softmax(g_i / T)), teacher's and student's, with the cosines g_i of the
    logits of cell i and those of all cells of its scale. The one cell of scale 1 has nothing to
    be compared with: its part is 0.

    Called as `loss(labels, teacher_cells, student_cells)` with cells (B, N, K), cell 0 the global
    one; returns float32 (B,). It stands beside a loss that compares the logits themselves:

    ```python
    terms = [
        keras_sdd.terms.SDD(keras_sdd.losses.KD()),
        keras_sdd.terms.SDD(keras_sdd.losses.CellRelation(), weight=2.0, name="cell_relation_loss"),
    ]
    ```

    Args:
        temperature: T, greater than 0.
        scales: those of the cells. Behind the global cell come those of the scales other than 1
            in the given order, m * m of each.
        scale_weights: w of each of the scales, 0 or greater. None for 1 + log2(m), divided by the
            sum of those of all scales: 1/6, 2/6 and 3/6 for (1, 2, 4), as in the authors' code.

    Raises:
        ValueError: for options that do not fit; the message says what was received.

    Source: Xue et al., "iCD: A Implicit Clustering Distillation Mathod for Structural Information
    Mining" (2025), and its code, in which the factor of the term is 2.

    Examples:
        >>> loss = keras_sdd.losses.CellRelation(scales=(1, 2))
        >>> left, right = [5.0, 0.0], [0.0, 5.0]
        >>> teacher = np.array([[left, left, right, left, right]])  # the global cell, then 2 x 2
        >>> student = 0.1 * teacher[..., ::-1]  # other logits, and the same cells are alike
        >>> float(loss(np.array([0]), teacher, student)[0])
        0.0
        >>> student = np.ones((1, 5, 2))  # all cells alike
        >>> round(float(loss(np.array([0]), teacher, student)[0]), 4)
        0.0808
    """

    relates_samples = False

    def __init__(
        self,
        temperature: float = 2.0,
        scales: Sequence[int] = (1, 2, 4),
        scale_weights: Sequence[float] | None = None,
    ) -> None:
        self.temperature = check_number("temperature", temperature, positive=True)
        self.scales = check_scales(scales)
        if scale_weights is not None:
            scale_weights = check_numbers("scale_weights", scale_weights, count=len(self.scales))
        self.scale_weights = scale_weights

    def __call__(self, labels: Tensor, teacher_cells: Tensor, student_cells: Tensor) -> Tensor:
        """Compute the loss of every sample.

        Args:
            labels: integer tensor (B,); not used.
            teacher_cells: float tensor (B, N, K), cell 0 the global one.
            student_cells: float tensor (B, N, K), likewise.

        Returns:
            float32 tensor (B,).

        Raises:
            ValueError: if the shapes do not fit together, or the cells not the scales.
        """
        labels, teacher_cells, student_cells = as_tensors(labels, teacher_cells, student_cells)
        shapes = [tuple(x.shape) for x in (labels, teacher_cells, student_cells)]
        num_cells = 1 + sum(m * m for m in self.scales if m != 1)
        if (
            len(shapes[2]) != 3
            or not fits(*shapes[1:])
            or not fits(shapes[0], shapes[2][:1])
            or shapes[2][1] != num_cells
        ):
            raise ValueError(
                f"Expected labels (B,) with teacher and student cells (B, {num_cells}, K) of the "
                "scales {}. Received: labels {}, teacher cells {}, student cells {}".format(
                    self.scales, *shapes
                )
            )
        return self._compare(_normalize(teacher_cells), _normalize(student_cells))

    def _weigh(self) -> Sequence[float]:
        if self.scale_weights is not None:
            return self.scale_weights
        weights = [1 + math.log2(m) for m in self.scales]
        return [weight / sum(weights) for weight in weights]

    def _compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        """The loss (B,) of directions (B, N, K)."""
        total, start = ops.zeros_like(teacher[:, 0, 0]), 1
        for m, weight in zip(self.scales, self._weigh(), strict=True):
            if m == 1:
                continue
            cosines = []
            for cells in (teacher, student):
                own = cells[:, start : start + m * m]
                cosines.append(ops.matmul(own, ops.swapaxes(own, -1, -2)))
            start += m * m
            log_p, log_q = (ops.log_softmax(x / self.temperature) for x in cosines)
            gap = log_p - log_q
            # p log(p / q) - p + q: of the same sum, but no term is below 0, and cosines that are
            # nearly alike keep their digits.
            terms = ops.exp(log_p) * (gap + ops.expm1(-gap))
            total = total + np.float32(weight) * ops.sum(terms, axis=(-2, -1))
        return total


def _normalize(cells: Tensor) -> Tensor:
    """Logits (..., K) divided by their norm; all zeros stay so."""
    squares = ops.sum(cells**2, axis=-1, keepdims=True)
    return cells / ops.sqrt(ops.maximum(squares, 1e-24))
