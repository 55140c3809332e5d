"""Terms that compare layers, or embeddings, of both networks in pairs."""

import math
from typing import Any

from keras_sdd.networks import Network
from keras_sdd.terms.base import Term
from keras_sdd.typing import LayerPairs, Shape, Tensor


class FeatureTerm(Term):
    """A term that compares layers of both networks in pairs; base of the simple ones.

    A term of your own is a subclass with one method, `compare`.

    Args:
        layers: pairs (teacher's, student's) of names, or layers; a name may be the end of a path,
            as in `"backbone/conv1"`. The term is the sum over the pairs. None lets the term choose:
            by default the last map of both.
        weight: as for `Term`.
        warmup_steps: as for `Term`.
        name: as for `Term`.

    Raises:
        ValueError: if `layers` is no list of pairs.

    Examples:
        >>> @keras.saving.register_keras_serializable()
        ... class ChannelMeans(keras_sdd.terms.FeatureTerm):
        ...     def compare(self, teacher_map, student_map):
        ...         means = [keras.ops.mean(x, axis=-1) for x in (teacher_map, student_map)]
        ...         return keras.ops.mean((means[0] - means[1]) ** 2, axis=(1, 2))
        >>> term = ChannelMeans(layers=[("conv2", "conv1")], weight=5.0)
        >>> value = term.compare(np.full((1, 4, 4, 16), 3.0), np.ones((1, 4, 4, 8)))
        >>> float(value[0])
        4.0
    """

    def __init__(
        self,
        layers: LayerPairs | None = None,
        weight: float = 1.0,
        warmup_steps: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, warmup_steps, name)
        self.layers = None if layers is None else _name_pairs(layers)
        self._pairs: list[Any] = []

    def choose_pairs(self, teacher: Network, student: Network) -> LayerPairs:
        """Choose what to compare where no layers are given: pairs of names of layers.

        Args:
            teacher: `keras_sdd.Network`.
            student: `keras_sdd.Network`.

        Returns:
            List of pairs (teacher's, student's).
        """
        return [(x, y) for x, y in zip(teacher.stages[-1:], student.stages[-1:], strict=False)]

    def choose(self, teacher: Network, student: Network) -> None:
        self._pairs = list(self.layers or self.choose_pairs(teacher, student))
        if not self._pairs:
            raise ValueError(
                f"{self.name!r} finds no maps to compare; name layers=[(teacher's, student's)]. "
                f"Received: the models {teacher.source.name!r} and {student.source.name!r}"
            )

    def compare(self, teacher_map: Tensor, student_map: Tensor) -> Tensor:
        """Compute the term of one pair of layers.

        Args:
            teacher_map: float tensor (B, ...), a map as (B, H, W, C).
            student_map: float tensor (B, ...), likewise.

        Returns:
            (B,) or ().
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `compare(teacher_map, student_map)`."
        )

    def read_teacher(self, network: Network) -> dict[str, Tensor]:
        return self._read(network, 0)

    def read_student(self, network: Network) -> dict[str, Tensor]:
        return self._read(network, 1)

    def _read(self, network: Network, side: int) -> dict[str, Tensor]:
        return {f"map{i}": network.feature(pair[side]) for i, pair in enumerate(self._pairs)}

    def call(
        self, teacher: dict[str, Tensor], student: dict[str, Tensor], targets: dict[str, Any]
    ) -> Tensor:
        return sum(self.compare(teacher[name], student[name]) for name in teacher)

    def identify_reading(self) -> dict[str, Any]:
        return {"layers": [pair[0] for pair in self._pairs]}


class EmbeddingTerm(FeatureTerm):
    """A `FeatureTerm` that compares what both classifiers read, where no layers are named.

    Args:
        layers: as for `FeatureTerm`.
        weight: as for `FeatureTerm`.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: if `layers` is no list of pairs.

    Examples:
        >>> @keras.saving.register_keras_serializable()
        ... class Cosine(keras_sdd.terms.EmbeddingTerm):
        ...     def compare(self, teacher_map, student_map):
        ...         vectors = (keras.ops.normalize(x, axis=-1) for x in (teacher_map, student_map))
        ...         return 1.0 - keras.ops.sum(keras.ops.multiply(*vectors), axis=-1)
        >>> teacher, student = (keras_sdd.models.build("small/cnn_8_16_32") for _ in range(2))
        >>> distiller = keras_sdd.Distiller(teacher, student, [Cosine()])
        >>> distiller.teacher_targets_spec["teacher"]["cosine_loss"]["embedding"].shape
        (None, 32)
    """

    def choose(self, teacher: Network, student: Network) -> None:
        if self.layers is not None:
            super().choose(teacher, student)

    def _read(self, network: Network, side: int) -> dict[str, Tensor]:
        return super()._read(network, side) or {"embedding": network.embedding}


def sort_maps(read: dict[str, Any]) -> list[Any]:
    """Maps, or their shapes, that were read by name as a list; an embedding comes last."""
    others = [read["embedding"]] if "embedding" in read else []
    return [read[f"map{i}"] for i in range(len(read) - len(others))] + others


def name_shapes(maps: list[Tensor]) -> dict[str, Shape]:
    """The other way round: the shapes of a list of maps by name."""
    return {f"map{i}": tuple(x.shape) for i, x in enumerate(maps)}


def match_stages(teacher: Network, student: Network) -> LayerPairs:
    """Pairs of names of the layers that end the stages of two networks.

    Where one has more stages, those of the nearest sizes are compared, all in their order; of
    equally near ones the first.
    """
    sides = [teacher.stages, student.stages]
    count = min(map(len, sides))
    sizes = [
        [_measure(network.feature(name)) for name in names]
        for network, names in zip((teacher, student), sides, strict=True)
    ]

    def distance(starts: tuple[int, int]) -> float:
        pairs = zip(*(x[i : i + count] for x, i in zip(sizes, starts, strict=True)), strict=True)
        return sum(abs(x - y) for x, y in pairs)

    first, second = (range(len(names) - count + 1) for names in sides)
    starts = min(((i, j) for i in first for j in second), key=distance)
    return list(zip(*(x[i : i + count] for x, i in zip(sides, starts, strict=True)), strict=True))


def check_single_pair(method: str, pairs: LayerPairs | None) -> None:
    """Raise a ValueError if a method that learns for one pair of layers is given several."""
    if pairs is not None and len(pairs) > 1:
        raise ValueError(
            f"{method} compares one pair of layers; add one for each, with a name of its own. "
            f"Received: layers={pairs!r}"
        )


def _measure(maps: Tensor) -> float:
    """The logarithm of the height of a map (B, H, W, C); 0 where it is unknown."""
    return math.log2(maps.shape[1] or 1)


def _name_pairs(pairs: Any) -> list[tuple[str, str]]:
    """Names of pairs of layers. Names alone: a term must not own the layers of the networks."""
    try:
        named = [tuple(getattr(x, "name", x) for x in pair) for pair in pairs]
    except TypeError:
        named = []
    if not named or not all(len(x) == 2 and all(isinstance(y, str) for y in x) for x in named):
        raise ValueError(
            "`layers` must be a list of pairs, the teacher's layer and the student's, each a name "
            f"or a layer. Received: layers={pairs!r}"
        )
    return named
