"""Wide ResNets, with batch normalization and ReLU before each convolution."""

import keras

from keras_sdd.models.layers import NetworkLayers, zeros
from keras_sdd.typing import Shape, Tensor


def build_wide_resnet(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    depth: int,
    widen_factor: int,
) -> keras.Model:
    """Build a wide ResNet.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.
        depth: number of weighted layers, 6 n + 4.
        widen_factor: multiplies the 16, 32 and 64 channels of the three stages.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Raises:
        ValueError: for a `depth` that is not 6 n + 4.

    Source: "Wide Residual Networks" (BMVC 2016), table 1.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"`depth` must be 6 n + 4, for example 16. Received: depth={depth}")
    net = NetworkLayers(data_format, bias_init=zeros)
    inputs = keras.Input(input_shape)
    x = net.conv(inputs, "conv1", 16)
    for stage, width in enumerate((16, 32, 64), 1):
        for i in range((depth - 4) // 6):
            strides = 2 if stage > 1 and i == 0 else 1
            x = _apply_block(net, x, f"block{stage}_layer_{i}", width * widen_factor, strides)
    x = net.norm(x, "bn1")
    return keras.Model(inputs, net.classify(x, "fc", num_classes), name=name)


def _apply_block(net: NetworkLayers, x: Tensor, name: str, filters: int, strides: int) -> Tensor:
    residual = x
    x = net.norm(x, f"{name}_bn1")
    if net.channels(x) != filters:
        # Only a projected shortcut starts from the normalized map.
        residual = net.conv(x, f"{name}_convShortcut", filters, 1, strides)
    x = net.norm(net.conv(x, f"{name}_conv1", filters, 3, strides), f"{name}_bn2")
    return net.add(net.conv(x, f"{name}_conv2", filters), residual, name)
