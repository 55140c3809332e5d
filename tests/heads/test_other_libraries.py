"""Classifiers of keras.applications, KerasHub and KerasCV."""

import functools

import keras
import library_classifiers
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
    config_of,
    draw_images,
    softmax,
    to_numpy,
)
from keras_sdd import expose_spatial_logits


@functools.cache
def build_application(name, activation):
    return randomize(library_classifiers.KERAS_APPLICATIONS[name](activation))


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", library_classifiers.KERAS_APPLICATIONS)
def test_keras_applications(name, activation):
    """Feeds a random map to the heads: independent of the depth below, and quick."""
    model = build_application(name, activation)
    config = config_of(model)
    exposed = expose_spatial_logits(model)
    assert_shares_weights(exposed, model)
    assert config_of(model) == config

    pooling = [x for x in model.layers if isinstance(x, layers.GlobalAveragePooling2D)][-1]
    head = keras.Model(pooling.input, exposed.output | {"model": model.output})
    maps = np.random.default_rng(0).uniform(0, 1, (2, *pooling.input.shape[1:])).astype("float32")
    assert maps.shape[1:3] == (2, 2)
    outputs = call(head, maps)
    classifiers = [x for x in model.layers if isinstance(x, (layers.Dense, layers.Conv2D))]
    kernel, bias = (to_numpy(v) for v in classifiers[-1].weights)
    by_hand = maps @ kernel.reshape(-1, NUM_CLASSES) + bias
    assert_close(outputs["spatial_logits"], by_hand)
    assert_close(outputs["logits"], by_hand.mean((1, 2)))
    expected = by_hand.mean((1, 2))
    assert_close(outputs["model"], softmax(expected) if activation else expected)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX compiles every operation: a minute a model")
@pytest.mark.parametrize("name", library_classifiers.KERAS_APPLICATIONS)
def test_keras_applications_from_images(name):
    model = build_application(name, None)
    exposed = expose_spatial_logits(model)
    both = keras.Model(model.input, exposed.output | {"model": model.output})
    outputs = call(both, draw_images(model, size=2))
    assert_close(outputs["logits"], outputs["model"])
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["model"])
    assert_positions_differ(outputs["spatial_logits"])


def assert_exposes(build, **overrides):
    """Round trip of a model of another library, run from images."""
    model = randomize(build(None))
    config, images = config_of(model), draw_images(model)
    exposed = expose_spatial_logits(model, **overrides)
    outputs, expected = call(exposed, images), call(model, images)
    assert_close(outputs["logits"], expected)
    assert_close(outputs["spatial_logits"].mean((1, 2)), expected)
    assert_positions_differ(outputs["spatial_logits"])
    assert_shares_weights(exposed, model)
    assert config_of(model) == config

    probabilities = build("softmax")
    probabilities.set_weights(model.get_weights())
    logits = call(expose_spatial_logits(probabilities, **overrides), images)["logits"]
    assert_close(logits, expected)
    return model


@pytest.mark.parametrize("name", library_classifiers.KERAS_HUB)
def test_keras_hub(name):
    assert_exposes(library_classifiers.KERAS_HUB[name])


@pytest.mark.parametrize("name", library_classifiers.KERAS_CV)
def test_keras_cv(name):
    assert_exposes(library_classifiers.KERAS_CV[name])


def test_keras_hub_vision_transformer_without_class_token():
    build = library_classifiers.vision_transformer("gap", use_class_token=False)
    name = build(None).backbone.name
    model = build(None)
    with pytest.raises(ValueError, match=f"not of feature_layer={name!r}"):
        expose_spatial_logits(model, feature_layer=name)
    exposed = expose_spatial_logits(model, feature_layer=model.backbone)
    assert config_of(expose_spatial_logits(model)) == config_of(exposed)
    assert tuple(exposed.output["spatial_logits"].shape) == (None, 4, 4, NUM_CLASSES)
    randomize(model)
    images = draw_images(model)
    outputs = call(exposed, images)
    assert_close(outputs["logits"], call(model, images))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_positions_differ(outputs["spatial_logits"])
    assert_shares_weights(exposed, model)


@pytest.mark.filterwarnings("ignore:`compile..` was not called as part of model loading")
def test_the_original_keras_hub_model_saves_and_loads(tmp_path):
    model = randomize(library_classifiers.KERAS_HUB["ResNet"]("softmax"))
    images = draw_images(model)
    expected = call(model, images)
    exposed = expose_spatial_logits(model)
    model.save(tmp_path / "model.keras")
    assert_close(call(keras.models.load_model(tmp_path / "model.keras"), images), expected)
    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")
    assert_close(softmax(call(loaded, images)["logits"]), expected, 1e-5)
