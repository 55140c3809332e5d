"""SemCKD: every stage of the student learns from all of the teacher's, as the images ask for."""

from collections.abc import Hashable
from typing import Any

import keras
from keras import layers, ops

from keras_sdd._checks import check_integers
from keras_sdd.networks import Network
from keras_sdd.normalization import BatchNorm
from keras_sdd.pooling import average_to, check_size
from keras_sdd.terms.features import FeatureTerm, name_shapes, sort_maps
from keras_sdd.typing import LayerPairs, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class SemCKD(FeatureTerm):
    """Distances between all pairs of stages of both networks, weighted by attention.

    The distance of stage i of the student to stage j of the teacher is the mean squared one of the
    teacher's map to a regression of the student's, both at the smaller size of the two. Of a
    sample, stage i has the weights softmax_j(q_i . k_j): q_i and k_j are what a small network for
    each stage makes of the sample's row of the similarities F F' in the batch, F the flattened map.
    A sample's value is the sum of its weighted distances divided by the number of the student's
    stages. Regressors, of three convolutions, and the small networks are learned with the student.

    A row has an entry for every image of the batch, so the small networks are made for batches of
    one size. In a smaller one, such as the last of an epoch, the term is 0. With several devices a
    device compares its own part of the batch, except on JAX, and `batch_size` is that of the part.

    Args:
        batch_size: number of images, 4 or more, that are compared with each other.
        layers: pairs (teacher's, student's); all that are named of the teacher are compared with
            all that are named of the student, so a name may come several times. By default all
            stages of both.
        weight: factor in the loss; the authors' on CIFAR-100, beside a `KD` of weight 1.
        warmup_steps: as for `FeatureTerm`.
        name: as for `FeatureTerm`.

    Raises:
        ValueError: for a `batch_size` that is none; when it is built, for maps of unknown size; in
            training, for a larger batch. Where a step is made for batches of any size, as on
            TensorFlow without `drop_remainder`, a larger one gives NaN.

    Source: Chen et al., "Cross-Layer Distillation with Semantic Calibration" (AAAI 2021).

    Examples:
        >>> term = keras_sdd.terms.SemCKD(batch_size=4)
        >>> teacher = [np.ones((4, 2, 2, 8)), np.ones((4, 2, 2, 8))]
        >>> student = [np.ones((4, 2, 2, 4))]  # one stage
        >>> tuple(term.compare(teacher, student).shape)
        (4,)
        >>> len(term.queries), len(term.keys), len(term.regressors)  # stages, and pairs of them
        (1, 2, 2)
    """

    relates_samples = True

    def __init__(
        self,
        batch_size: int,
        layers: LayerPairs | None = None,
        weight: float = 400.0,
        warmup_steps: int = 0,
        name: str = "semckd_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        check_integers(4, batch_size=batch_size)
        self.batch_size = int(batch_size)

    def choose_pairs(self, teacher: Network, student: Network) -> LayerPairs:
        return [(x, y) for x in teacher.stages for y in student.stages]

    def read_student(self, network: Network) -> dict[str, Tensor]:
        network.check_places("maps")
        return super().read_student(network)

    def _read(self, network: Network, side: int) -> dict[str, Tensor]:
        return {f"map{i}": network.feature(name) for i, name in enumerate(self._list(side))}

    def _list(self, side: int) -> list[str]:
        """The names of the teacher's stages (0) or the student's (1), each once."""
        return list(dict.fromkeys(pair[side] for pair in self._pairs))

    def identify_reading(self) -> dict[str, Any]:
        return {"layers": self._list(0)}

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        read = map(sort_maps, (teacher_shapes, student_shapes))
        sides = [[check_size(x) for x in side] for side in read]
        self.keys, self.queries = (
            [StageEmbedding(self.batch_size, name=f"{name}{i}") for i in range(len(side))]
            for name, side in zip(("key", "query"), sides, strict=True)
        )
        for embedding in (*self.keys, *self.queries):
            embedding.build(())
        self.regressors = []
        for i, (*size, channels) in enumerate(sides[1]):
            for j, (*teacher_size, teacher_channels) in enumerate(sides[0]):
                regressor = StageRegressor(teacher_channels, name=f"regressor{i}_{j}")
                regressor.build((None, *map(min, size, teacher_size), channels))
                self.regressors.append(regressor)

    def call(
        self, teacher: dict[str, Tensor], student: dict[str, Tensor], targets: dict[str, Any]
    ) -> Tensor:
        return self.compare(sort_maps(teacher), sort_maps(student))

    def compare(self, teacher_maps: list[Tensor], student_maps: list[Tensor]) -> Tensor:
        """Compute the term of lists of maps (B, H, W, C), one of each stage: (B,)."""
        teacher_maps, student_maps = (
            [ops.cast(x, "float32") for x in side] for side in (teacher_maps, student_maps)
        )
        if not self.built:
            self.build(*map(name_shapes, (teacher_maps, student_maps)))
        fullness = self._check_batch(ops.shape(student_maps[0])[0])
        attention = self.attend(teacher_maps, student_maps)
        distances = self._measure(teacher_maps, student_maps)
        return fullness * ops.sum(attention * distances, axis=(1, 2)) / len(student_maps)

    def _check_batch(self, size: Tensor) -> Tensor:
        """1 for a batch of the size that the term is made for, 0 for a smaller one."""
        if not isinstance(size, int):
            smaller = ops.where(size < self.batch_size, 0.0, float("nan"))
            return ops.where(size == self.batch_size, 1.0, smaller)
        if size > self.batch_size:
            raise ValueError(
                f"{self.name!r} is made for batches of {self.batch_size}; its batch_size is that "
                f"of the data set, or a device's part of it. Received: {size} images"
            )
        return float(size == self.batch_size)

    def attend(self, teacher_maps: list[Tensor], student_maps: list[Tensor]) -> Tensor:
        """Weights (B, S, T) of the teacher's stages for the student's, of sum 1 over the former."""
        keys, queries = (
            ops.stack([embed(x) for embed, x in zip(embeddings, maps, strict=True)], axis=1)
            for embeddings, maps in ((self.keys, teacher_maps), (self.queries, student_maps))
        )
        return ops.softmax(ops.matmul(queries, ops.swapaxes(keys, 1, 2)), axis=-1)

    def _measure(self, teacher_maps: list[Tensor], student_maps: list[Tensor]) -> Tensor:
        """The distances (B, S, T)."""
        pooled: dict[Hashable, Tensor] = {}

        def pool(maps: Tensor, size: tuple[int, ...], key: Hashable) -> Tensor:
            if (key, size) not in pooled:
                pooled[key, size] = average_to(maps, size)
            return pooled[key, size]

        values, regressors = [], iter(self.regressors)
        for i, student_map in enumerate(student_maps):
            for j, teacher_map in enumerate(teacher_maps):
                size = tuple(map(min, student_map.shape[1:3], teacher_map.shape[1:3]))
                gap = next(regressors)(pool(student_map, size, ("student", i)))
                gap = gap - pool(teacher_map, size, ("teacher", j))
                values.append(ops.mean(gap**2, axis=(1, 2, 3)))
        return ops.reshape(ops.stack(values, axis=1), (-1, len(student_maps), len(teacher_maps)))


class StageEmbedding(layers.Layer):
    """Maps (B, H, W, C) to vectors (B, N // 4) of length 1, from similarities within the batch.

    Args:
        batch_size: N, to which smaller batches are filled up with zeros.
        name: of the layer.
    """

    def __init__(self, batch_size: int, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.batch_size = batch_size

    def build(self, _: Any) -> None:
        width = self.batch_size // 4
        sizes = (("hidden", self.batch_size, 2 * width), ("out", 2 * width, width))
        for name, inputs, units in sizes:
            limit = inputs**-0.5
            layer = layers.Dense(
                units, kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
                bias_initializer=keras.initializers.RandomUniform(-limit, limit), name=name,
                dtype="float32",
            )  # fmt: skip
            layer.build((None, inputs))
            setattr(self, name, layer)

    def call(self, maps: Tensor) -> Tensor:
        flat = ops.reshape(maps, (ops.shape(maps)[0], -1))
        similarities = ops.matmul(flat, ops.transpose(flat[: self.batch_size]))
        # Rows of the kernel that would meet zeros are left out.
        kernel = ops.convert_to_tensor(self.hidden.kernel)[: ops.shape(similarities)[1]]
        vector = self.out(ops.relu(ops.matmul(similarities, kernel) + self.hidden.bias))
        squares = ops.sum(vector**2, axis=-1, keepdims=True)
        return vector / ops.sqrt(ops.maximum(squares, 1e-24))


class StageRegressor(layers.Layer):
    """Maps (B, H, W, C) to those of other channels, by convolutions of size 1, 3 and 1.

    Args:
        channels: what it gives; there are twice as many between its convolutions.
        name: of the layer.
    """

    def __init__(self, channels: int, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        width = 2 * channels
        norm = {"momentum": 0.9, "epsilon": 1e-5, "dtype": "float32"}
        self.conv1 = _make_convolution(width, 1, "conv1")
        self.bn1 = BatchNorm(name="bn1", **norm)
        self.conv2 = _make_convolution(width, 3, "conv2")
        self.bn2 = BatchNorm(name="bn2", **norm)
        self.conv3 = _make_convolution(channels, 1, "conv3")

    def build(self, input_shape: Shape) -> None:
        wide = (*input_shape[:-1], self.conv1.filters)
        self.conv1.build(input_shape)
        for layer in (self.bn1, self.conv2, self.bn2, self.conv3):
            layer.build(wide)

    def call(self, maps: Tensor) -> Tensor:
        maps = ops.relu(self.bn1(self.conv1(maps), training=True))
        maps = ops.relu(self.bn2(self.conv2(maps), training=True))
        return self.conv3(maps)


def _make_convolution(channels: int, size: int, name: str) -> keras.layers.Layer:
    return layers.Conv2D(
        channels,
        size,
        padding="same",
        use_bias=False,
        # Uniform in +-1 / sqrt(fan in), as PyTorch has it.
        kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
        data_format="channels_last",
        dtype="float32",
        name=name,
    )
