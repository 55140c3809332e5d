"""ResNets: three-stage ones for CIFAR, four-stage ones with CIFAR, CUB and ImageNet stems."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_sdd.models.layers import NetworkLayers
from keras_sdd.typing import Shape, Tensor

_EXPANSION = {"basic": 1, "bottleneck": 4}


def build_cifar_resnet(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    depth: int,
    widths: Sequence[int] = (16, 16, 32, 64),
    **stem: Any,
) -> keras.Model:
    """Build a three-stage ResNet of basic blocks.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.
        depth: number of weighted layers, 6 n + 2.
        widths: channels of the stem and of the three stages.
        **stem: `stem_kernel` and `stem_strides`, as in `build_resnet`.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Raises:
        ValueError: for a `depth` that is not 6 n + 2.

    Source: "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2; the wide
    forms (x4) come from "Contrastive Representation Distillation" (ICLR 2020).
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6 n + 2, for example 20. Received: depth={depth}")
    stem_width, *stages = widths
    return build_resnet(
        num_classes,
        input_shape,
        data_format,
        name,
        block="basic",
        blocks=((depth - 2) // 6,) * 3,
        widths=stages,
        stem_width=stem_width,
        **stem,
    )


def build_resnet(
    num_classes: int,
    input_shape: Shape,
    data_format: str | None = None,
    name: str | None = None,
    *,
    block: str,
    blocks: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    stem_width: int = 64,
    stem_kernel: int = 3,
    stem_strides: int = 1,
    stem_pool: bool = False,
    shortcut: str = "downsample",
    classifier: str = "fc",
) -> keras.Model:
    """Build a ResNet; every stage but the first halves the map.

    Args:
        num_classes: number of logits.
        input_shape: shape of one image, in the layout of `data_format`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        name: name of the model.
        block: `"basic"`, or `"bottleneck"`, whose output is four times as wide.
        blocks: number of blocks of each stage.
        widths: channels inside the blocks of each stage.
        stem_width: channels of the first convolution.
        stem_kernel: its size.
        stem_strides: its stride.
        stem_pool: whether a 3x3 maximum of stride 2 follows it.
        shortcut: name of the projected shortcuts, in which the originals differ.
        classifier: name of the last layer, likewise.

    Returns:
        A functional model from images (B, ...) to logits (B, num_classes).

    Source: "Deep Residual Learning for Image Recognition" (CVPR 2016), table 1; stride 2 lies in
    the 3x3 convolution of a bottleneck.
    """
    net = NetworkLayers(data_format)
    inputs = keras.Input(input_shape)
    x = net.conv(inputs, "conv1", stem_width, stem_kernel, stem_strides)
    x = net.norm(x, "bn1")
    if stem_pool:
        # Padding with zeros is padding with the least value here, after a ReLU.
        x = net.max_pool(net.pad(x, "maxpool", 1), "maxpool", pool_size=3)
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        for i in range(count):
            strides = 2 if stage > 1 and i == 0 else 1
            x = _apply_block(net, x, f"layer{stage}_{i}", block, width, strides, shortcut)
    return keras.Model(inputs, net.classify(x, classifier, num_classes), name=name)


def _apply_block(
    net: NetworkLayers, x: Tensor, name: str, block: str, width: int, strides: int, shortcut: str
) -> Tensor:
    filters = width * _EXPANSION[block]
    residual = x
    if strides > 1 or net.channels(x) != filters:
        residual = net.conv(x, f"{name}_{shortcut}_0", filters, 1, strides)
        residual = net.norm(residual, f"{name}_{shortcut}_1", relu=False)
    if block == "basic":
        convolutions = [(width, 3, strides), (filters, 3, 1)]
    else:
        convolutions = [(width, 1, 1), (width, 3, strides), (filters, 1, 1)]
    for i, convolution in enumerate(convolutions, 1):
        x = net.conv(x, f"{name}_conv{i}", *convolution)
        x = net.norm(x, f"{name}_bn{i}", relu=i < len(convolutions))
    return net.relu(net.add(x, residual, name), name)
