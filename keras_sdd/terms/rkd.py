"""RKD: relational distillation, distances and angles between the samples of a batch."""

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.terms.features import EmbeddingTerm
from keras_sdd.terms.sp import flatten
from keras_sdd.typing import LayerPairs, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class RKD(EmbeddingTerm):
    """Teaches the distances between the embeddings of a batch, and the angles of their triples.

    distance_weight * mean over (i, j) of h(d_ij of the teacher, of the student), d_ij the distance
    divided by the mean one, + angle_weight * mean over (i, j, k) of h(a_ijk of both), a_ijk the
    cosine at i of the triangle (j, i, k); h is the Huber loss of delta 1. A sample's value is the
    mean over the pairs and triples of which it is the first, so a sample weight holds for these.

    The batch is the scale of comparison, as for `SP`. Memory grows with B^2 C, the differences,
    and B^3, the angles: 8 MB and 1 MB a network for 64 samples of 512 features, 134 MB and 67 MB
    for 256.

    Args:
        distance_weight: of the distances, 0 or greater.
        angle_weight: of the angles, 0 or greater.
        layers: pairs of names; by default what both classifiers read.
        weight: as for `FeatureTerm`.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: if a weight is negative or not finite.

    Source: Park et al., "Relational Knowledge Distillation" (CVPR 2019), the distance-wise
    and the angle-wise loss.

    Examples:
        >>> term = keras_sdd.terms.RKD(distance_weight=1.0, angle_weight=0.0)
        >>> teacher = np.array([[0.0], [1.0], [3.0]])  # distances 0.5, 1 and 1.5 of the mean one
        >>> student = np.array([[0.0], [1.0], [2.0]])  # 0.75, 0.75 and 1.5
        >>> [round(float(x), 4) for x in term.compare(teacher, student)]
        [0.0104, 0.0208, 0.0104]
        >>> [round(float(x), 4) for x in term.compare(teacher, 100 * student)]
        [0.0104, 0.0208, 0.0104]
    """

    relates_samples = True

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        layers: LayerPairs | None = None,
        weight: float = 1.0,
        warmup_steps: int = 0,
        name: str = "rkd_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        self.distance_weight = check_number("distance_weight", distance_weight)
        self.angle_weight = check_number("angle_weight", angle_weight)

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        teacher, student = (relate_samples(flatten(x)) for x in (teacher_map, student_map))
        distance = ops.mean(huber(teacher[0] - student[0]), axis=-1)
        angle = ops.mean(huber(teacher[1] - student[1]), axis=(1, 2))
        return self.distance_weight * distance + self.angle_weight * angle


def relate_samples(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, B) over the mean one, and cosines (B, B, B), of float32 vectors (B, C)."""
    # Differences, as distances from products of large vectors lose the digits of small ones.
    gaps = ops.expand_dims(vectors, 0) - ops.expand_dims(vectors, 1)
    largest = ops.stop_gradient(ops.max(ops.abs(gaps)))  # a common factor changes nothing
    gaps = gaps / ops.where(largest > 0, largest, 1.0)
    squares = ops.sum(gaps**2, axis=-1)
    # Samples nearer than a millionth of that are equal: without distance, direction, gradient.
    apart = squares > 1e-12
    distances = ops.sqrt(ops.where(apart, squares, 1.0))
    units = ops.where(ops.expand_dims(apart, -1), gaps / ops.expand_dims(distances, -1), 0.0)
    distances = ops.where(apart, distances, 0.0)
    size = ops.cast(ops.shape(vectors)[0], "float32")
    mean = ops.sum(distances) / ops.maximum(size * (size - 1.0), 1.0)
    cosines = ops.matmul(units, ops.swapaxes(units, 1, 2))
    return distances / ops.where(mean > 0, mean, 1.0), cosines


def huber(gap: Tensor) -> Tensor:
    """Half the square of gaps up to 1, and of slope 1 beyond."""
    size = ops.abs(gap)
    return ops.where(size < 1, 0.5 * gap**2, size - 0.5)
