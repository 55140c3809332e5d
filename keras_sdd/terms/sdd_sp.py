"""SDD-SP: similarity-preserving distillation of the regions of a map at several scales."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_sdd._checks import check_scales, check_word
from keras_sdd.networks import Network
from keras_sdd.pooling import check_size, pool_cells
from keras_sdd.terms.features import FeatureTerm
from keras_sdd.terms.sp import flatten, relate_rows
from keras_sdd.typing import LayerPairs, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class SDDSP(FeatureTerm):
    """`SP` of the cells of a map, pooled at several scales, without the classifier.

    Teaches which images of a batch are like which in a region. The paper has one sentence on it and
    no program; `reading` is how it is read. The values are of different sizes, and so are weights
    that do the same: that of `"cells"` was 16 times that of `SP` where both were recorded.

    Sizes and channels of the two maps may differ. A sample's value is its row's mean, and the batch
    is the scale of comparison, as for `SP`.

    Args:
        scales: the scales M, as for `SDD`.
        reading: `"cells"`, the mean over the cells of the SP of each cell's vectors (B, C);
            `"scales"`, the mean over the scales of the SP of each pooled map (B, m * m * C);
            `"concatenated"`, the SP of all cells as one vector (B, N * C).
        pooling: as for `keras_sdd.pool_cells`.
        layers: as for `FeatureTerm`; by default the last map of both.
        weight: factor in the loss; that of `SP`.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: for options that do not fit; when it is built, for what are no maps of known
            size.

    Source: appendix of "Scale Decoupled Distillation" (CVPR 2024); Tung and Mori,
    "Similarity-Preserving Knowledge Distillation" (ICCV 2019), eq. 2 to 4.

    Examples:
        >>> term = keras_sdd.terms.SDDSP(scales=(2,))
        >>> teacher, student = np.ones((3, 4, 4, 8)), np.ones((3, 8, 8, 2))
        >>> student[0, :4] = 0.0  # two cells of an image show nothing
        >>> values = term.compare(teacher, student)
        >>> [round(float(x), 3) for x in values]  # of the first 2 / 4 of 1 / 3
        [0.167, 0.061, 0.061]
    """

    relates_samples = True

    def __init__(
        self,
        scales: Sequence[int] = (1, 2, 4),
        reading: str = "cells",
        pooling: str = "direct",
        layers: LayerPairs | None = None,
        weight: float = 3000.0,
        warmup_steps: int = 0,
        name: str = "sdd_sp_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        self.scales = check_scales(scales)
        self.reading = check_word("reading", reading, ("cells", "scales", "concatenated"))
        self.pooling = check_word("pooling", pooling, ("direct", "nested"))

    def read_student(self, network: Network) -> dict[str, Tensor]:
        network.check_places("regions")
        return super().read_student(network)

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        for shape in (*teacher_shapes.values(), *student_shapes.values()):
            check_size(shape)

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        maps = [ops.cast(x, "float32") for x in (teacher_map, student_map)]
        cells = [pool_cells(x, self.scales, self.pooling) for x in maps]
        if self.reading == "cells":
            teacher, student = (relate_rows(ops.swapaxes(x, 0, 1)) for x in cells)  # (N, B, B)
            return ops.mean((teacher - student) ** 2, axis=(0, -1))
        groups = [self._group(x) for x in cells]
        pairs = [[relate_rows(flatten(x)) for x in pair] for pair in zip(*groups, strict=True)]
        return sum(ops.mean((x - y) ** 2, axis=-1) for x, y in pairs) / len(pairs)

    def _group(self, cells: Tensor) -> list[Tensor]:
        """Cells (B, N, C) by scale, or as they are."""
        if self.reading == "concatenated":
            return [cells]
        counts = [m * m for m in self.scales]
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        return [cells[:, end - n : end] for n, end in zip(counts, ends, strict=True)]
