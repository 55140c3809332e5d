"""ReviewKD: coarse maps of the student help to match the teacher's fine ones."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_sdd.networks import Network
from keras_sdd.normalization import BatchNorm
from keras_sdd.pooling import CellPooling
from keras_sdd.terms.features import FeatureTerm, name_shapes, sort_maps
from keras_sdd.typing import LayerPairs, Shape, Tensor

_COMMON = {"data_format": "channels_last", "dtype": "float32"}


@keras.saving.register_keras_serializable(package="keras_sdd")
class ReviewKD(FeatureTerm):
    """Distance of the teacher's stages to what the student makes of its own and all coarser ones.

    From the pooled features back to the first stage: a 1x1 convolution with batch norm takes the
    student's map to a common width; it is mixed with the mix of the stage before, enlarged, by two
    maps of attention, sigmoids of a 1x1 convolution over both; and a 3x3 convolution with batch
    norm takes the mix, at the teacher's size, to the teacher's channels. All are learned with the
    student. Maps are resized to the nearest position.

    The distance of a stage is the mean squared one of the maps, and of their averages over 4 x 4,
    2 x 2 and 1 x 1 regions where the map is larger, with weights 1, 1/2, 1/4, 1/8 in the order
    used, divided by their sum. A sample's value is the sum over the stages.

    Args:
        layers: pairs (teacher's, student's) from the finest map to the pooled one, or to the vector
            that is pooled. By default the stages of both networks, from their ends on as many as
            both have, the teacher's before their activation, and the embeddings.
        preactivations: whether the student's stages, too, are taken before their activation; the
            authors do so on ImageNet. Only where `layers` is None.
        weight: factor in the loss. The authors take 0.6 to 8, with a pair of networks.
        warmup_steps: as for `Term`; the authors' are those of 20 epochs, on ImageNet of one.
        name: as for `Term`.

    Raises:
        ValueError: for layers that are no pairs; when it is built, for maps of unknown size.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021), section 3;
    sizes and weights are those of the public programs.

    Examples:
        >>> term = keras_sdd.terms.ReviewKD()
        >>> teacher = [np.ones((2, 2, 2, 8)), np.ones((2, 8))]  # fine to coarse
        >>> student = [np.ones((2, 2, 2, 4)), np.ones((2, 4))]
        >>> tuple(term.compare(teacher, student).shape), len(term.stages)
        ((2,), 2)
    """

    def __init__(
        self,
        layers: LayerPairs | None = None,
        preactivations: bool = False,
        weight: float = 1.0,
        warmup_steps: int = 0,
        name: str = "reviewkd_loss",
    ) -> None:
        super().__init__(layers, weight, warmup_steps, name)
        self.preactivations = bool(preactivations)

    def choose_pairs(self, teacher: Network, student: Network) -> LayerPairs:
        names = student.preactivations if self.preactivations else student.stages
        return list(zip(teacher.preactivations[::-1], names[::-1], strict=False))[::-1]

    def read_student(self, network: Network) -> dict[str, Tensor]:
        network.check_places("maps")
        return super().read_student(network)

    def _read(self, network: Network, side: int) -> dict[str, Tensor]:
        read = super()._read(network, side)
        return read if self.layers is not None else read | {"embedding": network.embedding}

    def build(self, teacher_shapes: dict[str, Shape], student_shapes: dict[str, Shape]) -> None:
        sides = map(sort_maps, (teacher_shapes, student_shapes))
        shapes = [[_as_map_shape(x) for x in side] for side in sides]
        width = min(512, shapes[1][-1][-1])
        self.stages = []
        for i, (teacher_shape, student_shape) in enumerate(zip(*shapes, strict=True)):
            stage = ReviewStage(width, is_last=i == len(shapes[0]) - 1, name=f"stage{i}")
            stage.build(teacher_shape, student_shape)
            self.stages.append(stage)

    def call(
        self, teacher: dict[str, Tensor], student: dict[str, Tensor], targets: dict[str, Any]
    ) -> Tensor:
        return self.compare(sort_maps(teacher), sort_maps(student))

    def compare(self, teacher_maps: list[Tensor], student_maps: list[Tensor]) -> Tensor:
        """Compute the term of lists, fine to coarse, of maps (B, H, W, C) or vectors (B, C).

        Returns:
            (B,).
        """
        if not self.built:
            self.build(*map(name_shapes, (teacher_maps, student_maps)))
        mix, total = None, 0.0
        stages = zip(self.stages, teacher_maps, student_maps, strict=True)
        for stage, teacher_map, student_map in reversed(list(stages)):
            mix = stage.mix(_as_map(student_map), mix)
            total = total + stage.measure(_as_map(teacher_map), mix)
        return total


class ReviewStage(layers.Layer):
    """What `ReviewKD` learns of one stage.

    Args:
        width: channels of the mix.
        is_last: whether it is the coarsest stage, which has nothing to be mixed with.
        name: of the layer.
    """

    def __init__(self, width: int, is_last: bool, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.width, self.is_last = width, is_last

    def build(self, teacher_shape: Shape, student_shape: Shape) -> None:
        _, *self.size, channels = teacher_shape
        _, *self.student_size, student_channels = student_shape
        # What PyTorch calls kaiming_uniform with a=1: uniform in +-sqrt(3 / fan in).
        plain = {"use_bias": False, "kernel_initializer": "lecun_uniform"} | _COMMON
        self.narrow = layers.Conv2D(self.width, 1, name="narrow", **plain)
        self.widen = layers.Conv2D(channels, 3, padding="same", name="widen", **plain)
        norm = {"momentum": 0.9, "epsilon": 1e-5, "dtype": "float32"}
        self.narrow_bn = BatchNorm(name="narrow_bn", **norm)
        self.widen_bn = BatchNorm(name="widen_bn", **norm)
        self.narrow.build((None, *self.student_size, student_channels))
        self.narrow_bn.build((None, *self.student_size, self.width))
        self.widen.build((None, *self.size, self.width))
        self.widen_bn.build((None, *self.size, channels))
        if not self.is_last:
            # As PyTorch initializes a convolution: uniform in +-1 / sqrt(fan in), bias and all.
            limit = (2 * self.width) ** -0.5
            kernel, bias = (keras.initializers.RandomUniform(-limit, limit) for _ in range(2))
            self.attention = layers.Conv2D(
                2, 1, kernel_initializer=kernel, bias_initializer=bias, name="attention", **_COMMON
            )
            self.attention.build((None, *self.student_size, 2 * self.width))
        self.scales = [m for m in (4, 2, 1) if m < min(self.size)]
        if self.scales:
            self.pool = CellPooling(self.scales, name="pool", dtype="float32")
            self.pool.build((None, *self.size, channels))

    def mix(self, student_map: Tensor, coarser: Tensor = None) -> Tensor:
        """(B, h, w, C) and the mix of the coarser stage to that of this one, (B, H, W, width)."""
        # A product: PyTorch's convolution would copy a map with channels last, and back.
        own = ops.matmul(student_map, ops.convert_to_tensor(self.narrow.kernel)[0, 0])
        own = self.narrow_bn(own, training=True)
        mixed = own if self.is_last else self._blend(own, coarser)
        return resize_nearest(mixed, self.size)

    def _blend(self, own: Tensor, coarser: Tensor) -> Tensor:
        """The sum of both maps, the coarser enlarged, weighted by attention."""
        height, width = self.student_size
        if height % coarser.shape[1] or width % coarser.shape[2]:
            coarser = resize_nearest(coarser, self.student_size)
        # A position of the coarser map meets a block of the other: it need not be copied to each,
        # and what attention makes of it is computed once.
        rows, columns = coarser.shape[1:3]

        def in_blocks(x: Tensor) -> Tensor:
            shape = (-1, rows, height // rows, columns, width // columns, x.shape[-1])
            return ops.reshape(x, shape)

        kernel, bias = map(ops.convert_to_tensor, (self.attention.kernel, self.attention.bias))
        fine = ops.matmul(own, kernel[0, 0, : self.width]) + bias
        coarse = ops.matmul(coarser, kernel[0, 0, self.width :])
        attention = ops.sigmoid(in_blocks(fine) + coarse[:, :, None, :, None])
        weighted = coarser[:, :, None, :, None] * attention[..., 1:]
        mixed = in_blocks(own) * attention[..., :1] + weighted
        return ops.reshape(mixed, (-1, height, width, self.width))

    def measure(self, teacher_map: Tensor, mixed: Tensor) -> Tensor:
        """The distance (B,) of the teacher's map (B, H, W, C) to what is made of the mix."""
        gap = self.widen_bn(self.widen(mixed), training=True) - teacher_map
        weight, total = 1.0, 1.0
        value = ops.mean(gap**2, axis=(1, 2, 3))
        if not self.scales:
            return value
        # The difference of averages is the average of differences.
        squares = ops.mean(self.pool(gap) ** 2, axis=-1)
        start = 0
        for m in self.scales:
            weight /= 2.0
            total += weight
            value = value + weight * ops.mean(squares[:, start : start + m * m], axis=-1)
            start += m * m
        return value / total


def resize_nearest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, h, w, C) to the height and width of `size`: position i to floor(i * h / H)."""
    for axis, wanted in enumerate(size, 1):
        given = maps.shape[axis]
        if wanted % given == 0:
            # With constant indices it would be as exact, but costs a scatter in the gradient.
            maps = ops.repeat(maps, wanted // given, axis=axis) if wanted > given else maps
        else:
            maps = ops.take(maps, np.arange(wanted) * given // wanted, axis=axis)
    return maps


def _as_map(x: Tensor) -> Tensor:
    x = ops.cast(x, "float32")
    return x[:, None, None] if len(x.shape) == 2 else x


def _as_map_shape(shape: Shape) -> Shape:
    shape = tuple(shape)
    map_shape = (shape[0], 1, 1, shape[1]) if len(shape) == 2 else shape
    if len(map_shape) != 4 or None in map_shape[1:]:
        raise ValueError(
            "ReviewKD needs maps (B, H, W, C) of known size, and vectors (B, C); a model for "
            "images of any size gets one by inputs = keras.Input((224, 224, 3)) and "
            f"keras.Model(inputs, model(inputs)). Received: a map of shape {shape}"
        )
    return map_shape
