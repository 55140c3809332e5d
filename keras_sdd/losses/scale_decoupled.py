"""The scale-decoupled form of any logit loss: eq. 8-10 of the SDD paper."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_sdd._checks import check_number, check_scales, check_word
from keras_sdd.losses.base import Configurable, LogitLoss, as_cells, check_logit_loss, nan_outside
from keras_sdd.typing import Tensor


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
        reduction: `"mean"` over the cells (the authors' code), their `"sum"` (the paper), or
            `"mean_of_scales"`, where every scale has one vote, the mean over its cells; in a mean
            over the cells of (1, 2, 4) the finest has 16 of 21.
        include_global: whether cell 0 counts in the loss too, or is the reference alone (for
            scale sets without 1).
        scales: those of the cells, which `"mean_of_scales"` needs. Behind the global cell come
            those of the scales other than 1 in the given order, m * m of each.

    Raises:
        ValueError: for options that do not fit; the message says what was received.

    Source: "Scale Decoupled Distillation" (CVPR 2024), eq. 8 to 10.

    Examples:
        >>> loss = keras_sdd.losses.ScaleDecoupled(keras_sdd.losses.KD(1.0))
        >>> cat, dog = np.log([0.75, 0.25]), np.log([0.25, 0.75])
        >>> teacher = np.array([[cat, cat, cat, cat, dog]])  # the image, four regions
        >>> labels, student = np.array([0]), np.zeros((1, 5, 2))
        >>> keras.ops.convert_to_numpy(loss.complementary(labels, teacher))[0].tolist()
        [False, False, False, False, True]
        >>> round(float(loss(labels, teacher, student)[0]), 4)  # (4 * 1 + 1 * 2) / 5 * 0.1308
        0.157
    """

    def __init__(
        self,
        loss: LogitLoss,
        consistent_weight: float = 1.0,
        complementary_weight: float = 2.0,
        consistency: str = "label",
        reduction: str = "mean",
        include_global: bool = True,
        scales: Sequence[int] | None = None,
    ) -> None:
        self.loss = check_logit_loss(loss)
        self.consistent_weight = check_number("consistent_weight", consistent_weight)
        self.complementary_weight = check_number("complementary_weight", complementary_weight)
        self.consistency = check_word("consistency", consistency, ("label", "global"))
        self.reduction = check_word("reduction", reduction, ("mean", "sum", "mean_of_scales"))
        self.include_global = bool(include_global)
        self.scales = None if scales is None else check_scales(scales)
        if self.reduction == "mean_of_scales" and not (self.scales and self._voters()):
            raise ValueError(
                '`reduction="mean_of_scales"` needs the scales of the cells that count, for '
                f"example scales=(1, 2, 4). Received: scales={scales!r}, "
                f"include_global={self.include_global}"
            )

    @property
    def relates_samples(self) -> bool:
        """Whether a sample's value depends on the others of its batch."""
        return self.loss.relates_samples

    def complementary(self, labels: Tensor, teacher_cells: Tensor) -> Tensor:
        """Boolean mask (B, N) of the complementary cells, from labels (B,) and cells (B, N, K).

        Args:
            labels: integer tensor (B,).
            teacher_cells: float tensor (B, N, K), cell 0 the global one.

        Returns:
            Boolean tensor (B, N).
        """
        return find_complementary(labels, teacher_cells, self.consistency)

    def __call__(self, labels: Tensor, teacher_cells: Tensor, student_cells: Tensor) -> Tensor:
        """Compute the loss of every sample.

        Args:
            labels: integer tensor (B,), class indices.
            teacher_cells: float tensor (B, N, K), cell 0 the global one.
            student_cells: float tensor (B, N, K), likewise.

        Returns:
            float32 tensor (B,). NaN where a label lies outside [0, K) and is needed.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        labels, teacher_cells, student_cells = as_cells(labels, teacher_cells, student_cells)
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
        value = self._reduce(values)
        if self.consistency == "label":
            value = value * nan_outside(labels, num_classes)
        return value

    def _voters(self) -> list[int]:
        """The scales that have a vote, in the order of their cells."""
        return [1] * self.include_global + [m for m in self.scales or () if m != 1]

    def _reduce(self, values: Tensor) -> Tensor:
        """Reduce the cells that count, (B, N), to (B,)."""
        if self.reduction == "mean":
            return ops.mean(values, axis=-1)
        if self.reduction == "mean_of_scales":
            voters = self._voters()
            votes = np.repeat([1 / (m * m * len(voters)) for m in voters], [m * m for m in voters])
            if len(votes) != values.shape[1]:
                raise ValueError(
                    f"The scales {self.scales} have {len(votes)} cells that count; give "
                    "ScaleDecoupled the scales of the cells. Received: "
                    f"{values.shape[1]} cells that count"
                )
            values = ops.multiply(values, votes.astype("float32"))
        return ops.sum(values, axis=-1)


def find_complementary(labels: Tensor, teacher_cells: Tensor, consistency: str) -> Tensor:
    """Boolean mask (B, N) of the complementary cells; see `ScaleDecoupled`."""
    predicted = ops.argmax(teacher_cells, axis=-1)
    if consistency == "label":
        predicted = predicted == ops.cast(ops.expand_dims(labels, -1), predicted.dtype)
    return predicted != predicted[:, :1]
