"""The layers the networks are made of, with the conventions their originals share."""

import math
from collections.abc import Callable

import keras
from keras import initializers, layers

from keras_sdd._checks import check_word
from keras_sdd.normalization import BatchNorm
from keras_sdd.typing import Shape, Tensor


def normal_fan_out(fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """Normal values of variance 2 / fan_out."""
    return initializers.RandomNormal(stddev=math.sqrt(2.0 / fan_out))


def normal_small(fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """Normal values of standard deviation 0.01, whatever the fans."""
    return initializers.RandomNormal(stddev=0.01)


def uniform_fan_in(fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """Uniform values in +-1 / sqrt(fan_in), PyTorch's default for every layer."""
    bound = 1.0 / math.sqrt(fan_in)
    return initializers.RandomUniform(-bound, bound)


def zeros(fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """Zeros."""
    return initializers.Zeros()


class NetworkLayers:
    """Applies named layers to a map, in one data format and with one initialization.

    Every method takes a map and a layer name and returns the new map. Names are the module
    paths of the PyTorch originals with `_` for `.`, so that a checkpoint's entries follow from
    them. Padding is explicit and symmetric: `padding="same"` pads a strided window on one side
    only.

    Args:
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        conv_init: function of (fan_in, fan_out) that returns an initializer of convolution kernels.
            Fans are counted as in PyTorch: inputs of one group, outputs of all of them.
        linear_init: the same for the classifier's kernel.
        bias_init: the same for its bias.
    """

    def __init__(
        self,
        data_format: str | None = None,
        conv_init: Callable[[int, int], keras.initializers.Initializer] = normal_fan_out,
        linear_init: Callable[[int, int], keras.initializers.Initializer] = uniform_fan_in,
        bias_init: Callable[[int, int], keras.initializers.Initializer] = uniform_fan_in,
    ) -> None:
        data_format = data_format or keras.config.image_data_format()
        self.data_format = check_word(
            "data_format", data_format, ("channels_last", "channels_first")
        )
        self.channel_axis = -1 if data_format == "channels_last" else 1
        self.conv_init = conv_init
        self.linear_init = linear_init
        self.bias_init = bias_init

    def channels(self, x: Tensor) -> int:
        """Number of channels of a map."""
        return x.shape[self.channel_axis]

    def size(self, x: Tensor) -> Shape:
        """Height and width of a map, `None` where unknown."""
        return x.shape[1:3] if self.channel_axis == -1 else x.shape[2:4]

    def pad(self, x: Tensor, name: str, padding: int) -> Tensor:
        """Add `padding` rows and columns of zeros on every side."""
        return layers.ZeroPadding2D(padding, data_format=self.data_format, name=f"{name}_pad")(x)

    def conv(
        self,
        x: Tensor,
        name: str,
        filters: int,
        kernel_size: int = 3,
        strides: int = 1,
        use_bias: bool = False,
    ) -> Tensor:
        """Convolve with half-kernel padding on both sides."""
        area = kernel_size**2
        if strides > 1 and kernel_size > 1:
            x = self.pad(x, name, kernel_size // 2)
        return layers.Conv2D(
            filters,
            kernel_size,
            strides,
            padding="same" if strides == 1 else "valid",
            use_bias=use_bias,
            kernel_initializer=self.conv_init(area * self.channels(x), area * filters),
            data_format=self.data_format,
            name=name,
        )(x)

    def depthwise(self, x: Tensor, name: str, strides: int = 1) -> Tensor:
        """Convolve each channel with its own 3x3 kernel."""
        if strides > 1:
            x = self.pad(x, name, 1)
        return layers.DepthwiseConv2D(
            3,
            strides,
            padding="same" if strides == 1 else "valid",
            use_bias=False,
            depthwise_initializer=self.conv_init(9, 9 * self.channels(x)),
            data_format=self.data_format,
            name=name,
        )(x)

    def grouped_pointwise(self, x: Tensor, name: str, filters: int, groups: int) -> Tensor:
        """1x1 convolution in `groups` separate groups of channels.

        A matrix product per group: XLA and TensorFlow run a grouped Conv2D several times
        slower on a CPU.
        """
        fan_in = self.channels(x) // groups
        grouped = self.split_groups(x, name, groups)
        equation, outputs = "bngc,gcf->bngf", (*grouped.shape[1:-1], filters // groups)
        if self.data_format == "channels_first":
            equation, outputs = "bgcn,gcf->bgfn", (groups, filters // groups, grouped.shape[-1])
        grouped = layers.EinsumDense(
            equation, outputs, kernel_initializer=self.conv_init(fan_in, filters), name=name
        )(grouped)
        return self.merge_groups(grouped, name, self.size(x), filters)

    def shuffle(self, x: Tensor, name: str, groups: int) -> Tensor:
        """Interleave the channels of `groups` groups: the first of each, the second of each..."""
        grouped = self.split_groups(x, name, groups)
        order = (1, 3, 2) if self.data_format == "channels_last" else (2, 1, 3)
        grouped = layers.Permute(order, name=f"{name}_permute")(grouped)
        return self.merge_groups(grouped, name, self.size(x), self.channels(x))

    def split_groups(self, x: Tensor, name: str, groups: int) -> Tensor:
        """(B, H, W, C) to (B, H * W, G, C / G), or (B, C, H, W) to (B, G, C / G, H * W)."""
        if None in self.size(x):
            raise ValueError(
                "Networks with channel groups need a known input size: give `input_shape` a "
                f"height and a width. Received: a map of shape {tuple(x.shape)} before {name!r}"
            )
        grouped = (groups, self.channels(x) // groups)
        positions = math.prod(self.size(x))
        shape = (positions, *grouped) if self.channel_axis == -1 else (*grouped, positions)
        return layers.Reshape(shape, name=f"{name}_split")(x)

    def merge_groups(self, x: Tensor, name: str, size: Shape, channels: int) -> Tensor:
        """Undo `split_groups`."""
        shape = (*size, channels) if self.channel_axis == -1 else (channels, *size)
        return layers.Reshape(shape, name=f"{name}_merge")(x)

    def norm(self, x: Tensor, name: str, relu: bool = True) -> Tensor:
        """Batch normalization, then ReLU unless told otherwise."""
        x = BatchNorm(self.channel_axis, momentum=0.9, epsilon=1e-5, name=name)(x)
        return self.relu(x, name) if relu else x

    def relu(self, x: Tensor, name: str) -> Tensor:
        """ReLU, named after what it follows."""
        return layers.ReLU(name=f"{name}_relu")(x)

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """Sum of two maps."""
        return layers.Add(name=f"{name}_add")([x, y])

    def concatenate(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """The channels of `x`, then those of `y`."""
        return layers.Concatenate(self.channel_axis, name=f"{name}_concatenate")([x, y])

    def max_pool(self, x: Tensor, name: str, pool_size: int = 2, strides: int = 2) -> Tensor:
        """Maximum of windows that lie inside the map."""
        return layers.MaxPooling2D(pool_size, strides, data_format=self.data_format, name=name)(x)

    def average_pool(self, x: Tensor, name: str, pool_size: int = 2, strides: int = 2) -> Tensor:
        """Average of windows that lie inside the map."""
        return layers.AveragePooling2D(pool_size, strides, data_format=self.data_format, name=name)(
            x
        )

    def classify(self, x: Tensor, name: str, num_classes: int) -> Tensor:
        """Global average, then logits: (B, num_classes)."""
        x = layers.GlobalAveragePooling2D(self.data_format, name="avgpool")(x)
        fans = (x.shape[-1], num_classes)
        return layers.Dense(
            num_classes,
            kernel_initializer=self.linear_init(*fans),
            bias_initializer=self.bias_init(*fans),
            name=name,
        )(x)
