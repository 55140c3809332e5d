"""The scale-decoupled form of any logit loss: eq. 8-10 of the SDD paper."""

import keras
import numpy as np
from keras import ops

from keras_sdd._checks import check_number, check_word
from keras_sdd.losses.base import Configurable, LogitLoss, as_tensors, fits, nan_outside


@keras.saving.register_keras_serializable(package="keras_sdd")
class ScaleDecoupled(Configurable):
    """A logit loss over all cells of the maps, complementary cells weighted on their own.

    Called as `loss(labels, teacher_cells, student_cells)` with integer labels (B,) and cells
    (B, N, K), cell 0 the global one; returns float32 (B,).

    Args:
        loss: the `LogitLoss` of one cell, for example `KD()`.
        consistent_weight: weight of the consistent cells, 0 or greater.
        complementary_weight: weight of the complementary cells (beta of the paper), 0 or greater.
        consistency: which cells are consistent, by the teacher's predictions. `"label"`: those
            that are right where the global cell is right, and wrong where it is wrong (the
            authors' code). `"global"`: those of the global cell's class (the paper).
        reduction: `"mean"` over the cells (the authors' code) or their `"sum"` (the paper).
        include_global: whether cell 0 counts in the loss too, or is the reference alone (for
            scale sets without 1).

    Source: "Scale Decoupled Distillation" (CVPR 2024), eq. 8 to 10.
    """

    def __init__(
        self,
        loss,
        consistent_weight=1.0,
        complementary_weight=2.0,
        consistency="label",
        reduction="mean",
        include_global=True,
    ):
        if not isinstance(loss, LogitLoss):
            raise ValueError(
                "`loss` must be a keras_sdd.losses.LogitLoss such as KD(), DKD() or NKD(). "
                f"Received: loss={loss!r}"
            )
        self.loss = loss
        self.consistent_weight = check_number("consistent_weight", consistent_weight)
        self.complementary_weight = check_number("complementary_weight", complementary_weight)
        self.consistency = check_word("consistency", consistency, ("label", "global"))
        self.reduction = check_word("reduction", reduction, ("mean", "sum"))
        self.include_global = bool(include_global)

    @property
    def relates_samples(self):
        """Whether a sample's value depends on the others of its batch."""
        return self.loss.relates_samples

    def complementary(self, labels, teacher_cells):
        """Boolean mask (B, N) of the complementary cells, from labels (B,) and cells (B, N, K)."""
        return find_complementary(labels, teacher_cells, self.consistency)

    def __call__(self, labels, teacher_cells, student_cells):
        """Compute the loss of every sample.

        Args:
            labels: integer tensor (B,), class indices.
            teacher_cells, student_cells: float tensors (B, N, K), cell 0 the global one.

        Returns:
            float32 tensor (B,). NaN where a label lies outside [0, K) and is needed.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        labels, teacher_cells, student_cells = as_tensors(labels, teacher_cells, student_cells)
        shapes = [tuple(x.shape) for x in (labels, teacher_cells, student_cells)]
        if len(shapes[2]) != 3 or not fits(*shapes[1:]) or not fits(shapes[0], shapes[2][:1]):
            raise ValueError(
                "Expected labels (B,) with teacher and student cells (B, N, K) of the same shape. "
                "Received: labels {}, teacher cells {}, student cells {}".format(*shapes)
            )
        num_classes = student_cells.shape[-1]
        weights = ops.where(
            self.complementary(labels, teacher_cells),
            np.float32(self.complementary_weight),
            np.float32(self.consistent_weight),
        )
        repeated = ops.tile(ops.expand_dims(labels, -1), (1, student_cells.shape[1]))
        values = weights * self.loss(repeated, teacher_cells, student_cells)
        if not self.include_global:
            values = values[:, 1:]
        reduce = ops.mean if self.reduction == "mean" else ops.sum
        value = reduce(values, axis=-1)
        if self.consistency == "label":
            value = value * nan_outside(labels, num_classes)
        return value


def find_complementary(labels, teacher_cells, consistency):
    """Boolean mask (B, N) of the complementary cells; see `ScaleDecoupled`."""
    predicted = ops.argmax(teacher_cells, axis=-1)
    if consistency == "label":
        predicted = predicted == ops.cast(ops.expand_dims(labels, -1), predicted.dtype)
    return predicted != predicted[:, :1]
