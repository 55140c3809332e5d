"""Callbacks that a distiller adds to its own training."""

import logging

import keras
import numpy as np

_logger = logging.getLogger("keras_sdd")


class TellNaN(keras.callbacks.Callback):
    """Says once, after an epoch, that a loss is not a number, and why that may be."""

    def __init__(self):
        super().__init__()
        self._has_told = False

    def on_epoch_end(self, epoch, logs=None):
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


def add_callback(callbacks, callback):
    """The callbacks that `fit` is given, in any of its forms, and one more."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.append(callback)
        return callbacks
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    return [*(x for x in given if x is not None), callback]
