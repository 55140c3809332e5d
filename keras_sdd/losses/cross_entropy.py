"""The loss on the labels: cross-entropy that needs no choice of form, or one of Keras's."""

import inspect

import keras
import numpy as np
from keras import ops

from keras_sdd.losses.base import nan_outside, target_mask, to_indices


def class_indices(labels, num_classes):
    """Turn labels of any accepted kind into class indices.

    Args:
        labels: (B,) or (B, 1) integers in any dtype, or one-hot or soft rows (B, K).
        num_classes: K.

    Returns:
        int32 tensor (B,): the class, of soft rows the likeliest. -1 marks what is no label: a
        fraction, or a row that is not a probability distribution.

    Raises:
        ValueError: if `labels` has another shape.
    """
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[1] == num_classes:
        labels = ops.cast(labels, "float32")
        # The margin is that of soft labels stored in half precision.
        sums_to_one = ops.abs(ops.sum(labels, axis=-1) - 1.0) < 1e-2
        valid = ops.logical_and(sums_to_one, ops.all(labels >= 0, axis=-1))
        return ops.where(valid, ops.cast(ops.argmax(labels, axis=-1), "int32"), -1)
    if len(shape) == 2 and shape[1] == 1:
        labels = ops.squeeze(labels, -1)
    elif len(shape) != 1:
        raise ValueError(
            "Labels must be class indices (B,) or one-hot or soft rows (B, K); multi-label and "
            f"per-position targets are not supported. Received: labels of shape {shape}, "
            f"K={num_classes}"
        )
    return to_indices(labels)


@keras.saving.register_keras_serializable(package="keras_sdd")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy from logits, for integer, one-hot and soft labels alike.

    A label outside [0, K), and a row that is not a distribution, give NaN on every backend.
    Called as any Keras loss: `loss(labels, logits, sample_weight=None)` with labels (B,), (B, 1)
    or (B, K) and logits (B, K).
    """

    def __init__(self, name="cross_entropy", reduction="sum_over_batch_size", dtype="float32"):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, labels, logits):
        num_classes = logits.shape[-1]
        indices = class_indices(labels, num_classes)
        if tuple(labels.shape[1:]) == (num_classes,):
            weights = labels
        else:
            weights = ops.cast(target_mask(indices, num_classes), logits.dtype)
        loss = -ops.sum(weights * ops.log_softmax(logits), axis=-1)
        return loss * nan_outside(indices, num_classes)


def check_labels(labels, num_classes):
    """Raise a ValueError if some labels in an array are none of [0, K), with the first of them."""
    indices = ops.convert_to_numpy(class_indices(ops.convert_to_tensor(labels), num_classes))
    wrong = np.flatnonzero((indices < 0) | (indices >= num_classes))
    if wrong.size:
        raise ValueError(
            f"Labels must be classes in [0, {num_classes}), or one-hot or soft rows that sum to 1 "
            f"(multi-label targets are not supported). Received: {wrong.size} others, the first "
            f"y[{wrong[0]}] = {labels[wrong[0]]}"
        )


def find_student_loss(loss):
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
