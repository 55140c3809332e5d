"""ShuffleNet (v1) of three groups, with a stem for small images."""

import keras

from keras_sdd.models.layers import NetworkLayers, uniform_fan_in
from keras_sdd.typing import Shape, Tensor

_GROUPS = 3
_STEM_WIDTH = 24
# (channels, blocks) of each stage.
_STAGES = ((240, 4), (480, 8), (960, 4))


def build_shufflenet_v1(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    stem_kernel: int = 1,
    stem_strides: int = 1,
) -> keras.Model:
    """Build ShuffleNet with three groups.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`; height and width must
            be known.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.
        stem_kernel: size of the first convolution.
        stem_strides: its stride.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Raises:
        ValueError: for an `input_shape` of unknown height or width.

    Source: "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices"
    (CVPR 2018), table 1, g=3.
    """
    net = NetworkLayers(data_format, conv_init=uniform_fan_in)
    inputs = keras.Input(input_shape)
    x = net.norm(net.conv(inputs, "conv1", _STEM_WIDTH, stem_kernel, stem_strides), "bn1")
    for stage, (filters, count) in enumerate(_STAGES, 1):
        for i in range(count):
            x = _apply_block(net, x, f"layer{stage}_{i}", filters, strides=2 if i == 0 else 1)
    return keras.Model(inputs, net.classify(x, "linear", num_classes), name=name)


def _apply_block(net: NetworkLayers, x: Tensor, name: str, filters: int, strides: int) -> Tensor:
    residual = x
    if strides == 2:
        filters -= net.channels(x)  # the shortcut brings the rest
        # Pads first: the average counts the padded zeros.
        residual = net.pad(x, f"{name}_shortcut", 1)
        residual = net.average_pool(residual, f"{name}_shortcut", pool_size=3)
    if net.channels(x) == _STEM_WIDTH:  # too few channels for groups
        x = net.norm(net.conv(x, f"{name}_conv1", filters // 4, 1), f"{name}_bn1")
    else:
        x = net.grouped_pointwise(x, f"{name}_conv1", filters // 4, _GROUPS)
        x = net.shuffle(net.norm(x, f"{name}_bn1"), f"{name}_shuffle1", _GROUPS)
    x = net.norm(net.depthwise(x, f"{name}_conv2", strides), f"{name}_bn2")
    x = net.grouped_pointwise(x, f"{name}_conv3", filters, _GROUPS)
    x = net.norm(x, f"{name}_bn3", relu=False)
    join = net.concatenate if strides == 2 else net.add
    return net.relu(join(x, residual, name), name)
