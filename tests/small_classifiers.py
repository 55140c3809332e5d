"""Small classifiers that the tests distil."""

import keras
import numpy as np
from keras import layers
from library_classifiers import drawn_by_numpy

NUM_CLASSES = 4


@drawn_by_numpy(gain=1.0)  # near Keras's own
def build_cnn(
    width=4,
    name=None,
    batch_norm=True,
    dropout=0.0,
    softmax=False,
    dropout_seed: int | None = 1,
    **conv_options,
):
    """A two-convolution classifier of 16x16x3 images with an 8x8 map."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(width, 3, strides=2, padding="same", name="conv1", **conv_options)(inputs)
    if batch_norm:
        x = layers.BatchNormalization(momentum=0.9, name="bn")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.GlobalAveragePooling2D()(x)
    if dropout:
        x = layers.Dropout(dropout, seed=dropout_seed)(x)
    activation = "softmax" if softmax else None
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, activation, name="logits")(x), name=name)


def draw_data(size=24, seed=0):
    rng = np.random.default_rng(seed)
    regions = rng.standard_normal((size, 4, 4, 3))  # so that cells differ in what they show
    images = rng.standard_normal((size, 16, 16, 3)) + np.kron(regions, np.ones((1, 4, 4, 1)))
    return images.astype("float32"), rng.integers(0, NUM_CLASSES, size)


def spread_predictions(model, scale=20.0):
    """Set the last layer so that cells of random weights predict different classes."""
    last = model.get_layer("logits")
    features = keras.Model(model.input, last.input)(draw_data()[0])
    last.kernel.assign(last.kernel * scale)
    last.bias.assign(-keras.ops.matmul(keras.ops.mean(features, axis=0), last.kernel))
    return model


def copy_weights(model):
    return [np.array(w) for w in model.get_weights()]


def assert_same_weights(model, weights, **tolerance):
    for variable, actual, expected in zip(model.weights, copy_weights(model), weights, strict=True):
        if tolerance:
            np.testing.assert_allclose(actual, expected, err_msg=variable.path, **tolerance)
        else:
            np.testing.assert_array_equal(actual, expected, err_msg=variable.path)
