"""A classifier's head at regions of its map: layers that call its own layers on every region.

Regions stand on the axes between batch and channels: (B, N, C) cells, or (B, H, W, C) positions.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from keras_sdd.graphs import is_kind
from keras_sdd.pooling import CellPooling, find_bounds, pool_cells

SOFTMAXES = (keras.activations.softmax, ops.softmax)


class LinearLayer(layers.Layer):
    """Base of layers that say themselves that they are linear, (..., C) to (..., K)."""


@keras.saving.register_keras_serializable(package="keras_sdd")
class PositionwiseClassifier(layers.Wrapper):
    """A linear `layer` at every position, (..., C) to (..., K), without its softmax.

    It has no weights of its own. Layers of other kinds are called on vectors (B, C).
    """

    def __init__(self, layer, **kwargs):
        defaults = {"dtype": layer.compute_dtype, "name": f"{layer.name}_positionwise"}
        super().__init__(layer, **defaults | kwargs)

    def call(self, inputs):
        layer = self.layer
        if says_linear(layer):
            return layer(inputs)
        if not is_linear(layer, at_end=True) or layer.dtype_policy.quantization_mode:
            outputs = layer(ops.reshape(inputs, (-1, inputs.shape[-1])))
            return ops.reshape(outputs, (*ops.shape(inputs)[:-1], outputs.shape[-1]))
        kernel = ops.reshape(layer.kernel, tuple(layer.kernel.shape[-2:]))
        outputs = ops.matmul(inputs, ops.cast(kernel, self.compute_dtype))
        return outputs if layer.bias is None else outputs + ops.cast(layer.bias, outputs.dtype)


@keras.saving.register_keras_serializable(package="keras_sdd")
class RegionClassifier(PositionwiseClassifier):
    """As above, of a list of one tensor, as all layers for regions take them."""

    def call(self, inputs):
        return super().call(inputs[0])


class _OwnOperation(layers.Layer):
    """Base of the layers that call an operation of the classifier, as the classifier does.

    Args:
        operation: a layer or another operation of Keras, shared with the classifier.
        arguments: its positional and keyword arguments, `(args, kwargs)`, with `slot(i)` in place
            of tensor i.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, operation, arguments, **kwargs):
        # Inputs are cast by the operation itself, or not at all, as in the classifier.
        super().__init__(**{"autocast": False} | kwargs)
        self.operation = operation
        self.arguments = arguments

    def apply(self, *tensors, training=None):
        """Call the operation on tensors shaped as the classifier's own."""
        args, kwargs = fill(self.arguments, tensors)
        if training is not None and "training" in kwargs:  # as a functional model overrules it
            kwargs = kwargs | {"training": training}
        return self.operation(*args, **kwargs)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        parts = {"operation": self.operation, "arguments": self.arguments}
        return super().get_config() | {name: serialize(x) for name, x in parts.items()}

    @classmethod
    def from_config(cls, config):
        for name in ("operation", "arguments"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def slot(index):
    """What stands for a tensor in the arguments of an operation."""
    return f"<tensor {index}>"


def fill(arguments, tensors):
    """The arguments of an operation, with tensors in the place of the slots."""
    given = {slot(i): x for i, x in enumerate(tensors)}
    return keras.tree.map_structure(
        lambda x: given.get(x, x) if isinstance(x, str) else x, arguments
    )


@keras.saving.register_keras_serializable(package="keras_sdd")
class RegionOperation(_OwnOperation):
    """An operation of the head at every region: a list of (B, ..., C) to (B, ..., C').

    Args:
        operation, arguments: as above.
        shapes: those of its tensors in the classifier, without the batch axis.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, operation, arguments, shapes, **kwargs):
        super().__init__(operation, arguments, **kwargs)
        self.shapes = [tuple(shape) for shape in shapes]

    def call(self, regions, training=None):
        around = ops.shape(regions[0])[:-1]
        merged = (
            ops.reshape(x, (-1, *shape)) for x, shape in zip(regions, self.shapes, strict=True)
        )
        outputs = self.apply(*merged, training=training)
        return ops.reshape(outputs, (*around, math.prod(outputs.shape[1:])))

    def get_config(self):
        return super().get_config() | {"shapes": self.shapes}


@keras.saving.register_keras_serializable(package="keras_sdd")
class RegionNorm(layers.Wrapper):
    """A batch norm of the head: [vectors (B, C)], or [regions (B, ..., C), vectors] to regions.

    In training regions are normalized with the statistics of the images' own vectors, which alone
    move the moving ones.

    Args:
        layer: the batch norm, shared with the classifier.
        shape: that of its inputs in the classifier, without the batch axis.
        training: what the classifier calls it with, which holds where the model is not told.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, layer, shape, training=None, **kwargs):
        super().__init__(layer, **{"autocast": False, "name": f"{layer.name}_of_regions"} | kwargs)
        self.shape, self.training = tuple(shape), training

    def call(self, inputs, training=None):
        regions, *vectors = inputs
        layer, around = self.layer, ops.shape(regions)
        training = self.training if training is None else training
        x = ops.reshape(regions, (-1, *self.shape))
        if not vectors:
            x = layer(x, training=training)
        elif training and layer.trainable:
            # 16 bits do not hold sums of squares.
            dtype = "float64" if x.dtype == "float64" else "float32"
            own = ops.cast(ops.reshape(vectors[0], (-1, *self.shape)), dtype)
            axes = [i for i in range(len(own.shape)) if i != layer.axis % len(own.shape)]
            mean, variance = ops.moments(own, axes, synchronized=layer.synchronized)
            gamma, beta = (None if v is None else ops.cast(v, dtype) for v in _affine(layer))
            x = ops.batch_normalization(
                ops.cast(x, dtype), mean, variance, layer.axis, beta, gamma, layer.epsilon
            )
            x = ops.cast(x, layer.compute_dtype)
        else:
            x = layer(x, training=False)
        return ops.reshape(x, around)

    def get_config(self):
        return super().get_config() | {"shape": self.shape, "training": self.training}


