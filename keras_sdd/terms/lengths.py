"""Vectors divided by their length, as several terms need them: any size of them, zero too."""

from keras import ops

from keras_sdd.typing import Tensor


def to_unit_length(vectors: Tensor) -> Tensor:
    """Divide float32 vectors (..., F) by their Euclidean length; zero stays zero."""
    # The largest entry first, as squares of large and of small features leave float32.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=-1, keepdims=True))
    vectors = vectors / ops.where(largest > 0, largest, 1.0)
    # 1 or more, or 0, where the root has no derivative.
    squares = ops.sum(vectors**2, axis=-1, keepdims=True)
    return vectors / ops.sqrt(ops.maximum(squares, 0.5))
