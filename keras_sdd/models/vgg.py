"""VGG networks with batch normalization and one linear classifier on the pooled map."""

import keras

from keras_sdd.models.layers import NetworkLayers, normal_small, zeros
from keras_sdd.typing import Shape

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def build_vgg(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    depth: int,
) -> keras.Model:
    """Build a VGG network.

    The map is halved three times, so that 32-pixel images leave a 4x4 map; 64-pixel images, and
    no others, are halved once more.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.
        depth: 8, 11, 13, 16 or 19.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Raises:
        ValueError: for another `depth`.

    Source: "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015),
    table 1; depth 8 and the single classifier come from "Contrastive Representation
    Distillation" (ICLR 2020).
    """
    if depth not in _CONVOLUTIONS:
        raise ValueError(f"`depth` must be one of {(*_CONVOLUTIONS,)}. Received: depth={depth}")
    net = NetworkLayers(data_format, linear_init=normal_small, bias_init=zeros)
    inputs = x = keras.Input(input_shape)
    halvings = 4 if net.size(inputs)[0] == 64 else 3
    for stage, (width, count) in enumerate(zip(_WIDTHS, _CONVOLUTIONS[depth], strict=True)):
        if 0 < stage <= halvings:
            x = net.max_pool(x, f"pool{stage - 1}")
        for i in range(count):
            # Convolution, normalization and ReLU count as modules of the original's sequence.
            x = net.conv(x, f"block{stage}_{3 * i}", width, use_bias=True)
            x = net.norm(x, f"block{stage}_{3 * i + 1}")
    return keras.Model(inputs, net.classify(x, "classifier", num_classes), name=name)