def _affine(norm):
    return norm.gamma if norm.scale else None, norm.beta if norm.center else None


@keras.saving.register_keras_serializable(package="keras_sdd")
class LogProbability(layers.Layer):
    """Logits (..., K) of class probabilities, or of anything proportional to them."""

    def call(self, inputs):
        probabilities = ops.cast(inputs, "float32")
        return ops.log(ops.maximum(probabilities, np.finfo("float32").tiny))


@keras.saving.register_keras_serializable(package="keras_sdd")
class RegionPooling(_OwnOperation):
    """The classifier's own pooling of every region: features to (B, N, C), or (B, H, W, C).

    Args:
        operation, arguments: what pools; `"maximum"`, or None for the average.
        layout: of the features: `"channels_last"` (B, H, W, C), `"channels_first"` (B, C, H, W),
            or `"tokens"` (B, T, C), of which the last H * H, row by row, are the map.
        scales: as for `keras_sdd.pool_cells`; None for every position.
        pooling: likewise.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, operation, arguments, layout, scales=None, pooling="direct", **kwargs):
        super().__init__(operation, arguments, **kwargs)
        self.layout = layout
        self.scales, self.pooling = scales, pooling
        self.average = None

    def at(self, scales, pooling, name):
        """The same pooling of the cells of some scales."""
        return RegionPooling(
            self.operation, self.arguments, self.layout, scales, pooling,
            dtype=self.dtype_policy, name=name,
        )  # fmt: skip

    def build(self, input_shape):
        shape = self._map_shape(input_shape)
        if self.operation is None and self.scales is not None and None not in shape[1:3]:
            self.average = CellPooling(self.scales, self.pooling, dtype=self.dtype_policy)
            self.average.build(shape)

    def call(self, features):
        maps = self._as_maps(features)
        if self.average is not None:
            return self.average(maps)
        if self.scales is None and self.operation == "maximum":
            return maps
        if self.operation is None:
            return maps if self.scales is None else pool_cells(maps, self.scales, self.pooling)
        if self.scales is None:
            positions = self._pool(ops.reshape(maps, (-1, 1, 1, maps.shape[-1])))
            return ops.reshape(positions, (*ops.shape(maps)[:-1], positions.shape[-1]))
        _, height, width, _ = maps.shape
        bounds = find_bounds(height, width, self.scales, self.pooling)
        cells = [self._pool(maps[:, top:end, left:right]) for top, end, left, right in bounds]
        return ops.stack(cells, axis=1)

    def compute_output_shape(self, input_shape):
        *around, channels = self._map_shape(input_shape)
        if self.operation not in (None, "maximum"):
            channels = math.prod(self.compute_pooled_shape(1, channels))
        if self.scales is not None:
            return (around[0], sum(m * m for m in self.scales), channels)
        return (*around, channels)

    def _map_shape(self, shape):
        if self.layout == "channels_first":
            return (shape[0], *shape[2:], shape[1])
        if self.layout == "tokens":
            side = math.isqrt(shape[1])
            return (shape[0], side, side, shape[2])
        return tuple(shape)

    def compute_pooled_shape(self, size, channels):
        """The shape, without the batch axis, of what the operation makes of a small square map."""
        shape: tuple = (size, size, channels)
        if self.layout == "channels_first":
            shape = (channels, size, size)
        elif self.layout == "tokens":
            shape = (size * size, channels)
        args, kwargs = fill(self.arguments, [keras.KerasTensor((1, *shape), self.compute_dtype)])
        return tuple(self.operation.compute_output_spec(*args, **kwargs).shape[1:])

    def _as_maps(self, features):
        if self.layout == "channels_first":
            return ops.transpose(features, (0, 2, 3, 1))
        if self.layout == "tokens":
            count, channels = features.shape[1:]
            side = math.isqrt(count)
            return ops.reshape(features[:, count - side * side :], (-1, side, side, channels))
        return features

    def _pool(self, maps):
        """Pool maps (B, H, W, C) to vectors (B, C), in the layout that the operation takes."""
        if self.operation == "maximum":
            # JAX divides the gradient of a maximum by how many are equal to it: none, if it comes
            # to compute them anew and rounds otherwise. That of a pooling is of one position.
            vectors = ops.max_pool(maps, maps.shape[1:3], 1, data_format="channels_last")
            return ops.reshape(vectors, (-1, maps.shape[3]))
        if self.layout == "channels_first":
            maps = ops.transpose(maps, (0, 3, 1, 2))
        elif self.layout == "tokens":
            maps = ops.reshape(maps, (-1, maps.shape[1] * maps.shape[2], maps.shape[3]))
        vectors = self.apply(maps)
        return ops.reshape(vectors, (-1, math.prod(vectors.shape[1:])))

    def get_config(self):
        names = ("layout", "scales", "pooling")
        return super().get_config() | {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="keras_sdd")
class GlobalCell(layers.Layer):
    """[cells (B, N, K), logits (B, K)] to cells, of which that of number `index` is the logits."""

    def __init__(self, index, **kwargs):
        super().__init__(**{"autocast": False} | kwargs)
        self.index = index

    def call(self, inputs):
        cells, logits = inputs
        dtype = keras.backend.result_type(cells.dtype, logits.dtype)
        parts = (cells[:, : self.index], logits[:, None], cells[:, self.index + 1 :])
        return ops.concatenate([ops.cast(x, dtype) for x in parts], axis=1)

    def get_config(self):
        return super().get_config() | {"index": self.index}


def says_linear(operation):
    """Whether a layer is linear, (..., C) to (..., K), by its own word."""
    return isinstance(operation, LinearLayer) or type(operation) is PositionwiseClassifier


def is_linear(operation, at_end=False):
    """Whether a layer is linear at a position: one that says so, or Dense or 1x1 Conv2D.

    Those have no activation but, at the end, a softmax.
    """
    if says_linear(operation):
        return True
    activation = getattr(operation, "activation", None)
    if is_kind(operation, "Conv2D"):
        trivial = (operation.kernel_size, operation.strides, operation.groups)
        if trivial != ((1, 1), (1, 1), 1):
            return False
    elif not is_kind(operation, "Dense"):
        return False
    if activation in SOFTMAXES:  # stripped by using the kernel, which must be plain for that
        return at_end and operation.dtype_policy.quantization_mode is None
    return activation is keras.activations.linear
