"""Networks: recorded outputs and features, parameter counts, initialization, sizes, bad input."""

import json

import keras
import numpy as np
import pytest
from backends import BACKEND
from keras import layers, ops
from recorded_networks import FIXTURES, RECORDS, build_empty, build_filled, zero_initialization

import keras_sdd
from keras_sdd import models
from keras_sdd.models.layers import NetworkLayers
from keras_sdd.normalization import BatchNorm

OUTPUTS = np.load(FIXTURES / "outputs.npz")
STAGES = np.load(FIXTURES / "stages.npz")
STAGE_NAMES = json.loads((FIXTURES / "stages.json").read_text())
# A new network is one row here, its trainable parameters with its family's number of classes, or
# a recorded state dict and outputs.
PARAMETERS = {
    "small/cnn_8_16_32": 6_418,
    "small/cnn_16_32_64_64": 61_338,
    "small/cnn_32_64_128_128": 242_474,
    "cifar100/resnet8": 83_892,
    "cifar100/resnet14": 181_108,
    "cifar100/resnet32": 472_756,
    "cifar100/resnet44": 667_188,
    "cifar100/resnet56": 861_620,
    "cifar100/resnet110": 1_736_564,
    "cifar100/wrn_16_1": 180_916,
    "cifar100/vgg11": 9_277_284,
    "cifar100/vgg16": 14_774_436,
    "cifar100/vgg19": 20_086_692,
    # The CIFAR-100 network's, 100 more rows of the classifier and a 7x7 stem.
    "cub200/resnet8x4": 1_233_540 + 100 * 257 + 40 * 3 * 32,
    "cub200/resnet18": 11_220_132 + 100 * 513 + 40 * 3 * 64,
    "cub200/vgg11": 9_277_284 + 100 * 513,
    "cub200/vgg16": 14_774_436 + 100 * 513,
    "cub200/vgg19": 20_086_692 + 100 * 513,
    "cub200/shufflenet_v2": 1_355_528 + 100 * 1025 + 48 * 3 * 24,
}


