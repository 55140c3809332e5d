"""ShuffleNetV2 (1x), with a stem for small images."""

import keras
from keras import ops

from keras_sdd.models.layers import NetworkLayers, uniform_fan_in
from keras_sdd.typing import Shape, Tensor

# (channels, blocks) of each stage.
_STAGES = ((116, 4), (232, 8), (464, 4))


def build_shufflenet_v2(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    stem_kernel: int = 1,
    stem_strides: int = 1,
) -> keras.Model:
    """Build ShuffleNetV2 of width 1.

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

    Source: "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design"
    (ECCV 2018), table 5.
    """
    net = NetworkLayers(data_format, conv_init=uniform_fan_in)
    inputs = keras.Input(input_shape)
    x = net.norm(net.conv(inputs, "conv1", 24, stem_kernel, stem_strides), "bn1")
    for stage, (filters, count) in enumerate(_STAGES, 1):
        x = _apply_down_block(net, x, f"layer{stage}_0", filters)
        for i in range(1, count):
            x = _apply_block(net, x, f"layer{stage}_{i}")
    x = net.norm(net.conv(x, "conv2", 1024, 1), "bn2")
    return keras.Model(inputs, net.classify(x, "linear", num_classes), name=name)


def _apply_down_block(net: NetworkLayers, x: Tensor, name: str, filters: int) -> Tensor:
    """Halve the map in two branches of half the filters each."""
    left = net.norm(net.depthwise(x, f"{name}_conv1", 2), f"{name}_bn1", relu=False)
    left = net.norm(net.conv(left, f"{name}_conv2", filters // 2, 1), f"{name}_bn2")
    right = net.norm(net.conv(x, f"{name}_conv3", filters // 2, 1), f"{name}_bn3")
    right = net.norm(net.depthwise(right, f"{name}_conv4", 2), f"{name}_bn4", relu=False)
    right = net.norm(net.conv(right, f"{name}_conv5", filters // 2, 1), f"{name}_bn5")
    return net.shuffle(net.concatenate(left, right, name), f"{name}_shuffle", 2)


def _apply_block(net: NetworkLayers, x: Tensor, name: str) -> Tensor:
    """Transform one half of the channels, then interleave it with the other."""
    kept, x = ops.split(x, 2, axis=net.channel_axis)
    filters = net.channels(x)
    x = net.norm(net.conv(x, f"{name}_conv1", filters, 1), f"{name}_bn1")
    x = net.norm(net.depthwise(x, f"{name}_conv2"), f"{name}_bn2", relu=False)
    x = net.norm(net.conv(x, f"{name}_conv3", filters, 1), f"{name}_bn3")
    return net.shuffle(net.concatenate(kept, x, name), f"{name}_shuffle", 2)
