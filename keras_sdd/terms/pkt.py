"""PKT: probabilistic knowledge transfer, which samples of a batch are neighbours."""

import keras
from keras import ops

from keras_sdd.terms.features import EmbeddingTerm
from keras_sdd.terms.lengths import to_unit_length
from keras_sdd.terms.sp import flatten
from keras_sdd.typing import LayerPairs, Tensor

EPSILON = 1e-7


@keras.saving.register_keras_serializable(package="keras_sdd")
class PKT(EmbeddingTerm):
    """Divergence between the neighbourhoods of both networks' embeddings.

    S_ij = (1 + cosine of the embeddings i and j) / 2, P and Q its rows over their sums; the term is
    the mean over (i, j) of P log((P + e) / (Q + e)), P the teacher's, e = 1e-7. A sample's value
    is the mean of its row, so a sample weight holds for the row.

    The batch is the scale of comparison, as for `SP`.

    Args:
        layers: pairs of names; by default what both classifiers read.
        weight: factor in the loss; that of the public programs. The term itself is small: 1e-5.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: if `layers` is no list of pairs, or `weight` is negative.

    Source: Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge
    Transfer" (ECCV 2018), with the cosine kernel.

    Examples:
        >>> term = keras_sdd.terms.PKT()
        >>> teacher = np.eye(2)  # of a row, 2 / 3 is of the sample itself
        >>> student = np.ones((2, 2))  # both samples alike: 1 / 2
        >>> values = term.compare(teacher, student)
        >>> [round(float(x), 4) for x in values]  # (2 / 3 ln(4 / 3) + 1 / 3 ln(2 / 3)) / 2
        [0.0283, 0.0283]
    """

    relates_samples = True

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: float = 30000.0,
        warmup_steps: int = 0,
        name: str = "pkt_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        teacher, student = (find_neighbours(x) for x in (teacher_map, student_map))
        # Rows sum to 1, so that P log(P / Q) - P + Q has the same sum. None of these is negative,
        # while P log(P / Q) are of both signs and cancel to the last digits of float32.
        excess = (student - teacher) / (teacher + EPSILON)
        values = teacher * (excess - ops.log1p(excess)) + EPSILON * excess
        return ops.mean(values, axis=-1)


def find_neighbours(features: Tensor) -> Tensor:
    """Of every sample the others by likeness, rows that sum to 1: (B, B)."""
    units = to_unit_length(flatten(features))
    likeness = (ops.matmul(units, ops.transpose(units)) + 1.0) / 2.0
    likeness = ops.maximum(likeness, 0.0)  # which rounding leaves just below
    return likeness / ops.sum(likeness, axis=-1, keepdims=True)
