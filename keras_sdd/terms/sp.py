"""SP: similarity-preserving distillation."""

import keras
from keras import ops

from keras_sdd.terms.features import FeatureTerm
from keras_sdd.typing import LayerPairs, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class SP(FeatureTerm):
    """Teaches which images of a batch are like which.

    G = rows of F F' divided by their norms, F the flattened maps (B, H * W * C); the term is
    ||G_teacher - G_student||^2 / B^2. A sample's value is its row's mean, so a sample weight holds
    for the row. Sizes and channels of the two maps may differ.

    The batch is the scale of comparison: with several devices a device compares its own part of
    it, except on JAX, where all images are compared.

    Args:
        layers: as for `FeatureTerm`; by default the last map of both.
        weight: factor in the loss; the paper's.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: if `layers` is no list of pairs, or `weight` is negative.

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation" (ICCV 2019), eq. 2 to 4.

    Examples:
        >>> term = keras_sdd.terms.SP()
        >>> teacher = np.eye(2).reshape(2, 1, 1, 2)  # each image like itself alone
        >>> student = np.ones((2, 1, 1, 5))  # both alike: rows of 1 / sqrt(2)
        >>> values = term.compare(teacher, student)
        >>> [round(float(x), 4) for x in values]  # ((1 - 0.7071)^2 + 0.7071^2) / 2
        [0.2929, 0.2929]
    """

    relates_samples = True

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: float = 3000.0,
        warmup_steps: int = 0,
        name: str = "sp_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        gap = relate_rows(flatten(teacher_map)) - relate_rows(flatten(student_map))
        return ops.mean(gap**2, axis=-1)


def flatten(features: Tensor) -> Tensor:
    """Features (B, ...) as float32 vectors (B, F)."""
    return ops.reshape(ops.cast(features, "float32"), (ops.shape(features)[0], -1))


def relate_rows(vectors: Tensor) -> Tensor:
    """Normalized similarities (..., B, B) between the samples of float32 vectors (..., B, F)."""
    # A common factor changes no similarity: without it squares of large features overflow.
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=(-2, -1), keepdims=True))
    vectors = vectors / ops.where(largest > 0, largest, 1.0)
    similarities = ops.matmul(vectors, ops.swapaxes(vectors, -2, -1))
    squares = ops.sum(similarities**2, axis=-1, keepdims=True)
    return similarities / ops.sqrt(ops.maximum(squares, 1e-24))
