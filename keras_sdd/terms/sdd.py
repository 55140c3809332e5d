"""SDD: the logits of image regions at several scales, each taught by a logit loss."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_sdd._checks import check_scales, check_word
from keras_sdd.losses import KD, LogitLoss, ScaleDecoupled
from keras_sdd.losses.labels import class_indices
from keras_sdd.losses.scale_decoupled import find_complementary
from keras_sdd.networks import Network
from keras_sdd.terms.base import Term, to_number
from keras_sdd.typing import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class SDD(Term):
    """Scale-decoupled distillation of logits: the term that makes a `Distiller` an `SDDDistiller`.

    Besides its own value it logs `complementary_fraction`, the part of the cells that is
    complementary, and `teacher_agreement`, the part of the samples for which teacher and student
    predict the same class; under another name than the default one these begin with that name.

    Args:
        loss: what compares the cells: a `keras_sdd.losses.LogitLoss`, which `ScaleDecoupled`
            applies to each of them, or a loss of all cells at once, any object that is called as
            `loss(labels, teacher_cells, student_cells)` with labels (B,) and cells (B, N, K), the
            first the global one, and gives (B,), such as a `ScaleDecoupled`. `KD()` if None.
        scales: the scales M. (1,) is plain KD, DKD or NKD, for any classifier.
        consistent_weight: of the `ScaleDecoupled` around a `LogitLoss`; a loss of all cells has
            what it needs itself.
        complementary_weight: of the `ScaleDecoupled`, likewise.
        consistency: of the `ScaleDecoupled`, likewise.
        pooling: as for `keras_sdd.pool_cells`.
        reduction: of the `ScaleDecoupled`, likewise.
        weight: as for `Term`.
        warmup_steps: as for `Term`.
        name: as for `Term`.

    Raises:
        ValueError: for options that do not fit; the message says what was received.

    Source: "Scale Decoupled Distillation" (CVPR 2024), eq. 4 to 10.

    Examples:
        >>> term = keras_sdd.terms.SDD(keras_sdd.losses.KD(1.0), scales=(1, 2))
        >>> cat, dog = np.log([0.75, 0.25]), np.log([0.25, 0.75])
        >>> teacher = {"cells": np.array([[cat, cat, cat, cat, dog]])}  # the image, four regions
        >>> student = {"cells": np.zeros((1, 5, 2)), "logits": np.zeros((1, 2))}
        >>> value = term.call(teacher, student, {"labels": np.array([0])})
        >>> round(float(value[0]), 4)  # (4 * 1 + 1 * 2) / 5 * 0.1308
        0.157
        >>> {x.name: round(float(x.result()), 2) for x in term.metrics[1:]}
        {'complementary_fraction': 0.2, 'teacher_agreement': 1.0}
    """

    def __init__(
        self,
        loss: Callable[..., Tensor] | None = None,
        scales: Sequence[int] = (1, 2, 4),
        consistent_weight: float = 1.0,
        complementary_weight: float = 2.0,
        consistency: str = "label",
        pooling: str = "direct",
        reduction: str = "mean",
        weight: float = 1.0,
        warmup_steps: int = 0,
        name: str = "distillation_loss",
    ) -> None:
        super().__init__(weight, warmup_steps, name)
        self.scales = check_scales(scales)
        self.pooling = check_word("pooling", pooling, ("direct", "nested"))
        loss = KD() if loss is None else loss
        if isinstance(loss, LogitLoss):
            loss = ScaleDecoupled(
                loss, consistent_weight, complementary_weight, consistency, reduction,
                include_global=1 in self.scales, scales=self.scales,
            )  # fmt: skip
        else:
            _check_cell_loss(
                loss, consistent_weight=(consistent_weight, 1.0),
                complementary_weight=(complementary_weight, 2.0),
                consistency=(consistency, "label"), reduction=(reduction, "mean"),
            )  # fmt: skip
        self.loss = loss
        self.relates_samples = getattr(loss, "relates_samples", False)
        prefix = "" if self.name == "distillation_loss" else f"{self.name}_"
        self._fraction = keras.metrics.Mean(name=f"{prefix}complementary_fraction")
        self._agreement = keras.metrics.Mean(name=f"{prefix}teacher_agreement")

    def read(self, network: Network) -> dict[str, Tensor]:
        # The global cell comes first: it is the reference of consistency.
        return {"cells": network.cells((1, *(m for m in self.scales if m != 1)), self.pooling)}

    def read_student(self, network: Network) -> dict[str, Tensor]:
        return self.read(network) | {"logits": network.logits}

    def call(
        self, teacher: dict[str, Tensor], student: dict[str, Tensor], targets: dict[str, Any]
    ) -> Tensor:
        teacher_cells, student_cells = teacher["cells"], student["cells"]
        labels = ops.convert_to_tensor(targets["labels"])
        labels = class_indices(labels, student_cells.shape[-1])
        consistency = getattr(self.loss, "consistency", "label")
        self._fraction.update_state(find_complementary(labels, teacher_cells, consistency))
        predicted = (ops.argmax(x, axis=-1) for x in (teacher_cells[:, 0], student["logits"]))
        self._agreement.update_state(ops.equal(*predicted))
        return self.loss(labels, teacher_cells, student_cells)

    def find_teacher_logits(self, teacher: dict[str, Tensor]) -> Tensor:
        return teacher["cells"][:, 0]

    def identify_reading(self) -> dict[str, Any]:
        return {"scales": list(self.scales), "pooling": self.pooling}

    def get_config(self) -> Config:
        # The loss of all cells has the four options of `ScaleDecoupled` in it.
        names = ("loss", "scales", "pooling", "warmup_steps", "name")
        return {name: getattr(self, name) for name in names} | {"weight": to_number(self.weight)}


def _check_cell_loss(loss: Any, **options: Any) -> None:
    if not callable(loss) or isinstance(loss, (type, keras.losses.Loss)):
        raise ValueError(
            "The loss of the cells must be a keras_sdd.losses.LogitLoss such as KD(), DKD() or "
            "NKD(), or a loss of all of them, called with labels (B,) and both networks' cells "
            f"(B, N, K). Received: distillation_loss={loss!r}"
        )
    given = [name for name, (value, default) in options.items() if value != default]
    if given:
        raise ValueError(
            f"A loss of all cells weighs and reduces them itself: give {', '.join(given)} to "
            f"keras_sdd.losses.ScaleDecoupled, or to a loss of your own. Received: loss={loss!r}"
        )
