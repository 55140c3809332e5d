"""Maps of both data formats, of unknown size, and the poolings that read them."""

import keras
import numpy as np
import pytest
from backends import BACKEND
from keras import layers
from library_classifiers import NUM_CLASSES, randomize

from heads.assertions import (
    assert_close,
    assert_positions_differ,
    assert_shares_weights,
    call,
    draw_images,
    softmax,
    to_numpy,
)
from heads.exposing import expose_cells
from heads.own_models import average, dense
from keras_sdd import expose_spatial_logits, pool_cells

needs_channels_first = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="TensorFlow has no channels_first convolution on CPUs"
)


def channels_first_body(x):
    return layers.Conv2D(6, 3, data_format="channels_first", activation="relu")(x)


CHANNELS_FIRST = {
    "pooling": lambda a: [average(data_format="channels_first"), dense(a)],
    "pooling, keepdims": lambda a: [
        average(data_format="channels_first", keepdims=True),
        layers.Flatten(),
        dense(a),
    ],
    "convolution": lambda a: [
        average(data_format="channels_first", keepdims=True),
        layers.Conv2D(NUM_CLASSES, 1, data_format="channels_first"),
        layers.Flatten(),
        layers.Activation(a),
    ],
    "average pooling": lambda a: [
        layers.AveragePooling2D((5, 7), data_format="channels_first"),
        layers.Flatten(),
        dense(a),
    ],
}


@pytest.mark.parametrize("name", CHANNELS_FIRST)
def test_channels_first(name):
    def build(activation):
        inputs = x = keras.Input((6, 5, 7))
        for layer in CHANNELS_FIRST[name](activation):
            x = layer(x)
        return keras.Model(inputs, x)

    model = randomize(build("softmax"))
    exposed, cells = expose_spatial_logits(model), expose_cells(model, (1, 2))
    assert tuple(exposed.output["spatial_logits"].shape) == (None, 5, 7, NUM_CLASSES)
    assert_shares_weights(exposed, model)
    if name in ("convolution", "average pooling") and BACKEND == "tensorflow":
        return  # the model itself cannot run there
    images = draw_images(model)
    outputs, cells = call(exposed, images), call(cells, images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    kernel, bias = (to_numpy(v) for v in model.get_layer(index=-1).weights or model.weights)
    by_hand = np.einsum("bchw,ck->bhwk", images, kernel.reshape(6, NUM_CLASSES)) + bias
    assert_close(outputs["spatial_logits"], by_hand)
    assert_close(outputs["logits"], by_hand.mean((1, 2)))
    assert_close(cells["cells"], to_numpy(pool_cells(by_hand, (1, 2))))


@needs_channels_first
def test_channels_first_convolutions():
    inputs = keras.Input((3, 12, 12))
    x = average(data_format="channels_first")(channels_first_body(inputs))
    model = randomize(keras.Model(inputs, dense()(x)))
    outputs = call(expose_spatial_logits(model), draw_images(model))
    assert_close(outputs["logits"], call(model, draw_images(model)))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_positions_differ(outputs["spatial_logits"])


def test_channels_first_as_the_default_of_keras():
    keras.config.set_image_data_format("channels_first")
    model = keras.applications.MobileNet(
        weights=None, input_shape=(3, 64, 64), alpha=0.25, classes=NUM_CLASSES
    )
    exposed = expose_spatial_logits(model)
    assert tuple(exposed.output["spatial_logits"].shape) == (None, 2, 2, NUM_CLASSES)
    assert_shares_weights(exposed, model)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_adaptive_average_pooling(data_format):
    if not hasattr(layers, "AdaptiveAveragePooling2D"):
        pytest.skip("this Keras has no adaptive pooling")
    inputs = keras.Input((5, 7, 6) if data_format == "channels_last" else (6, 5, 7))
    x = layers.AdaptiveAveragePooling2D(1, data_format=data_format)(inputs)
    model = randomize(keras.Model(inputs, dense()(layers.Flatten()(x))))
    outputs = call(expose_spatial_logits(model), draw_images(model))
    assert_close(outputs["logits"], call(model, draw_images(model)))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])


def test_maps_of_unknown_size():
    inputs = keras.Input((None, None, 3))
    x = average()(layers.Conv2D(4, 3, activation="relu")(inputs))
    model = randomize(keras.Model(inputs, dense()(x)))
    exposed, images = expose_spatial_logits(model), np.random.rand(2, 9, 7, 3).astype("float32")
    outputs = call(exposed, images)
    assert outputs["spatial_logits"].shape == (2, 7, 5, NUM_CLASSES)
    assert_close(outputs["spatial_logits"].mean((1, 2)), call(model, images))
    assert tuple(exposed.output["spatial_logits"].shape) == (None, None, None, NUM_CLASSES)
    # The images say the size.
    cells = call(expose_cells(model, (1, 2)), images)["cells"]
    expected = pool_cells(outputs["spatial_logits"].astype("float32"), (1, 2))
    assert_close(cells, to_numpy(expected))


def test_pooling_by_maximum_of_unknown_size():
    inputs = keras.Input((None, None, 3))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs))
    model = randomize(keras.Model(inputs, dense()(layers.Dense(4, "relu")(x))))
    known = keras.Model(*(lambda x: (x, model(x)))(keras.Input((9, 7, 3))))
    images = np.random.rand(2, 9, 7, 3).astype("float32")
    outputs, expected = (call(expose_cells(x, (1, 2, 4)), images) for x in (model, known))
    assert_close(outputs["cells"], expected["cells"])
