"""The loss on the labels: cross-entropy that needs no choice of form, or one of Keras's."""

import inspect
from typing import Any

import keras
from keras import ops

from keras_sdd.losses.base import nan_outside, target_mask
from keras_sdd.losses.labels import class_indices
from keras_sdd.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy from logits, for integer, one-hot and soft labels alike.

    A label outside [0, K), and a row that is not a distribution, give NaN on every backend.
    Called as any Keras loss: `loss(labels, logits, sample_weight=None)` with labels (B,), (B, 1)
    or (B, K) and logits (B, K).

    Args:
        name: of `keras.losses.Loss`.
        reduction: of `keras.losses.Loss`.
        dtype: of `keras.losses.Loss`.

    Examples:
        >>> loss = keras_sdd.losses.CrossEntropy()
        >>> logits = np.zeros((1, 4))
        >>> labels = np.array([2]), np.array([[0, 0, 1, 0]]), np.array([[0.5, 0, 0.5, 0]])
        >>> [round(float(loss(x, logits)), 4) for x in labels]  # ln 4, whichever form they have
        [1.3863, 1.3863, 1.3863]
    """

    def __init__(
        self,
        name: str = "cross_entropy",
        reduction: str = "sum_over_batch_size",
        dtype: str = "float32",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, labels: Tensor, logits: Tensor) -> Tensor:
        num_classes = logits.shape[-1]
        indices = class_indices(labels, num_classes)
        if tuple(labels.shape[1:]) == (num_classes,):
            weights = labels
        else:
            weights = ops.cast(target_mask(indices, num_classes), logits.dtype)
        loss = -ops.sum(weights * ops.log_softmax(logits), axis=-1)
        return loss * nan_outside(indices, num_classes)


def find_student_loss(loss: Any) -> Any:
    """Return what Keras means by `loss`, if it takes labels and logits; `CrossEntropy` for None.

    Raises:
        ValueError: if it is several losses, expects probabilities, or is one for multi-label
            targets; the message has the replacement to type.
    """
    if loss is None:
        return CrossEntropy()
    if isinstance(loss, (list, tuple, dict)):
        raise ValueError(f"`loss` must be one loss, for the class logits. Received: loss={loss!r}")
    received, loss = loss, keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        name, config = type(loss).__name__, loss.get_config()
    else:
        name = getattr(loss, "__name__", type(loss).__name__).title().replace("_", "")
        config = {k: v.default for k, v in inspect.signature(loss).parameters.items()}
    if "Binary" in name:
        raise ValueError(
            "A distiller trains on one class per image, not on multi-label targets. Leave "
            f"loss=None for cross-entropy. Received: loss={received!r}"
        )
    probabilities = name in ("KLDivergence", "KlDivergence", "Poisson")
    if probabilities or config.get("from_logits") is False:
        name = "CategoricalCrossentropy" if probabilities else name
        raise ValueError(
            "The student's outputs are logits and this loss expects probabilities. Use "
            f"loss=keras.losses.{name}(from_logits=True), or loss=None. Received: loss={received!r}"
        )
    return loss
