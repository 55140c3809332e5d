"""`Network`: what terms can read of a classifier, each layer computed once."""

import keras
import numpy as np
import pytest
from backends import to_numpy
from keras import layers
from library_classifiers import NUM_CLASSES, randomize
from recorded_networks import build_empty
from small_classifiers import assert_same_weights, build_cnn, copy_weights, draw_data

from keras_sdd import Network, expose_spatial_logits, models

X, _ = draw_data(6)


class CountedCalls(layers.Layer):
    """Counts how often it runs."""

    count = 0

    def call(self, inputs):
        self.count += 1
        return inputs


def build_body(name="body"):
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(CountedCalls(name="counter")(x))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="second")(x)
    return keras.Model(inputs, x, name=name)


def nest(body, times=1):
    """A classifier around a body, in further models."""
    for i in range(1, times):
        inputs = keras.Input((16, 16, 3))
        body = keras.Model(inputs, layers.ReLU(name=f"relu{i}")(body(inputs)), name=f"around{i}")
    inputs = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(body(layers.Rescaling(0.5)(inputs)))
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, name="logits")(x))


def run(model, x=X, **options):
    return keras.tree.map_structure(to_numpy, model(x, **options))


def test_reads_what_the_model_computes():
    model = randomize(build_cnn(4, dropout=0.3))
    network = Network(model)
    read = {
        "logits": network.logits,
        "embedding": network.embedding,
        "map": network.feature("conv1"),
        "same": network.feature(model.get_layer("conv1")),
        "cells": network.cells((1, 2)),
    }
    assert read["map"] is read["same"] and network.cells((1, 2)) is read["cells"]
    outputs = run(network.select(read))
    np.testing.assert_allclose(outputs["logits"], run(model), rtol=1e-5, atol=1e-6)
    inner = keras.Model(model.input, [model.get_layer("conv1").output, model.layers[-3].output])
    maps, pooled = run(inner)
    np.testing.assert_allclose(outputs["map"], maps, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["embedding"], pooled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["cells"][:, 0], outputs["logits"], rtol=1e-4, atol=1e-5)
    assert network.num_classes == 4


@pytest.mark.parametrize("times", [1, 2, 3])
def test_nested_models_run_once_whatever_is_read(times):
    body = build_body()
    model = randomize(nest(body, times))
    network, counter = Network(model), body.get_layer("counter")
    read = {
        "logits": network.logits,
        "cells": network.cells((1, 2)),
        "first": network.feature("first"),
        "second": network.feature("body/second"),
        "body": network.feature("body"),
    }
    selected = network.select(read)
    before, start = run(model), copy_weights(model)
    counter.count = 0
    run(selected, training=True)
    assert counter.count == 1
    moved = copy_weights(model)
    model.set_weights(start)
    run(model, training=True)
    assert_same_weights(model, moved, rtol=1e-6)  # statistics move once a step
    model.set_weights(start)
    outputs = run(selected)
    np.testing.assert_allclose(outputs["logits"], before, rtol=1e-5, atol=1e-6)
    inner = keras.Model(body.input, [body.get_layer("first").output, body.output])
    first, second = run(inner, X * 0.5)
    np.testing.assert_allclose(outputs["first"], first, rtol=1e-5, atol=1e-6)
    for name in ("second", "body"):
        np.testing.assert_allclose(outputs[name], second, rtol=1e-5, atol=1e-6)
    assert {id(v) for v in selected.trainable_variables} == {
        id(v) for v in model.trainable_variables
    }


def test_one_of_two_models_with_the_same_layers():
    inputs = keras.Input((16, 16, 3))
    bodies = [build_body("left"), build_body("right")]
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(body(inputs)) for body in bodies])
    network = Network(keras.Model(inputs, layers.Dense(NUM_CLASSES)(x)))
    with pytest.raises(ValueError, match="give one of left/first, right/first. Received: 'first'"):
        network.feature("first")
    read = {"first": network.feature("right/first"), "logits": network.logits}
    outputs = run(network.select(read))
    inner = keras.Model(bodies[1].input, bodies[1].get_layer("first").output)
    np.testing.assert_allclose(outputs["first"], run(inner), rtol=1e-5, atol=1e-6)


