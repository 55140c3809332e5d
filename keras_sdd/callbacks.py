"""Callbacks: one that saves the student, and those that a distiller adds to its own training."""

import logging
from typing import Any

import keras
import numpy as np

__all__ = ["SaveStudent"]

_logger = logging.getLogger("keras_sdd")


class SaveStudent(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` of the student alone, without teacher and optimizer.

    What it writes is the student as it was given, trained so far: `keras.saving.load_model` reads
    it without this library. To go on with a run later, save the distiller by Keras's own callback.
    It takes the arguments of `ModelCheckpoint`: `filepath`, `monitor`, `save_best_only`,
    `save_weights_only`, `mode`, `save_freq` and others.

    Raises:
        ValueError: from `fit` of another model than a distiller.

    Examples:
        >>> teacher, student = (keras_sdd.models.build("small/cnn_8_16_32") for _ in range(2))
        >>> distiller = keras_sdd.SDDDistiller(teacher, student, scales=(1,))
        >>> distiller.compile("sgd")
        >>> save = keras_sdd.callbacks.SaveStudent(
        ...     "best.keras", monitor="val_loss", save_best_only=True
        ... )
        >>> save.set_model(distiller)  # as fit does, of distiller.fit(..., callbacks=[save])
        >>> save.on_epoch_end(0, {"val_loss": 2.3})
        >>> keras.saving.load_model("best.keras").output.shape
        (None, 10)
    """

    def set_model(self, model: keras.Model) -> None:
        if not hasattr(model, "student"):
            raise ValueError(
                "SaveStudent saves the student of a distiller; of other models use "
                f"keras.callbacks.ModelCheckpoint. Received: {model!r}"
            )
        super().set_model(model)

    @property
    def model(self) -> Any:  # what `ModelCheckpoint` saves, and reads the metrics of
        return _SavedStudent(super().model)


class _SavedStudent:
    """A distiller as `ModelCheckpoint` sees it: the metrics are its own, what is saved is not."""

    def __init__(self, distiller: Any) -> None:
        self.metrics = distiller.metrics
        self.save = distiller.student.save
        self.save_weights = distiller.student.save_weights


class TellNaN(keras.callbacks.Callback):
    """Says once, after an epoch, that a loss is not a number, and why that may be."""

    def __init__(self) -> None:
        super().__init__()
        self._has_told = False

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        parts = {name: x for name, x in (logs or {}).items() if name.endswith("loss")}
        broken = [name for name, x in parts.items() if not np.isfinite(x)]
        if broken and not self._has_told:
            self._has_told = True
            _logger.warning(
                "After epoch %d these losses are not finite: %s. Likely causes: labels outside "
                "[0, K); images that hold NaN or infinity; a learning rate that is too high; "
                "float16, which ends at 65504, in the teacher (teacher_dtype) or in the student "
                "(its dtype policy).",
                epoch + 1,
                ", ".join(broken),
            )


def add_callback(callbacks: Any, callback: keras.callbacks.Callback) -> Any:
    """The callbacks that `fit` is given, in any of its forms, and one more."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.append(callback)
        return callbacks
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [*(x for x in given if x is not None), callback]
