"""An exposed model saves, loads, trains and freezes as the model whose weights it shares."""

import keras
import numpy as np
import pytest
from keras import layers
from library_classifiers import NUM_CLASSES, randomize

from heads.assertions import assert_close, call, draw_images, softmax, to_numpy
from heads.exposing import expose_cells
from heads.own_models import OWN_MODELS, average, base, dense, features, functional, sequential
from keras_sdd import expose_spatial_logits


@pytest.mark.parametrize("loaded_first", [False, True])
@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", ["functional", "convolution", "nested twice", "ops"])
def test_an_exposed_model_saves_and_loads(name, activation, loaded_first, tmp_path):
    model = randomize(OWN_MODELS[name](activation))
    if loaded_first:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    images = draw_images(model)
    exposed = expose_spatial_logits(model)
    expected = call(exposed, images)

    exposed.save(tmp_path / "exposed.keras")
    loaded = keras.models.load_model(tmp_path / "exposed.keras")

    assert len(loaded.weights) == len(model.weights)
    outputs = call(loaded, images)
    assert_close(outputs["logits"], expected["logits"])
    assert_close(outputs["spatial_logits"], expected["spatial_logits"])
    # One classifier for both outputs: the loaded model's own logits follow its spatial ones.
    classifiers = [v for v in loaded.weights if v.path.endswith("predictions/kernel")]
    assert len(classifiers) == 1
    classifiers[0].assign(classifiers[0] * 2.0)
    outputs = call(loaded, images)
    assert_close(outputs["spatial_logits"].mean((1, 2)), outputs["logits"])
    assert np.abs(outputs["logits"] - expected["logits"]).max() > 1e-2
    # The loaded model is an exposed one to the library.
    assert expose_spatial_logits(loaded) is loaded
    clone = keras.models.clone_model(exposed)
    clone.set_weights(exposed.get_weights())
    assert_close(call(clone, images)["spatial_logits"], expected["spatial_logits"])


def test_weights_stay_shared_both_ways():
    model = randomize(functional(average(), dense("softmax")))
    exposed, images = expose_spatial_logits(model), draw_images(model)
    before = call(exposed, images)["logits"]
    model.get_layer("predictions").bias.assign(np.arange(NUM_CLASSES))
    assert np.abs(call(exposed, images)["logits"] - before).max() > 0.1
    exposed.set_weights([np.ones_like(w) for w in exposed.get_weights()])
    assert all((w == 1).all() for w in model.get_weights())


class CountedCalls(layers.Layer):
    """Counts how often it runs."""

    count = 0

    def call(self, inputs):
        self.count += 1
        return inputs


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("expose", [expose_spatial_logits, lambda m: expose_cells(m, (1, 2))])
def test_the_features_are_computed_once(expose, is_nested):
    counter = CountedCalls()
    inputs, x = features()
    body = keras.Model(inputs, average()(counter(x)), name="body")
    parts = [body] if is_nested else body.layers[1:]
    model = sequential(*parts, layers.Dropout(0.1), dense())
    exposed, images = expose(model), draw_images(model)
    counter.count = 0
    exposed(images, training=True)
    assert counter.count == 1


def test_training_mode_reaches_batch_norm_and_dropout():
    model = randomize(sequential(base("avg"), layers.Dropout(0.5), dense()))
    exposed, images = expose_spatial_logits(model), draw_images(model)
    statistics = next(v for v in model.weights if v.path.endswith("moving_mean"))
    before = to_numpy(statistics)
    in_inference = call(exposed, images)["logits"]
    np.testing.assert_array_equal(to_numpy(statistics), before)
    in_training = call(exposed, images, training=True)["logits"]
    assert np.abs(to_numpy(statistics) - before).max() > 1e-4
    assert np.abs(in_training - in_inference).max() > 1e-2


def test_dropout_that_is_always_on_stays_on():
    inputs, x = features()
    x = layers.Dropout(0.5)(average()(x), training=True)
    exposed = expose_spatial_logits(randomize(keras.Model(inputs, dense()(x))))
    images = draw_images(exposed)
    assert np.abs(call(exposed, images)["logits"] - call(exposed, images)["logits"]).max() > 1e-3


def test_frozen_layers_stay_frozen():
    model = sequential(base("avg"), dense())
    model.layers[0].trainable = False
    exposed = expose_spatial_logits(model)
    assert [v.path.split("/")[-2:] for v in exposed.trainable_weights] == [
        ["predictions", "kernel"],
        ["predictions", "bias"],
    ]
    model.layers[0].trainable = True
    assert len(exposed.trainable_weights) == len(model.trainable_weights)


@pytest.mark.parametrize("name", ["functional", "dict input"])
def test_predict_and_fit_of_an_exposed_model(name):
    model = randomize(OWN_MODELS[name]("softmax"))
    exposed, images = expose_spatial_logits(model), draw_images(model, 4)
    fed = {"image": images} if name == "dict input" else images
    outputs = exposed.predict(fed, verbose=0)
    assert_close(softmax(outputs["logits"]), call(model, fed), 1e-5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    exposed.compile("sgd", loss={"logits": loss})
    before = model.get_weights()
    exposed.fit(fed, {"logits": np.array([0, 1, 2, 3])}, batch_size=4, verbose=0)
    assert any((w != b).any() for w, b in zip(model.get_weights(), before, strict=True))
