"""Small convolutional networks without shortcuts, for studies on a CPU."""

from collections.abc import Sequence

import keras

from keras_sdd.models.layers import NetworkLayers, zeros
from keras_sdd.typing import Shape


def build_cnn(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    widths: Sequence[int],
) -> keras.Model:
    """Build a network of 3x3 convolutions, each with batch normalization and ReLU.

    The map is halved before the second and the third: images of 32 pixels leave one of 8 x 8.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.
        widths: output channels of the convolutions.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Source: ours.
    """
    net = NetworkLayers(data_format, bias_init=zeros)
    inputs = x = keras.Input(input_shape)
    for i, width in enumerate(widths):
        if i in (1, 2):
            x = net.max_pool(x, f"pool{i}")
        x = net.norm(net.conv(x, f"conv{i}", width), f"bn{i}")
    return keras.Model(inputs, net.classify(x, "fc", num_classes), name=name)
