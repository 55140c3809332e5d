"""Cells averaged within the classes that the teacher sees: what scale gives without mixing."""

import keras
from keras import ops

from keras_sdd.losses.base import Configurable, LogitLoss, as_cells, check_logit_loss
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class ClassAveraged(Configurable):
    """A logit loss between averages of the cells that the teacher gives the same class.

    The cells of an image are grouped by the class that the teacher predicts for each, and the
    logits of both networks are averaged within these groups, whatever the groups' sizes. With
    `merge` the mean of these averages is compared, one vector of each network: what the global
    logits would be if every class that is seen had one vote. Without it the averages are compared
    class by class, and the mean of that is the loss: classes are not mixed, and scale is kept out.
    Beside `KD` at scale 1 and the cells' own losses, these two tell apart what SDD owes to the
    scale and what to the classes that the global average mixes.

    Called as `loss(labels, teacher_cells, student_cells)` with integer labels (B,) and cells
    (B, N, K), cell 0 the global one, which has no group; returns float32 (B,). Where all regions
    are of one class, both are `loss` of the regions' mean; where each has a class of its own, the
    loss without `merge` is the mean over the regions.

    ```python
    keras_sdd.terms.SDD(keras_sdd.losses.ClassAveraged(keras_sdd.losses.KD()), scales=(4,))
    ```

    Args:
        loss: the `LogitLoss` of two averages, for example `KD()`.
        merge: whether the averages become one vector, or are compared one by one.

    Raises:
        ValueError: if `loss` is no `LogitLoss`.

    Examples:
        >>> cat, dog = np.log([0.75, 0.25]), np.log([0.25, 0.75])
        >>> teacher = np.array([[cat, cat, cat, cat, dog]])  # the global cell, then four
        >>> student = np.array([[cat, cat, cat, cat, cat]])
        >>> for merge in (True, False):
        ...     loss = keras_sdd.losses.ClassAveraged(keras_sdd.losses.KD(1.0), merge)
        ...     print(round(float(loss(np.array([0]), teacher, student)[0]), 4))
        0.1438
        0.2747
    """

    def __init__(self, loss: LogitLoss, merge: bool = True) -> None:
        self.loss = check_logit_loss(loss)
        self.merge = bool(merge)

    @property
    def relates_samples(self) -> bool:
        """Whether a sample's value depends on the others of its batch."""
        return self.loss.relates_samples

    def __call__(self, labels: Tensor, teacher_cells: Tensor, student_cells: Tensor) -> Tensor:
        """Compute the loss of every sample.

        Args:
            labels: integer tensor (B,), class indices.
            teacher_cells: float tensor (B, N, K), cell 0 the global one.
            student_cells: float tensor (B, N, K), likewise.

        Returns:
            float32 tensor (B,). Losses that use the labels give NaN where one lies outside [0, K).

        Raises:
            ValueError: if the shapes do not fit together, or there is no cell but the global one.
        """
        labels, *cells = as_cells(labels, teacher_cells, student_cells)
        if cells[1].shape[1] == 1:
            raise ValueError(
                "There must be cells behind the global one: give the term a scale above 1, for "
                f"example scales=(4,). Received: cells {tuple(cells[1].shape)}"
            )
        teacher, student = (x[:, 1:] for x in cells)
        predicted = ops.argmax(teacher, axis=-1)
        alike = ops.expand_dims(predicted, -1) == ops.expand_dims(predicted, -2)  # (B, N, N)
        members = ops.cast(alike, "float32")
        members = members / ops.sum(members, axis=-1, keepdims=True)
        # 1 / size of its group: the cells of a group have one vote together.
        votes = ops.diagonal(members, axis1=-2, axis2=-1)
        votes = votes / ops.sum(votes, axis=-1, keepdims=True)
        if self.merge:
            votes = ops.expand_dims(votes, -1)
            return self.loss(labels, *(ops.sum(votes * x, axis=1) for x in (teacher, student)))
        repeated = ops.tile(ops.expand_dims(labels, -1), (1, student.shape[1]))
        # Of every cell the average of its group: N of them, where classes would be K.
        values = self.loss(repeated, *(ops.matmul(members, x) for x in (teacher, student)))
        return ops.sum(votes * values, axis=-1)
