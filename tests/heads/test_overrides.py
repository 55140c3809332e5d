"""The two overrides: the layer that is pooled, and the layer that classifies."""

import keras
import pytest
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
from heads.own_models import (
    Projection,
    average,
    base,
    dense,
    functional,
    halved,
    sequential,
    token_classifier,
)
from keras_sdd import expose_spatial_logits


@pytest.mark.parametrize("as_layer", [False, True])
def test_tokens_as_a_square_map(as_layer):
    model = randomize(token_classifier("softmax"))
    norm = model.get_layer("norm")
    exposed = expose_spatial_logits(model, feature_layer=norm if as_layer else "norm")
    images = draw_images(model)
    outputs = call(exposed, images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    kernel, bias = (to_numpy(v) for v in model.get_layer("predictions").weights)
    tokens = call(keras.Model(model.input, norm.output), images)
    by_hand = (tokens @ kernel + bias).reshape(3, 4, 4, NUM_CLASSES)
    assert_close(outputs["spatial_logits"], by_hand)
    assert_shares_weights(exposed, model)


@pytest.mark.parametrize("as_layer", [False, True])
@pytest.mark.parametrize("with_softmax", [False, True])
def test_a_classifier_layer_of_the_users_own(with_softmax, as_layer, tmp_path):
    last = [layers.Softmax()] if with_softmax else []
    model = randomize(functional(average(), layers.Dropout(0.1), Projection(name="mine"), *last))
    layer = model.get_layer("mine") if as_layer else "mine"
    exposed, images = expose_spatial_logits(model, classifier_layer=layer), draw_images(model)
    outputs, expected = call(exposed, images), call(model, images)
    assert_close(softmax(outputs["logits"]) if with_softmax else outputs["logits"], expected, 1e-6)
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_shares_weights(exposed, model)
    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")
    assert_close(call(loaded, images)["spatial_logits"], outputs["spatial_logits"])


def test_a_classifier_of_vectors_alone():
    classifier = layers.EinsumDense("bc,ck->bk", NUM_CLASSES, bias_axes="k", name="einsum")
    model = randomize(functional(average(), classifier))
    exposed, images = expose_spatial_logits(model, classifier_layer="einsum"), draw_images(model)
    outputs = call(exposed, images)
    assert_close(outputs["logits"], call(model, images))
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert_positions_differ(outputs["spatial_logits"])


def test_the_classifier_layer_is_the_last_one():
    model = halved()
    for wanted in ("pool", model.get_layer("pool")):
        with pytest.raises(ValueError, match="'true_divide.* is the classifier, not"):
            expose_spatial_logits(model, classifier_layer=wanted)


def test_naming_what_is_found_anyway_changes_nothing():
    model = randomize(sequential(base("avg"), dense("softmax")))
    images = draw_images(model)
    expected = call(expose_spatial_logits(model), images)
    for feature_layer in ("batch_normalization", "base"):
        inner = [x.name for x in model.layers[0].layers if x.name.startswith(feature_layer)]
        exposed = expose_spatial_logits(
            model, feature_layer=inner[0] if inner else None, classifier_layer="predictions"
        )
        outputs = call(exposed, images)
        assert_close(outputs["spatial_logits"], expected["spatial_logits"])


def test_maximum_pooling_with_feature_layer():
    pool = layers.GlobalMaxPooling2D(name="maximum")
    model = randomize(functional(layers.ReLU(name="map"), pool, dense("softmax")))
    exposed, images = expose_spatial_logits(model, feature_layer="map"), draw_images(model)
    outputs = call(exposed, images)
    assert_close(softmax(outputs["logits"]), call(model, images), 1e-6)
    kernel, bias = (to_numpy(v) for v in model.get_layer("predictions").weights)
    maps = call(keras.Model(model.input, model.get_layer("map").output), images)
    assert_close(outputs["spatial_logits"], maps @ kernel + bias)
