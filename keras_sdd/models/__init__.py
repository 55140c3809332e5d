"""The networks of the paper's experiments, by name, and small ones for studies on a CPU.

A layer is named after the module path of the PyTorch original, with `_` for `.`
(`layer1.0.conv1` is `layer1_0_conv1`); `keras_sdd.converters` builds on that.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_sdd._checks import check_integers, check_known
from keras_sdd.models.cnn import build_cnn
from keras_sdd.models.mobilenet_v1 import build_mobilenet_v1
from keras_sdd.models.mobilenet_v2 import build_mobilenet_v2
from keras_sdd.models.resnet import build_cifar_resnet, build_resnet
from keras_sdd.models.shufflenet_v1 import build_shufflenet_v1
from keras_sdd.models.shufflenet_v2 import build_shufflenet_v2
from keras_sdd.models.vgg import build_vgg
from keras_sdd.models.wide_resnet import build_wide_resnet
from keras_sdd.stages import stages
from keras_sdd.typing import Shape

# Data set: default number of classes and height and width of its RGB images.
FAMILIES = {
    "cifar100": (100, 32),
    "cub200": (200, 224),
    "imagenet": (1000, 224),
    "small": (10, 32),
}

_X4 = {"widths": (32, 64, 128, 256)}
_RESNET18 = {"block": "basic", "blocks": (2, 2, 2, 2)}
_RESNET34 = {"block": "basic", "blocks": (3, 4, 6, 3)}
_RESNET50 = {"block": "bottleneck", "blocks": (3, 4, 6, 3)}
_CIFAR = {"shortcut": "shortcut", "classifier": "linear"}
_CUB_STEM = {"stem_kernel": 7, "stem_strides": 2}
_IMAGENET_STEM = {"stem_kernel": 7, "stem_strides": 2, "stem_pool": True}

# Name: builder and its options.
MODELS: dict[str, tuple[Callable[..., keras.Model], dict[str, Any]]] = {
    "cifar100/resnet8": (build_cifar_resnet, {"depth": 8}),
    "cifar100/resnet14": (build_cifar_resnet, {"depth": 14}),
    "cifar100/resnet20": (build_cifar_resnet, {"depth": 20}),
    "cifar100/resnet32": (build_cifar_resnet, {"depth": 32}),
    "cifar100/resnet44": (build_cifar_resnet, {"depth": 44}),
    "cifar100/resnet56": (build_cifar_resnet, {"depth": 56}),
    "cifar100/resnet110": (build_cifar_resnet, {"depth": 110}),
    "cifar100/resnet8x4": (build_cifar_resnet, {"depth": 8} | _X4),
    "cifar100/resnet32x4": (build_cifar_resnet, {"depth": 32} | _X4),
    "cifar100/resnet18": (build_resnet, _RESNET18 | _CIFAR),
    "cifar100/resnet50": (build_resnet, _RESNET50 | _CIFAR),
    "cifar100/wrn_16_1": (build_wide_resnet, {"depth": 16, "widen_factor": 1}),
    "cifar100/wrn_16_2": (build_wide_resnet, {"depth": 16, "widen_factor": 2}),
    "cifar100/wrn_40_1": (build_wide_resnet, {"depth": 40, "widen_factor": 1}),
    "cifar100/wrn_40_2": (build_wide_resnet, {"depth": 40, "widen_factor": 2}),
    "cifar100/vgg8": (build_vgg, {"depth": 8}),
    "cifar100/vgg11": (build_vgg, {"depth": 11}),
    "cifar100/vgg13": (build_vgg, {"depth": 13}),
    "cifar100/vgg16": (build_vgg, {"depth": 16}),
    "cifar100/vgg19": (build_vgg, {"depth": 19}),
    "cifar100/mobilenet_v2": (build_mobilenet_v2, {}),
    "cifar100/shufflenet_v1": (build_shufflenet_v1, {}),
    "cifar100/shufflenet_v2": (build_shufflenet_v2, {}),
    "cub200/resnet8x4": (build_cifar_resnet, {"depth": 8} | _X4 | _CUB_STEM),
    "cub200/resnet32x4": (build_cifar_resnet, {"depth": 32} | _X4 | _CUB_STEM),
    "cub200/resnet18": (build_resnet, _RESNET18 | _CIFAR | _CUB_STEM),
    "cub200/resnet50": (build_resnet, _RESNET50 | _CIFAR | _CUB_STEM),
    "cub200/vgg8": (build_vgg, {"depth": 8}),
    "cub200/vgg11": (build_vgg, {"depth": 11}),
    "cub200/vgg13": (build_vgg, {"depth": 13}),
    "cub200/vgg16": (build_vgg, {"depth": 16}),
    "cub200/vgg19": (build_vgg, {"depth": 19}),
    "cub200/mobilenet_v2": (build_mobilenet_v2, {"stem_kernel": 7, "stem_pool": True}),
    "cub200/shufflenet_v1": (build_shufflenet_v1, _CUB_STEM),
    "cub200/shufflenet_v2": (build_shufflenet_v2, _CUB_STEM),
    "imagenet/resnet18": (build_resnet, _RESNET18 | _IMAGENET_STEM),
    "imagenet/resnet34": (build_resnet, _RESNET34 | _IMAGENET_STEM),
    "imagenet/resnet50": (build_resnet, _RESNET50 | _IMAGENET_STEM),
    "imagenet/mobilenet_v1": (build_mobilenet_v1, {}),
    "small/cnn_8_16_32": (build_cnn, {"widths": (8, 16, 32)}),
    "small/cnn_16_32_64_64": (build_cnn, {"widths": (16, 32, 64, 64)}),
    "small/cnn_32_64_128_128": (build_cnn, {"widths": (32, 64, 128, 128)}),
}


def build(
    name: str,
    num_classes: int | None = None,
    input_shape: Shape | None = None,
    data_format: str | None = None,
) -> keras.Model:
    """Build a network of `MODELS`, freshly initialized as its original is.

    Args:
        name: `"FAMILY/MODEL"`, a key of `MODELS`, for example `"cifar100/resnet8x4"`.
        num_classes: number of logits; by default that of the family's data set.
        input_shape: shape of one image in the layout of `data_format`, for example
            (32, 32, 3); by default that of the family's images. Other sizes and channel counts
            work too; all but the ShuffleNets also take a height and width of `None`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.

    Returns:
        A functional model from images (B, H, W, C), or (B, C, H, W), to logits
        (B, num_classes), without softmax. Its last layers are a global average pooling and a
        Dense layer, as `keras_sdd.expose_spatial_logits` expects.

    Raises:
        ValueError: for an unknown `name`, listing the near ones; for a `num_classes` that is
            not a positive integer.

    Examples:
        >>> model = keras_sdd.models.build("small/cnn_8_16_32", num_classes=4)
        >>> model.input.shape, model.output.shape, model.layers[-1].name
        ((None, 32, 32, 3), (None, 4), 'fc')
        >>> [x for x in keras_sdd.models.MODELS if x.startswith("imagenet/")]
        ['imagenet/resnet18', 'imagenet/resnet34', 'imagenet/resnet50', 'imagenet/mobilenet_v1']
    """
    builder, options = MODELS[check_known("model", "name", name, MODELS, "keras_sdd.models.MODELS")]
    classes, size = FAMILIES[name.split("/")[0]]
    if num_classes is None:
        num_classes = classes
    check_integers(1, num_classes=num_classes)
    data_format = data_format or keras.config.image_data_format()
    if input_shape is None:
        input_shape = (3, size, size) if data_format == "channels_first" else (size, size, 3)
    return builder(num_classes, input_shape, data_format, name.replace("/", "_"), **options)


__all__ = ["FAMILIES", "MODELS", "build", "stages"]
