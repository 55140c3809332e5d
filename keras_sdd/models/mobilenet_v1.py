"""MobileNet (v1)."""

import keras

from keras_sdd.models.layers import NetworkLayers, uniform_fan_in
from keras_sdd.typing import Shape

# (filters, strides) of each depthwise-separable block.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def build_mobilenet_v1(
    num_classes: int, input_shape: Shape, data_format: str | None = None, name: str | None = None
) -> keras.Model:
    """Build MobileNet.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Source: "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications"
    (2017), table 1. The SDD paper calls it MobileNetV2 in its ImageNet tables.
    """
    net = NetworkLayers(data_format, conv_init=uniform_fan_in)
    inputs = keras.Input(input_shape)
    x = net.norm(net.conv(inputs, "model_0_0", 32, strides=2), "model_0_1")
    for i, (filters, strides) in enumerate(_BLOCKS, 1):
        x = net.norm(net.depthwise(x, f"model_{i}_0", strides), f"model_{i}_1")
        x = net.norm(net.conv(x, f"model_{i}_3", filters, kernel_size=1), f"model_{i}_4")
    return keras.Model(inputs, net.classify(x, "fc", num_classes), name=name)
