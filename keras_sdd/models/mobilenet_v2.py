"""MobileNetV2 with ReLU and the strides for small images."""

import keras

from keras_sdd.models.layers import NetworkLayers, normal_small, zeros
from keras_sdd.typing import Shape, Tensor

# (expansion, filters at full width, blocks, strides of the first block) of each stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def build_mobilenet_v2(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    width: float = 0.5,
    stem_kernel: int = 3,
    stem_pool: bool = False,
) -> keras.Model:
    """Build MobileNetV2 in the form that distillation papers use on CIFAR.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.
        width: multiplies all channels but the last 1280, which it can only widen.
        stem_kernel: kernel of the first convolution, which has stride 2.
        stem_pool: whether a 2x2 maximum of stride 2 follows it.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Source: "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), table 2, with
    ReLU for ReLU6 and fewer halvings, as in "Contrastive Representation Distillation"
    (ICLR 2020).
    """
    net = NetworkLayers(data_format, linear_init=normal_small, bias_init=zeros)
    inputs = keras.Input(input_shape)
    x = net.conv(inputs, "conv1_0", int(32 * width), stem_kernel, strides=2)
    x = net.norm(x, "conv1_1")
    if stem_pool:
        x = net.max_pool(x, "conv1_3")
    for stage, (expansion, filters, count, first_strides) in enumerate(_STAGES):
        for i in range(count):
            strides = first_strides if i == 0 else 1
            name_i = f"blocks_{stage}_{i}_conv"
            x = _apply_block(net, x, name_i, expansion, int(filters * width), strides)
    x = net.norm(net.conv(x, "conv2_0", int(1280 * max(1.0, width)), 1), "conv2_1")
    return keras.Model(inputs, net.classify(x, "classifier_0", num_classes), name=name)


def _apply_block(
    net: NetworkLayers, x: Tensor, name: str, expansion: int, filters: int, strides: int
) -> Tensor:
    residual = x
    x = net.norm(net.conv(x, f"{name}_0", expansion * net.channels(x), 1), f"{name}_1")
    x = net.norm(net.depthwise(x, f"{name}_3", strides), f"{name}_4")
    x = net.norm(net.conv(x, f"{name}_6", filters, 1), f"{name}_7", relu=False)
    if strides == 1 and net.channels(residual) == filters:
        x = net.add(residual, x, name)
    return x
