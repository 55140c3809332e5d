"""CRD: contrastive representation distillation."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sdd import _backend
from keras_sdd._checks import check_integers, check_number
from keras_sdd.losses.labels import class_indices
from keras_sdd.networks import Network
from keras_sdd.terms.base import add_scalar
from keras_sdd.terms.features import EmbeddingTerm, check_single_pair
from keras_sdd.terms.lengths import to_unit_length
from keras_sdd.terms.sp import flatten
from keras_sdd.typing import LayerPairs, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class CRD(EmbeddingTerm):
    """Tells a sample's embedding by the other network from those of samples of other classes.

    Both networks' embeddings go through a linear layer each, learned with the student, and are
    divided by their norms: v. A memory keeps one of every sample of the data set and each network.
    With s(i, j) = exp(v_i . m_j / T) / Z of a sample i and the other network's memory m_j, and k
    negatives out of n samples, each side adds -log(s(i, i) / (s(i, i) + k / n)) and, summed over
    the negatives, -log((k / n) / (s(i, j) + k / n)).
    Z is n times the mean of s in the first step, one for each side, and stays. After a step the
    memory of its samples moves towards v.

    Targets hold the number of every sample in the data set as `"ids"`. The classes of samples are
    learned as they are seen; those not seen yet count as of other classes, as their memory is
    noise. Negatives differ from each other while there are enough samples of other classes.

    With several devices all memories see the samples of all.

    Args:
        num_samples: n, the number of training samples; ids lie in [0, n).
        num_negatives: k.
        temperature: T, greater than 0.
        momentum: part of the old memory that stays, from 0 to 1.
        num_features: size of the embeddings that are compared.
        layers: one pair of layers, flattened, to compare instead of what the classifiers read.
        seed: of the draw of negatives; None for another in every run.
        weight: factor in the loss; that of the public programs.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: for several pairs of layers, or numbers out of range; in `fit`, for targets
            without ids or with others. Later a sample of no such id has NaN for its value.

    Source: Tian et al., "Contrastive Representation Distillation" (ICLR 2020), section 3, with the
    memories and constants of the public programs.

    Examples:
        >>> term = keras_sdd.terms.CRD(num_samples=100, num_negatives=10)
        >>> term.build({"embedding": (None, 8)}, {"embedding": (None, 4)})  # as a distiller does
        >>> tuple(term.teacher_memory.shape), tuple(term.embed_student.kernel.shape)
        ((100, 128), (4, 128))
        >>> term.check_targets({"labels": np.array([3, 5])})
        Traceback (most recent call last):
        ValueError: 'crd_loss' needs the number of every sample in the data set: ...
        >>> term.check_targets({"labels": np.array([3, 5]), "ids": np.array([0, 99])})
    """

    needs_ids = True

    def __init__(
        self,
        num_samples: int,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        num_features: int = 128,
        layers: LayerPairs | None = None,
        seed: int | None = None,
        weight: float = 0.8,
        warmup_steps: int = 0,
        name: str = "crd_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        check_integers(2, num_samples=num_samples)
        check_integers(1, num_negatives=num_negatives, num_features=num_features)
        self.num_samples, self.num_negatives = num_samples, num_negatives
        self.temperature = check_number("temperature", temperature, positive=True)
        self.momentum = check_number("momentum", momentum)
        if self.momentum > 1:
            raise ValueError(f"`momentum` must be 1 or less. Received: momentum={momentum!r}")
        check_single_pair("CRD", self.layers)
        self.num_features, self.seed = num_features, seed
        self._num_classes: Any = None  # known once it is in a distiller
        self.random = keras.random.SeedGenerator(seed)

    def choose(self, teacher: Network, student: Network) -> None:
        super().choose(teacher, student)
        self._num_classes = student.num_classes

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        (teacher,), (student,) = teacher_shapes.values(), student_shapes.values()
        self.embed_teacher = self._make_embedding(teacher, "embed_teacher")
        self.embed_student = self._make_embedding(student, "embed_student")
        bound = (3 / self.num_features) ** 0.5
        shape = (self.num_samples, self.num_features)
        self.teacher_memory, self.student_memory = (
            self.add_weight(
                name=f"{who}_memory", shape=shape, trainable=False,
                initializer=keras.initializers.RandomUniform(-bound, bound),
            )
            for who in ("teacher", "student")
        )  # fmt: skip
        self.classes = self.add_weight(
            name="classes", shape=(self.num_samples,), dtype="int32", trainable=False,
            initializer=keras.initializers.Constant(-1),
        )  # fmt: skip
        # Z of the two sides, negative until it is known.
        self.teacher_normalizer = add_scalar(self, "teacher_normalizer", -1.0)
        self.student_normalizer = add_scalar(self, "student_normalizer", -1.0)

    def _make_embedding(self, shape: Shape, name: str) -> keras.layers.Layer:
        size = int(np.prod(shape[1:]))
        # Uniform in +-1 / sqrt(fan in), as the public programs have it.
        bound = size**-0.5
        layer = layers.Dense(
            self.num_features, name=name, dtype="float32",
            kernel_initializer=keras.initializers.RandomUniform(-bound, bound),
            bias_initializer=keras.initializers.RandomUniform(-bound, bound),
        )  # fmt: skip
        layer.build((None, size))
        return layer

    def check_targets(self, targets: dict[str, Any]) -> None:
        super().check_targets(targets)
        ids = ops.convert_to_numpy(targets["ids"])
        if ids.size and not (ids.min() >= 0 and ids.max() < self.num_samples):
            raise ValueError(
                f"The ids of samples must lie in [0, num_samples); give {self.name!r} the number "
                f"of training samples. Received: num_samples={self.num_samples}, ids from "
                f"{ids.min()} to {ids.max()}"
            )

    def call(
        self, teacher: dict[str, Tensor], student: dict[str, Tensor], targets: dict[str, Any]
    ) -> Tensor:
        if "ids" not in targets:  # of data that no first batch was seen of
            self.check_targets(targets)
        (teacher,), (student,) = teacher.values(), student.values()
        teacher, student = (
            self.embed_teacher(flatten(teacher)),
            self.embed_student(flatten(student)),
        )
        teacher, student = to_unit_length(teacher), to_unit_length(student)
        given = ops.reshape(ops.cast(targets["ids"], "int32"), (-1,))
        inside = ops.logical_and(given >= 0, given < self.num_samples)
        ids = ops.clip(given, 0, self.num_samples - 1)
        labels = self._note_classes(ids, targets.get("labels"))
        negatives = self.draw_negatives(labels)
        value = self._contrast(
            student, self.teacher_memory, self.student_normalizer, ids, negatives
        ) + self._contrast(teacher, self.student_memory, self.teacher_normalizer, ids, negatives)
        # The scores were those of the memories before the step.
        self._remember(self.teacher_memory, ids, teacher)
        self._remember(self.student_memory, ids, student)
        return ops.where(inside, value, np.float32("nan"))

    def _note_classes(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Remember the classes of the samples; each is one of its own where none is known."""
        if labels is None:
            labels = ids
        else:
            labels = class_indices(ops.convert_to_tensor(labels), self._num_classes)
        rows, values = (_backend.gather_over_devices(x) for x in (ids, labels))
        self.classes.assign(ops.scatter_update(self.classes, rows[:, None], values))
        return labels

    def draw_negatives(self, labels: Tensor) -> Tensor:
        """Draw for samples of the classes `labels` (B,) others, ids (B, num_negatives).

        All samples of other classes stand in a row, sorted by class. One is drawn of each of
        `num_negatives` stretches of equal length, and the places are turned on by a random number,
        another for each sample: none comes twice, and all are as likely.
        """
        order = ops.cast(ops.argsort(self.classes), "int32")
        classes = ops.take(self.classes, order)
        start, end = (
            ops.cast(ops.searchsorted(classes, labels, side=side), "int32")[:, None]
            for side in ("left", "right")
        )
        others = ops.maximum(self.num_samples - (end - start), 1)
        length = ops.maximum(ops.min(others) // self.num_negatives, 1)
        steps = ops.arange(self.num_negatives, dtype="int32")[None]
        steps = steps * length + self._draw((1, self.num_negatives), length)
        place = (steps + self._draw((ops.shape(labels)[0], 1), others)) % others
        place = ops.where(place < start, place, place + (end - start))
        return ops.take(order, ops.minimum(place, self.num_samples - 1))

    def _draw(self, shape: tuple[Tensor, ...], bound: Tensor) -> Tensor:
        """Integers in [0, bound)."""
        drawn = keras.random.uniform(shape, seed=self.random) * ops.cast(bound, "float32")
        return ops.minimum(ops.cast(drawn, "int32"), bound - 1)

    def _contrast(
        self,
        embedding: Tensor,
        memory: keras.Variable,
        normalizer: keras.Variable,
        ids: Tensor,
        negatives: Tensor,
    ) -> Tensor:
        """The value (B,) of one side, of samples `ids` (B,) against `negatives` (B, k)."""
        # All products cost less than gathering k rows of the memory for each sample. A copy, as
        # gradients want the memory that PyTorch changes in place.
        memory = ops.copy(memory)
        embedding = embedding / self.temperature
        own = ops.sum(embedding * ops.take(memory, ids, axis=0), axis=-1)
        products = ops.matmul(embedding, ops.transpose(memory))
        rows = ops.arange(ops.shape(ids)[0], dtype="int32")[:, None] * self.num_samples
        others = ops.take(ops.reshape(products, (-1,)), rows + negatives)
        shift = self._find_normalizer(normalizer, own, others)
        shift = shift + float(np.log(self.num_negatives / self.num_samples))
        return ops.softplus(shift - own) + ops.sum(ops.softplus(others - shift), axis=-1)

    def _find_normalizer(self, normalizer: keras.Variable, own: Tensor, others: Tensor) -> Tensor:
        """log Z, of the scores of this step if it is the first."""
        own, others = (ops.exp(ops.stop_gradient(x)) for x in (own, others))
        count = 1 + self.num_negatives
        mean = (ops.mean(own) + self.num_negatives * ops.mean(others)) / count
        found = _backend.average_over_devices(self.num_samples * mean)
        known = ops.copy(normalizer)
        known = ops.where(known > 0, known, found)
        normalizer.assign(known)
        return ops.log(known)

    def _remember(self, memory: keras.Variable, ids: Tensor, embedding: Tensor) -> None:
        rows = _backend.gather_over_devices(ids)
        seen = _backend.gather_over_devices(ops.stop_gradient(embedding))
        old = ops.take(ops.convert_to_tensor(memory), rows, axis=0)
        moved = to_unit_length(self.momentum * old + (1 - self.momentum) * seen)
        memory.assign(ops.scatter_update(memory, rows[:, None], moved))