def build_shared():
    inputs = keras.Input((16, 16, 3))
    conv = layers.Conv2D(3, 1, name="shared")
    x = layers.GlobalAveragePooling2D()(conv(layers.ReLU()(conv(inputs))))
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(x), name="model")


@pytest.mark.parametrize(
    ("build", "name", "message"),
    [
        (build_cnn, "conv3", "no layer of this name. Near names: conv2, conv1.* 'conv3'"),
        (build_shared, "shared", "several times.*Received: 'shared'"),
    ],
)
def test_layers_that_cannot_be_read(build, name, message):
    with pytest.raises(ValueError, match=message):
        Network(build()).feature(name)


def test_exposed_models_have_no_embedding():
    network = Network(expose_spatial_logits(build_cnn()))
    assert network.cells((2,)).shape[1:] == (4, 4)
    with pytest.raises(ValueError, match="give the classifier as it was"):
        network.embedding  # noqa: B018


def test_stages_end_the_map_sizes():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(4, 3, padding="same", name="branch")(x)
    x = layers.ReLU(name="stage1")(layers.Add(name="sum1")([x, y]))
    y = layers.Conv2D(4, 3, strides=2, name="down")(layers.ZeroPadding2D(1)(x))
    x = layers.Conv2D(4, 1, strides=2, name="shortcut")(x)
    x = layers.ReLU(name="stage2")(layers.Add()([x, y]))
    x = layers.Dropout(0.5, name="dropped")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True)(layers.ZeroPadding2D(1)(x))
    model = keras.Model(inputs, layers.Dense(NUM_CLASSES)(layers.Flatten()(x)))
    network = Network(model)
    assert network.stages == ["stage1", "dropped"]
    assert network.preactivations == ["sum1", "dropped"]
    assert Network(nest(build_body())).stages[1:] == ["body"]


def test_stages_of_the_zoo_are_found_inside_other_models_too():
    inputs = keras.Input((32, 32, 3))
    model = build_empty("cifar100/resnet8")
    around = keras.Model(inputs, model(layers.Rescaling(2.0)(inputs)))
    names = models.stages(model)
    inner = {k: [f"cifar100_resnet8/{x}" for x in v] for k, v in names.items() if k[-1] == "s"}
    assert models.stages(around) == inner | {"pooled_feat": "cifar100_resnet8/avgpool"}
    network = Network(around)
    assert network.stages == inner["feats"][1:]
    assert network.preactivations == inner["preact_feats"][1:]
    assert network.feature(network.stages[2]).shape[1:] == (8, 8, 64)
    with pytest.raises(ValueError, match=r"keras_sdd.Network\(model\).stages.*'other'"):
        models.stages(build_cnn(name="other"))


def test_stages_of_a_backbone_are_its_pyramid():
    """As KerasHub's backbones name them."""
    body = build_body()
    body.pyramid_outputs = {"P2": body.get_layer("norm").output, "P3": body.output}
    assert Network(nest(body)).stages == ["body/norm", "body/second"]
    assert Network(nest(body)).preactivations == ["body/norm", "body/second"]


def test_channels_first_maps_come_channels_last():
    inputs = keras.Input((3, 8, 6))
    options = {"data_format": "channels_first"}
    x = layers.AveragePooling2D(2, name="map", **options)(inputs)
    x = layers.GlobalAveragePooling2D(**options)(x)
    network = Network(keras.Model(inputs, layers.Dense(NUM_CLASSES)(x)))
    assert tuple(network.feature("map").shape) == (None, 4, 3, 3)
    assert network.stages == ["map"]
