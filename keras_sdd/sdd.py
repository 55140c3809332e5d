"""`SDDDistiller`: scale-decoupled distillation of logits, alone or beside further terms."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sdd._checks import check_number
from keras_sdd.distiller import Distiller
from keras_sdd.losses import ScaleDecoupled
from keras_sdd.terms import SDD
from keras_sdd.terms.base import Term
from keras_sdd.typing import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class SDDDistiller(Distiller):
    """Trains a student classifier with labels and with a frozen teacher's regional logits.

    The loss is student_loss_weight * (loss given to `compile`) + distillation_weight *
    `ScaleDecoupled(distillation_loss)` + further terms + the student's own regularization (eq. 11
    of the SDD paper). `evaluate` and `predict` run the student alone and see its class logits.

    Logged in training, besides the metrics of `compile`: `loss`; its terms, weighted,
    `student_loss` and `distillation_loss`; `complementary_fraction`, the part of the cells that is
    complementary; `teacher_agreement`, the part of the samples for which teacher and student
    predict the same class.

    Args:
        teacher: a built functional or Sequential Keras classifier, or a model with outputs
            `{"logits", "spatial_logits"}`, as `keras_sdd.expose_spatial_logits` makes it, or a
            `keras_sdd.StoredTeacher`. It is never changed.
        student: a Keras classifier like it, of the same input shape and classes.
        distillation_loss: a `keras_sdd.losses.LogitLoss`, `KD()` if None; or a loss of all cells at
            once, called with labels (B,) and both networks' cells (B, N, K), that gives (B,).
        scales: the scales M. (1,) is plain KD, DKD or NKD, for any classifier.
        consistent_weight: weight of the consistent cells.
        complementary_weight: weight of the complementary cells; beta of the paper.
        consistency: as for `keras_sdd.losses.ScaleDecoupled`. With a loss of all cells this, the
            two weights and the reduction are its own business.
        pooling: as for `keras_sdd.pool_cells`.
        reduction: as for `keras_sdd.losses.ScaleDecoupled`.
        student_loss_weight: weight of the loss on the labels.
        distillation_weight: weight of the distillation term; alpha of the paper. As attributes,
            both weights are variables, and what is assigned to them holds from the next step on.
        warmup_steps: number of training steps over which the distillation weight grows linearly:
            step k, counted from 1, has min(k / warmup_steps, 1) of it. 0 for none.
        fold_teacher: as for `Distiller`.
        teacher_dtype: as for `Distiller`.
        feature_losses: further terms, for example `[keras_sdd.terms.SP()]`.
        ignore_class: the label of images that have none, for example -1, as for `Distiller`. Their
            cells are compared like those of others, with the class that the teacher predicts for
            the whole image as label: `consistency="label"` is then the same as `"global"`, and NKD
            and DKD take that class for the target.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: for models or options that do not fit; the message says what was received.

    Source: "Scale Decoupled Distillation" (CVPR 2024).

    Examples:
        >>> teacher, student = (keras_sdd.models.build("small/cnn_8_16_32") for _ in range(2))
        >>> distiller = keras_sdd.SDDDistiller(teacher, student, scales=(1, 2), warmup_steps=100)
        >>> distiller.compile("sgd")
        >>> images, labels = np.ones((2, 32, 32, 3), "float32"), np.array([0, 1])
        >>> history = distiller.fit(images, labels, verbose=0)
        >>> sorted(history.history)
        ['complementary_fraction', 'distillation_loss', 'loss', 'student_loss', 'teacher_agreement']
        >>> distiller.compute_teacher_cells(images).shape  # 1 + 4 cells
        (2, 5, 10)
        >>> distiller.student.save("student.keras")
    """

    def __init__(
        self,
        teacher: keras.layers.Layer,
        student: keras.Model,
        distillation_loss: Callable[..., Tensor] | None = None,
        scales: Sequence[int] = (1, 2, 4),
        consistent_weight: float = 1.0,
        complementary_weight: float = 2.0,
        consistency: str = "label",
        pooling: str = "direct",
        reduction: str = "mean",
        student_loss_weight: float = 1.0,
        distillation_weight: float = 1.0,
        warmup_steps: int = 0,
        fold_teacher: bool = True,
        teacher_dtype: str | None = None,
        feature_losses: Sequence[Term] = (),
        ignore_class: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("distillation_weight", distillation_weight)
        term = SDD(
            distillation_loss, scales, consistent_weight, complementary_weight, consistency,
            pooling, reduction, distillation_weight, warmup_steps,
        )  # fmt: skip
        further = feature_losses if isinstance(feature_losses, (list, tuple)) else [feature_losses]
        super().__init__(
            teacher,
            student,
            [term, *further],
            student_loss_weight,
            fold_teacher,
            teacher_dtype,
            ignore_class,
            **kwargs,
        )

    _fixed = (*Distiller._fixed, "scales", "pooling", "warmup_steps", "scale_decoupled_loss")

    @property
    def _term(self) -> Any:
        return self.terms[0]

    @property
    def distillation_weight(self) -> keras.Variable:
        """The weight of the distillation term, a scalar variable."""
        return self._term.weight

    @distillation_weight.setter
    def distillation_weight(self, value: float) -> None:
        self._term.weight = value

    @property
    def warmup_steps(self) -> float:
        """Number of steps over which the distillation weight grows."""
        return self._term.warmup_steps

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales M."""
        return self._term.scales

    @property
    def pooling(self) -> str:
        """How cells are pooled."""
        return self._term.pooling

    @property
    def scale_decoupled_loss(self) -> Callable[..., Tensor]:
        """The loss of all cells, without its weight."""
        return self._term.loss

    # Alone, the term's part of the teacher is called by what it is: cells.

    @property
    def teacher_cells_shape(self) -> tuple[int, ...]:
        """(N, K) of the teacher's cells of a sample."""
        return tuple(self._frozen.outputs[self._term.name]["cells"].shape[1:])

    def compute_teacher_cells(self, x: Tensor) -> np.ndarray:
        """The teacher's cells as in training: NumPy float32 (B, N, K) for a batch `x`.

        Args:
            x: a batch of images (B, ...).

        Returns:
            NumPy float32 (B, N, K), cell 0 the global one.
        """
        return self._frozen.predict(x)[self._term.name]["cells"]

    @property
    def teacher_targets_spec(self) -> dict[str, Any]:
        """What `compute_teacher_targets` gives, as symbolic tensors."""
        spec = super().teacher_targets_spec
        alone = len(self.terms) == 1
        return {"teacher_cells": spec["teacher"][self._term.name]["cells"]} if alone else spec

    def compute_teacher_targets(self, x: Tensor) -> dict[str, Any]:
        """As `Distiller` does; without further terms, `{"teacher_cells": (B, N, K)}`."""
        if len(self.terms) > 1:
            return super().compute_teacher_targets(x)
        return {"teacher_cells": self.compute_teacher_cells(x)}

    def name_targets(self, y: Tensor) -> dict[str, Any]:
        """The targets of a step as a dict; `"teacher_cells"` are the term's part of the teacher."""
        targets = super().name_targets(y)
        if "teacher_cells" not in targets or self._frozen.takes_cells:
            return targets
        cells = {self._term.name: {"cells": targets["teacher_cells"]}}
        others = {name: x for name, x in targets.items() if name != "teacher_cells"}
        return others | {"teacher": targets.get("teacher", {}) | cells}

    _skipping = '"teacher" or "teacher_cells"'

    def get_config(self) -> Config:
        term, *others = self.terms
        config = super().get_config() | term.get_config() | {"name": self.name}
        loss, weight = config.pop("loss"), config.pop("weight")
        del config["terms"]
        names = ("consistent_weight", "complementary_weight", "consistency", "reduction")
        if _is_made_of_options(loss, self.scales):
            config |= {name: getattr(loss, name) for name in names}
            loss = loss.loss
        serialize = keras.saving.serialize_keras_object
        return config | {
            "distillation_loss": serialize(loss),
            "distillation_weight": weight,
            "feature_losses": [serialize(x) for x in others],
        }


def _is_made_of_options(loss: Any, scales: tuple[int, ...]) -> bool:
    """Whether the loss of all cells is what the options of an `SDDDistiller` can say."""
    if not isinstance(loss, ScaleDecoupled) or loss.include_global != (1 in scales):
        return False
    return loss.reduction != "mean_of_scales" or loss.scales == scales
