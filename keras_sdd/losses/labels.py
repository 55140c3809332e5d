"""Labels of any accepted kind: what class they are of, which are missing, which are wrong."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdd.losses.base import to_indices
from keras_sdd.typing import Tensor


def class_indices(labels: Tensor, num_classes: int) -> Tensor:
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
    return to_indices(_squeeze(labels, num_classes))


def _squeeze(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B,) of (B,) or (B, 1), arrays or tensors."""
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[1] == 1:
        return labels[:, 0]
    if len(shape) != 1:
        raise ValueError(
            "Labels must be class indices (B,) or one-hot or soft rows (B, K); multi-label and "
            f"per-position targets are not supported. Received: labels of shape {shape}, "
            f"K={num_classes}"
        )
    return labels


def find_ignored(labels: Tensor, ignore_class: int, num_classes: int) -> Tensor:
    """Boolean mask (B,): the samples without a label, marked by `ignore_class`.

    Of one-hot or soft labels, the rows that hold nothing but that number.
    """
    marked = ops.equal(labels, ops.cast(ignore_class, labels.dtype))
    if tuple(labels.shape[1:]) == (num_classes,):
        return ops.all(marked, axis=-1)
    return _squeeze(marked, num_classes)


def replace_labels(labels: Tensor, where: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Labels of the same kind, `classes` (B,) in the place of those `where` a mask (B,) is true."""
    if tuple(labels.shape[1:]) == (num_classes,):
        rows = ops.one_hot(
            classes, num_classes, dtype=keras.backend.standardize_dtype(labels.dtype)
        )
        return ops.where(ops.expand_dims(where, -1), rows, labels)
    labels = _squeeze(labels, num_classes)
    return ops.where(where, ops.cast(classes, labels.dtype), labels)


def check_labels(labels: Tensor, num_classes: int, ignore_class: int | None = None) -> None:
    """Raise a ValueError if some labels in an array are none of [0, K), with the first of them."""
    try:
        labels = np.asarray(labels)
        values = labels.astype("float64")  # exact for integers that any class could be
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Labels must be numbers: turn names of classes into indices, for example by "
            "`classes, y = numpy.unique(names, return_inverse=True)`. Received: labels of dtype "
            f"{getattr(labels, 'dtype', type(labels).__name__)}, the first {_first(labels)!r}"
        ) from error
    if values.ndim == 2 and values.shape[1] == num_classes:
        wrong = (np.abs(values.sum(-1) - 1.0) >= 1e-2) | (values < 0).any(-1)
        wrong |= ~np.isfinite(values).all(-1)
        missing = (values == ignore_class).all(-1) if ignore_class is not None else False
    else:
        values = _squeeze(values, num_classes)
        wrong = ~((values >= 0) & (values < num_classes) & (values == np.floor(values)))
        missing = values == ignore_class if ignore_class is not None else False
    places = np.flatnonzero(wrong & ~np.asarray(missing))
    if places.size:
        hint = "" if ignore_class is not None else "; images without one get ignore_class"
        if values.ndim == 1 and values.min() == 1 and values.max() == num_classes:
            hint = "; these count from 1: subtract 1"
        raise ValueError(
            f"Labels must be classes in [0, {num_classes}), or one-hot or soft rows that sum to 1 "
            f"(multi-label targets are not supported){hint}. Received: {places.size} others, the "
            f"first y[{places[0]}] = {labels[places[0]]}"
        )


def _first(labels: Tensor) -> Any:
    return next(iter(np.ravel(np.asarray(labels, dtype=object))), None)


def find_fraction(mask: Tensor) -> Tensor:
    """The part of a mask (B,) that is true: exactly 1 where all is, on every backend."""
    count, size = ops.sum(ops.cast(mask, "float32")), ops.cast(ops.size(mask), "float32")
    return ops.where(count == size, 1.0, count / size)


def tabulate_weights(class_weight: dict[int, float] | None, num_classes: int) -> np.ndarray | None:
    """float32 array (K,) of the weights in a dict of class to weight; None for None.

    Raises:
        ValueError: for a class outside [0, K).
    """
    if class_weight is None:
        return None
    table = np.ones(num_classes, "float32")
    for index, weight in class_weight.items():
        if index not in range(num_classes):
            raise ValueError(
                f"`class_weight` must map classes in [0, {num_classes}) to weights. Received: "
                f"class_weight with {index!r}"
            )
        table[index] = weight
    return table
