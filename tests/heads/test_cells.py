"""Cells: pooling then classifying equals classifying then pooling; scale one takes any head."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from library_classifiers import NUM_CLASSES, randomize

from heads.assertions import (
    assert_close,
    assert_shares_weights,
    call,
    draw_images,
    softmax,
    to_numpy,
)
from heads.exposing import expose_cells
from heads.own_models import OWN_MODELS, average, base, dense, features, functional, sequential
from keras_sdd import expose_spatial_logits, pool_cells


@pytest.mark.parametrize("name", ["functional", "convolution", "nested twice", "not square"])
def test_pooling_then_classifying_equals_classifying_then_pooling(name):
    model = randomize(OWN_MODELS[name]("softmax"))
    images = draw_images(model)
    spatial = call(expose_spatial_logits(model), images)
    for scales, pooling in itertools.product(
        [(1, 2, 4), (1, 3), (3, 1), (2, 7)], ["direct", "nested"]
    ):
        exposed = expose_cells(model, scales, pooling)
        outputs = call(exposed, images)
        expected = pool_cells(spatial["spatial_logits"].astype("float32"), scales, pooling)
        assert_close(outputs["cells"], to_numpy(expected))
        assert_close(outputs["logits"], spatial["logits"])
        assert_shares_weights(exposed, model)
        if pooling == "direct" and 1 in scales:
            index = 0 if scales[0] == 1 else 9
            assert_close(outputs["cells"][:, index], spatial["logits"])


SCALE_ONE = {
    "flatten": lambda a: functional(layers.Flatten(), dense(a)),
    "hidden layer": lambda a: functional(average(), layers.Dense(4, "relu"), dense(a)),
    "batch norm": lambda a: functional(average(), layers.BatchNormalization(), dense(a)),
    "maximum": lambda a: functional(layers.GlobalMaxPooling2D(), dense(a)),
    "joined poolings": lambda a: keras.Model(
        *(lambda inputs, x: (inputs, dense(a)(average()(x) + layers.GlobalMaxPooling2D()(x))))(
            *features()
        )
    ),
    "nested head": lambda a: sequential(
        base(), keras.Sequential([layers.Flatten(), layers.Dense(4, "relu"), dense(a)])
    ),
    "classifier alone in a model": lambda a: sequential(
        base(), layers.Flatten(), keras.Sequential([dense(a)])
    ),
}


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", [*SCALE_ONE, "functional", "convolution", "nested twice"])
def test_scale_one_takes_any_classifier(name, activation):
    build = (SCALE_ONE | OWN_MODELS)[name]
    model, twin = randomize(build(activation)), build(None)
    twin.set_weights(model.get_weights())
    exposed, images = expose_cells(model, (1,)), draw_images(model)
    outputs, expected = call(exposed, images), call(twin, images)
    assert_close(outputs["logits"], expected)
    np.testing.assert_array_equal(outputs["cells"][:, 0], outputs["logits"])
    assert outputs["cells"].shape == (3, 1, NUM_CLASSES)
    assert_shares_weights(exposed, model)


def two_bodies():
    inputs, x = features()
    return inputs, [average()(x), layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))]


def ensemble(join, activation=None):
    def build():
        inputs, parts = two_bodies()
        return keras.Model(inputs, join([layers.Dense(NUM_CLASSES, activation)(x) for x in parts]))

    return build


def without_regions(*head):
    return functional(layers.Flatten(), layers.Dense(4, "relu"), *head)


class Opaque(layers.Layer):
    def build(self, input_shape):
        self.body, self.last = layers.Conv2D(4, 3), dense()

    def call(self, x):
        return self.last(ops.mean(self.body(x), (1, 2)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = Opaque()

    def call(self, x):
        return self.body(x)


def wrapped(operation):
    inputs = keras.Input((12, 12, 3))
    return keras.Model(inputs, operation(inputs))


def quantized(activation):
    model = without_regions(dense(activation))
    model.get_layer("predictions").quantize("int8")
    return model


# Name: builder, and whether the model gives probabilities, of which the logits are the logarithm.
ANY_END = {
    "ensemble of logits": (ensemble(layers.Average()), False),
    "ensemble of probabilities": (ensemble(layers.Average(), "softmax"), True),
    "weighted ensemble": (ensemble(lambda x: 0.3 * x[0] + 0.7 * x[1], "softmax"), True),
    "product of experts": (ensemble(layers.Multiply(), "softmax"), True),
    "part of the classes": (
        lambda: wrapped(lambda x: without_regions(layers.Dense(8))(x)[:, 1:4]), False,
    ),
    "part of the probabilities": (
        lambda: wrapped(
            lambda x: ops.take(without_regions(layers.Dense(8, "softmax"))(x), [5, 2], -1)
        ),
        True,
    ),
    "calibrated": (lambda: wrapped(lambda x: without_regions(dense())(x) / 1.7), False),
    "calibrated by a layer": (
        lambda: without_regions(dense(), layers.Rescaling(0.4), layers.Softmax()), True,
    ),
    "quantized": (lambda: quantized(None), False),
    "quantized with a softmax": (lambda: quantized("softmax"), True),
    "opaque": (lambda: wrapped(Opaque()), False),
    "subclassed": (lambda: wrapped(Subclassed()), False),
    "Lambda": (lambda: without_regions(layers.Lambda(lambda x: x * 2.0)), False),
    "sigmoid": (lambda: without_regions(dense("sigmoid")), False),
}  # fmt: skip


@pytest.mark.parametrize("name", ANY_END)
def test_scale_one_takes_whatever_a_classifier_ends_in(name, caplog):
    build, gives_probabilities = ANY_END[name]
    model = randomize(build())
    images = draw_images(model)
    outputs, expected = call(expose_cells(model, (1,)), images), call(model, images)
    logits = outputs["logits"]
    if gives_probabilities:
        assert (expected >= 0).all() and np.ptp(logits) > 1e-3
        expected = expected / expected.sum(-1, keepdims=True)
        assert_close(softmax(logits), expected, 1e-5)
    else:
        assert_close(logits, expected)
    np.testing.assert_array_equal(outputs["cells"][:, 0], logits)
    assert ("taken as logits" in caplog.text) == (name == "sigmoid")


def test_scale_one_takes_vgg():
    model = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=NUM_CLASSES)
    exposed = expose_cells(model, (1,))
    assert tuple(exposed.output["cells"].shape) == (None, 1, NUM_CLASSES)
    head = keras.Model(model.get_layer("fc2").input, exposed.output | {"model": model.output})
    outputs = call(head, np.random.rand(2, *head.input_shape[1:]))
    assert_close(softmax(outputs["logits"]), outputs["model"], 1e-5)


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    st.sampled_from(["direct", "nested"]),
)
def test_the_classifier_commutes_with_pooling(size, scales, pooling):
    inputs = keras.Input((*size, 3))
    model = randomize(keras.Model(inputs, dense("softmax")(average()(inputs))))
    images = draw_images(model)
    kernel, bias = (to_numpy(v) for v in model.weights)
    expected = to_numpy(pool_cells(images, scales, pooling)) @ kernel + bias
    if tuple(scales) != (1,):
        assert_close(call(expose_cells(model, scales, pooling), images)["cells"], expected)
