"""Classifiers of other libraries, as small as they come, and weights that tell positions apart."""

import contextlib
import math

import keras
import numpy as np
import pytest

NUM_CLASSES = 5


@contextlib.contextmanager
def drawn_by_numpy(gain=2.0):
    """Draw the kernels of models built here with NumPy: JAX compiles its own draw per shape.

    They follow `keras.utils.set_random_seed`; their variance is `gain` by the inputs of a unit.
    """

    def draw(self, shape, dtype=None):
        is_depthwise = len(shape) == 4 and shape[-1] == 1
        fan_in = math.prod(shape[:2] if is_depthwise else shape[:-1])
        return np.random.normal(0.0, math.sqrt(gain / fan_in), shape).astype("float32")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", draw)
        yield


def randomize(model, seed=0):
    """Give biases and batch norms values of their own, so that none can be mixed up unseen."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, kind = tuple(variable.shape), variable.path.split("/")[-1]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.0, shape))
        elif kind in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(0.0, 0.2, shape))
    return model


def _application(name, **options):
    def build(activation):
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=(64, 64, 3),
            classes=NUM_CLASSES,
            classifier_activation=activation,
            **options,
        )

    return build


def _keras_hub(backbone, head="ImageClassifier", head_options=None, **options):
    def build(activation):
        import keras_hub

        body = getattr(keras_hub.models, backbone)(**options)
        options_of_head = {"activation": activation} if head_options is None else head_options
        classifier = getattr(keras_hub.models, head)
        return classifier(body, num_classes=NUM_CLASSES, **options_of_head)

    return build


def _keras_cv(backbone, **options):
    def build(activation):
        import keras_cv

        options_of_body = {"include_rescaling": True, "input_shape": (64, 64, 3)} | options
        body = getattr(keras_cv.models, backbone)(**options_of_body)
        return keras_cv.models.ImageClassifier(body, num_classes=NUM_CLASSES, activation=activation)

    return build


def vision_transformer(pooling, use_class_token):
    """KerasHub's ViT with 4x4 patches of 16x16 images."""

    def build(activation):
        import keras_hub

        body = keras_hub.models.ViTBackbone(
            image_shape=(16, 16, 3),
            patch_size=4,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            mlp_dim=8,
            use_class_token=use_class_token,
        )
        return keras_hub.models.ViTImageClassifier(
            body, num_classes=NUM_CLASSES, pooling=pooling, activation=activation
        )

    return build


# Name: builder of the classifier with an activation, "softmax" or None.
KERAS_APPLICATIONS = {
    "ResNet50": _application("ResNet50"),
    "ResNet50V2": _application("ResNet50V2"),
    "MobileNet": _application("MobileNet", alpha=0.25),
    "MobileNetV2": _application("MobileNetV2", alpha=0.35),
    "EfficientNetV2B0": _application("EfficientNetV2B0"),
    "DenseNet121": _application("DenseNet121"),
}
KERAS_HUB = {
    "ResNet": _keras_hub(
        "ResNetBackbone",
        image_shape=(32, 32, 3),
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    ),
    "VGG": _keras_hub(
        "VGGBackbone",
        head="VGGImageClassifier",
        image_shape=(32, 32, 3),
        stackwise_num_repeats=[1, 1],
        stackwise_num_filters=[8, 16],
        head_options={"pooling": "avg", "pooling_hidden_dim": 16},
    ),
    "EfficientNet": _keras_hub(
        "EfficientNetBackbone",
        input_shape=(32, 32, 3),
        width_coefficient=1.0,
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 1],
        stackwise_input_filters=[16, 16],
        stackwise_output_filters=[16, 24],
        stackwise_expansion_ratios=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["v1", "v1"],
        num_features=32,
    ),
    "DenseNet": _keras_hub(
        "DenseNetBackbone",
        image_shape=(32, 32, 3),
        stackwise_num_repeats=[1, 1],
        growth_rate=4,
    ),
}
KERAS_CV = {
    "ResNet": _keras_cv(
        "ResNetBackbone",
        stackwise_filters=[64, 64],
        stackwise_blocks=[1, 1],
        stackwise_strides=[1, 2],
        block_type="basic_block",
    ),
    "DenseNet": _keras_cv("DenseNetBackbone", stackwise_num_repeats=[1, 1], growth_rate=4),
    "EfficientNetV2": _keras_cv(
        "EfficientNetV2Backbone",
        width_coefficient=1.0,
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 1],
        stackwise_input_filters=[16, 16],
        stackwise_output_filters=[16, 24],
        stackwise_expansion_ratios=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
        stackwise_strides=[1, 2],
        stackwise_conv_types=["fused", "unfused"],
    ),
    "MobileNetV3": _keras_cv(
        "MobileNetV3Backbone",
        stackwise_expansion=[1, 2],
        stackwise_filters=[16, 24],
        stackwise_kernel_size=[3, 3],
        stackwise_stride=[2, 2],
        stackwise_se_ratio=[0.25, None],
        stackwise_activation=["relu", "hard_swish"],
    ),
    "CSPDarkNet": _keras_cv(
        "CSPDarkNetBackbone", stackwise_channels=[16, 32, 32, 32], stackwise_depth=[1, 1, 1, 1]
    ),
}
KERAS_HUB_MOBILENET = _keras_hub(
    "MobileNetBackbone",
    head="MobileNetImageClassifier",
    head_options={"num_features": 16},
    image_shape=(32, 32, 3),
    stackwise_expansion=[[16]],
    stackwise_num_blocks=[1],
    stackwise_num_filters=[[16]],
    stackwise_kernel_size=[[3]],
    stackwise_num_strides=[[2]],
    stackwise_se_ratio=[[None]],
    stackwise_activation=[["relu"]],
    stackwise_padding=[[1]],
    output_num_filters=32,
    depthwise_filters=8,
    depthwise_stride=1,
    depthwise_residual=False,
    last_layer_filter=16,
)
