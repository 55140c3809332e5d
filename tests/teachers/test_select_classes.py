"""Classes of a teacher by number and by name: the chosen logits, everywhere."""

import keras
import numpy as np
import pytest
from heads.assertions import assert_close, call, draw_images
from keras import layers

import keras_sdd
from keras_sdd.teachers import select_classes

CLASSES, CHOSEN = 6, [4, 0, 3]
SHAPE = (8, 8, 3)


def classify(features, head):
    x = layers.GlobalAveragePooling2D()(features)
    if head == "hidden":
        x = layers.Dense(7, "relu")(x)
    x = layers.Dense(CLASSES, activation="softmax" if head == "softmax" else None)(x)
    return layers.Softmax()(x) if head == "softmax layer" else x


def build(head="linear"):
    images = keras.Input(SHAPE)
    features = layers.Conv2D(5, 3, padding="same", activation="relu")(images)
    if head == "nested":
        body = keras.Model(images, features)
        images = keras.Input(SHAPE)
        return keras.Model(images, classify(body(images), head))
    if head == "average of two":
        return keras.Model(images, layers.Average()([classify(features, "softmax")] * 2))
    return keras.Model(images, classify(features, head))


def read(model):
    network = keras_sdd.Network(model, frozen=True)
    cells = network.cells((1, 2))
    outputs = network.select({"logits": network.logits, "cells": cells})
    return call(outputs, draw_images(model)), network._head.is_linear


@pytest.mark.parametrize(
    "head", ["linear", "softmax", "softmax layer", "nested", "hidden", "average of two"]
)
def test_the_chosen_logits_in_order(head):
    model = build(head)
    selected = select_classes(model, CHOSEN)
    assert selected.output.shape == (None, 3)
    assert {id(v) for v in selected.weights} == {id(v) for v in model.weights}
    (expected, was_linear), (outputs, is_linear) = read(model), read(selected)
    assert is_linear == was_linear
    for name in ("logits", "cells"):
        assert_close(outputs[name], expected[name][..., CHOSEN])
    assert_close(call(selected, draw_images(model)), expected["logits"][..., CHOSEN])


@pytest.mark.parametrize("head", ["linear", "hidden"])
def test_exposed_models_before_and_after(head):
    model = build(head)
    exposed = keras_sdd.expose_spatial_logits(model)
    expected, images = call(exposed, draw_images(model)), draw_images(model)
    for selected in (
        select_classes(exposed, CHOSEN),
        keras_sdd.expose_spatial_logits(select_classes(model, CHOSEN)),
    ):
        outputs = call(selected, images)
        for name, x in expected.items():
            assert_close(outputs[name], x[..., CHOSEN])
        (outputs, _), (before, _) = read(selected), read(exposed)
        assert_close(outputs["cells"], before["cells"][..., CHOSEN])


def test_a_distiller_of_some_classes_trains_and_is_saved(tmp_path):
    model, student = build("softmax"), build("hidden")
    teacher, student = select_classes(model, CHOSEN), select_classes(student, [0, 1, 2])
    distiller = keras_sdd.SDDDistiller(teacher, student, scales=(1, 2))
    distiller.compile("sgd")
    images = draw_images(model, size=4)
    distiller.fit(images, np.array([0, 1, 2, 0]), verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert_close(call(loaded.teacher, images), call(teacher, images))
    assert_close(call(loaded.student, images), call(student, images))


def test_classes_by_name():
    names = ["ant", "bee", "cat", "dog", "emu", "fox"]
    model = build()
    images = draw_images(model)
    expected = call(select_classes(model, CHOSEN), images)
    assert_close(call(select_classes(model, ["emu", "ant", "dog"], names), images), expected)


@pytest.mark.parametrize(
    ("indices", "names", "message"),
    [
        ([0, 6], None, r"from 0 to 5. Received: \[6\]"),
        ([0, -1], None, r"from 0 to 5. Received: \[-1\]"),
        ([2, 0, 2], None, "Received: 2 twice"),
        ([1], None, r"two or more different classes.*Received: \[1\]"),
        (["cat", "dog"], None, "if `names` has those of all classes"),
        ([0.5, 1], None, "`indices` must be integers"),
        (["cat", "dogg"], list("abcde") + ["dog"], "no class of this name; near.*Received: 'cat'"),
        (["dogg", "a"], list("abcde") + ["dog"], "near names: 'dog', 'd'. Received: 'dogg'"),
        (["a", "b"], ["a", "b", "b", "c", "d", "e"], "several classes of this name"),
        (["a", "a"], list("abcdef"), "Received: 0 twice"),
        (["a", "b"], ["a", "b"], "all 6 classes of the model. Received: 2 names"),
    ],
)
def test_refusals(indices, names, message):
    with pytest.raises(ValueError, match=message):
        select_classes(build(), indices, names)