def computes_channels_first():
    """TensorFlow has no channels-first convolutions on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


DATA_FORMATS = [
    "channels_last",
    pytest.param(
        "channels_first",
        marks=pytest.mark.skipif(
            not computes_channels_first(), reason="no channels-first convolutions here"
        ),
    ),
]


def recorded_images(shape, data_format):
    images = np.random.default_rng([0, 10**6]).standard_normal(shape).astype("float32")
    return images.transpose(0, 2, 3, 1) if data_format == "channels_last" else images


def count_trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def infer(model, images):
    """The way that compiles least: JAX compiles one graph faster than its single operations."""
    if keras.backend.backend() == "jax":
        return model.predict_on_batch(images)
    return model(images, training=False)


def assert_near(actual, expected, tolerance=1e-4):
    error = np.abs(ops.convert_to_numpy(actual) - expected).max() / np.abs(expected).max()
    assert error < tolerance


on_one = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
# JAX compiles every network for each format, and what its layers do with them shows in few.
ON_JAX = ("cifar100/resnet8x4", "cifar100/mobilenet_v2", "cifar100/shufflenet_v1", "cub200/vgg13")


@pytest.mark.parametrize("data_format", DATA_FORMATS)
@pytest.mark.parametrize("name", RECORDS)
def test_outputs_equal_the_recorded_ones(name, data_format):
    if BACKEND == "jax" and data_format == "channels_first" and name not in ON_JAX:
        pytest.skip("its layers are in other networks")
    record = RECORDS[name]
    model = build_filled(name, data_format=data_format)
    assert count_trainable(model) == record["parameters"]
    images = recorded_images(record["input_shape_nchw"], data_format)
    network = keras_sdd.Network(model)
    read = {"logits": network.logits, "cells": network.cells((1, 2, 4), "nested")}
    names = models.stages(model)
    for kind in ("feats", "preact_feats"):
        read |= {f"{kind}/{i}": network.feature(x) for i, x in enumerate(names[kind])}
    outputs = infer(network.select(read | {"pooled_feat": network.embedding}), images)
    assert_near(outputs["logits"], OUTPUTS[f"{name}/logits"])
    assert_near(outputs["cells"], OUTPUTS[f"{name}/cell_logits"])
    if name in STAGE_NAMES:
        assert names == STAGE_NAMES[name]
        assert_near(outputs["pooled_feat"], STAGES[f"{name}/pooled_feat"])
    for key in read.keys() & {x.removeprefix(f"{name}/") for x in STAGES.files}:
        maps = ops.convert_to_numpy(outputs[key])
        assert_near(maps.mean((1, 2)), STAGES[f"{name}/{key}"])
        assert_near(np.sqrt((maps**2).mean((1, 2))), STAGES[f"{name}/{key}/rms"])


def test_every_network_has_a_row():
    assert {*RECORDS, *PARAMETERS} == set(models.MODELS)


@on_one
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    assert count_trainable(build_empty(name)) == PARAMETERS[name]


# Network, layer, standard deviation of its kernel, bound of its bias (0 for zeros).
# Uniform values in +-b have the standard deviation b / sqrt(3).
INITIALIZATIONS = [
    ("cifar100/resnet20", "layer3_0_conv2", (2 / (9 * 64)) ** 0.5, None),
    ("cifar100/resnet20", "fc", (1 / (3 * 64)) ** 0.5, 64**-0.5),
    ("imagenet/resnet18", "conv1", (2 / (49 * 64)) ** 0.5, None),
    ("cifar100/wrn_16_2", "block3_layer_0_convShortcut", (2 / 128) ** 0.5, None),
    ("cifar100/wrn_16_2", "fc", (1 / (3 * 128)) ** 0.5, 0),
    ("cifar100/vgg8", "block2_0", (2 / (9 * 256)) ** 0.5, 0),
    ("cifar100/vgg8", "classifier", 0.01, 0),
    ("cifar100/mobilenet_v2", "blocks_5_1_conv_3", (2 / (9 * 480)) ** 0.5, None),
    ("cifar100/mobilenet_v2", "classifier_0", 0.01, 0),
    ("imagenet/mobilenet_v1", "model_13_0", (1 / (3 * 9)) ** 0.5, None),
    ("imagenet/mobilenet_v1", "model_13_3", (1 / (3 * 1024)) ** 0.5, None),
    ("cifar100/shufflenet_v1", "layer3_1_conv1", (1 / (3 * 320)) ** 0.5, None),
    ("cifar100/shufflenet_v1", "layer3_1_conv2", (1 / (3 * 9)) ** 0.5, None),
    ("cifar100/shufflenet_v2", "conv2", (1 / (3 * 464)) ** 0.5, None),
    ("cifar100/shufflenet_v2", "linear", (1 / (3 * 1024)) ** 0.5, 1024**-0.5),
]


@on_one
@pytest.mark.parametrize(("name", "layer", "deviation", "bias_bound"), INITIALIZATIONS)
def test_initialization(name, layer, deviation, bias_bound):
    layer = build_empty(name, input_shape=(32, 32, 3)).get_layer(layer)
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    draw = layer.depthwise_initializer if depthwise else layer.kernel_initializer
    kernel = ops.convert_to_numpy(draw(layer.kernel.shape))
    noise = 4 / kernel.size**0.5
    assert abs(kernel.std() / deviation - 1) < noise
    assert abs(kernel.mean()) < noise * deviation
    assert (layer.bias is None) == (bias_bound is None)
    if bias_bound is not None:
        largest = np.abs(ops.convert_to_numpy(layer.bias_initializer(layer.bias.shape))).max()
        assert 0.9 * bias_bound <= largest <= bias_bound


def test_layers_of_one_shape_start_from_different_values():
    net = NetworkLayers()
    inputs = keras.Input((4, 4, 4))
    model = keras.Model(inputs, net.conv(net.conv(inputs, "conv1", 4), "conv2", 4))
    first, second = (ops.convert_to_numpy(layer.kernel) for layer in model.layers[1:])
    assert not np.any(first == second)


def test_batch_normalization_follows_the_originals():
    norm = build_empty("cifar100/resnet8").get_layer("bn1")
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize("shape, axis", [((8, 5, 5, 4), -1), ((8, 4, 5, 5), 1), ((6, 4), -1)])
@pytest.mark.parametrize("scaled", [True, False])
def test_batch_norm_is_exact_in_float64(shape, axis, scaled):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless the program asks for it")
    layer = BatchNorm(axis, 0.9, dtype="float64", center=scaled, scale=scaled)
    layer.build(shape)
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 1.5, 4))
    before = {weight.name: ops.convert_to_numpy(weight) for weight in layer.weights}
    gamma, beta = (before.get(name, default) for name, default in (("gamma", 1.0), ("beta", 0.0)))
    inputs = rng.normal(100.0, 2.0, shape)  # the square of the mean costs digits
    last = np.moveaxis(inputs, axis, -1)
    mean, variance = (f(last, axis=tuple(range(last.ndim - 1))) for f in (np.mean, np.var))

    def assert_normalized(training, mean, variance):
        outputs = ops.convert_to_numpy(layer(inputs, training=training))
        expected = (last - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
        np.testing.assert_allclose(outputs, np.moveaxis(expected, -1, axis), 1e-12, 1e-12)

    assert_normalized(False, before["moving_mean"], before["moving_variance"])
    assert_normalized(True, mean, variance)
    size = inputs.size // 4
    moved = {"moving_mean": mean, "moving_variance": variance * size / (size - 1)}
    for name, value in moved.items():
        actual = ops.convert_to_numpy(getattr(layer, name))
        np.testing.assert_allclose(actual, 0.9 * before[name] + 0.1 * value, 1e-13)


# Network, size of the input, size of the last map.
SIZES = [
    ("cifar100/resnet8", (28, 28), (7, 7)),
    ("cifar100/resnet8x4", (33, 41), (9, 11)),
    ("cifar100/wrn_16_1", (None, None), (None, None)),
    ("cifar100/resnet18", (64, 64), (8, 8)),
    ("cifar100/vgg8", (28, 28), (3, 3)),
    ("cifar100/vgg8", (64, 64), (4, 4)),  # halved once more, at this size only
    ("cifar100/vgg8", (96, 96), (12, 12)),
    ("cifar100/mobilenet_v2", (64, 64), (4, 4)),
    ("cifar100/shufflenet_v1", (28, 28), (4, 4)),
    ("cifar100/shufflenet_v2", (48, 64), (6, 8)),
    ("cub200/shufflenet_v2", (224, 224), (14, 14)),
    ("cub200/resnet18", (224, 224), (14, 14)),
    ("imagenet/mobilenet_v1", (224, 192), (7, 6)),
]


@on_one
@pytest.mark.parametrize(("name", "size", "last"), SIZES)
def test_sizes_channels_and_classes(name, size, last):
    model = build_empty(name, 7, (*size, 1), "channels_last")
    assert tuple(model.get_layer("avgpool").input.shape[1:3]) == last
    assert model.output.shape == (None, 7)


def test_channel_groups_need_a_known_size():
    with pytest.raises(ValueError, match="known input size.*None"):
        models.build("cifar100/shufflenet_v2", input_shape=(None, None, 3))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cifar100/resnet8x5", "cifar100/resnet8x4"),
        ("resnet32x4", "cifar100/resnet32x4"),
        ("imagenet/mobilenetv1", "imagenet/mobilenet_v1"),
        ("", "none; all are in keras_sdd.models.MODELS"),
    ],
)
def test_an_unknown_name_lists_near_ones(name, near):
    with pytest.raises(ValueError, match=f"{near}.*Received: name='{name}'"):
        models.build(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_classes": 2.5}, r"num_classes=2\.5"),
        ({"data_format": "NCHW"}, "data_format='NCHW'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.build("cifar100/resnet8", **arguments)


@on_one
@pytest.mark.parametrize("name", ["cifar100/shufflenet_v1", "cifar100/shufflenet_v2"])
def test_a_saved_network_comes_back_equal(name, tmp_path):
    model = build_filled(name, data_format="channels_last")
    images = recorded_images((1, 3, 32, 32), "channels_last")
    model.save(tmp_path / "model.keras")
    with zero_initialization():
        again = keras.saving.load_model(tmp_path / "model.keras")
    assert_near(infer(again, images), ops.convert_to_numpy(infer(model, images)), 1e-6)


# Plain loops over one image, channels last.
def grouped_pointwise(image, kernel):
    groups, channels, filters = kernel.shape
    out = np.zeros((*image.shape[:2], groups * filters))
    for g in range(groups):
        part = image[..., g * channels : (g + 1) * channels]
        out[..., g * filters : (g + 1) * filters] = part @ kernel[g]
    return out


def shuffle(image, groups):
    size = image.shape[-1] // groups
    order = [g * size + i for i in range(size) for g in range(groups)]
    return image[..., order]


def build_grouped(data_format):
    first = data_format == "channels_first"
    net = NetworkLayers(data_format)
    inputs = keras.Input((12, 4, 5) if first else (4, 5, 12))
    x = net.grouped_pointwise(inputs, "pointwise", 6, groups=3)
    return keras.Model(inputs, net.shuffle(x, "shuffle", groups=3))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_channel_groups_equal_plain_loops(data_format):
    model = build_grouped(data_format)
    images = np.random.default_rng(0).standard_normal((2, 4, 5, 12)).astype("float32")
    kernel = ops.convert_to_numpy(model.get_layer("pointwise").kernel)
    expected = np.stack([shuffle(grouped_pointwise(image, kernel), 3) for image in images])
    if data_format == "channels_first":
        images, expected = images.transpose(0, 3, 1, 2), expected.transpose(0, 3, 1, 2)
    assert_near(model(images), expected, 1e-5)


@pytest.mark.parametrize(
    "jit_compile", [False] if keras.backend.backend() == "torch" else [False, True]
)
def test_channel_groups_train(jit_compile):
    body = build_grouped("channels_last")
    model = keras.Sequential([body, layers.GlobalAveragePooling2D()])
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
    kernel = body.get_layer("pointwise").kernel
    before = ops.convert_to_numpy(kernel)
    images = np.random.default_rng(0).standard_normal((8, 4, 5, 12)).astype("float32")
    model.fit(images, np.ones((8, 6)), verbose=0)
    assert np.all(ops.convert_to_numpy(kernel) != before)
