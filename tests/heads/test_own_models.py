"""Models of our own are exposed, and are afterwards what they were."""

import keras
import numpy as np
import pytest
from keras import layers
from library_classifiers import randomize

from heads.assertions import (
    assert_close,
    assert_positions_differ,
    assert_shares_weights,
    call,
    config_of,
    draw_images,
    softmax,
)
from heads.exposing import expose_cells
from heads.own_models import OWN_MODELS, average, dense
from keras_sdd import expose_spatial_logits


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("name", OWN_MODELS)
def test_own_models(name, activation):
    model = randomize(OWN_MODELS[name](activation))
    twin = OWN_MODELS[name](None)
    twin.set_weights(model.get_weights())
    images = draw_images(model)
    if name == "dict input":
        images = {"image": images}
    config, before, expected = config_of(model), call(model, images), call(twin, images)

    exposed = expose_spatial_logits(model)
    outputs = call(exposed, images)

    assert set(outputs) == {"logits", "spatial_logits"}
    assert_close(outputs["logits"], expected)
    assert_close(outputs["spatial_logits"].mean((1, 2)), expected)
    assert_positions_differ(outputs["spatial_logits"])
    assert_shares_weights(exposed, model)
    if activation:
        assert_close(softmax(outputs["logits"]), before, 1e-6)
    # The model itself is as it was.
    np.testing.assert_array_equal(call(model, images), before)
    assert config_of(model) == config


@pytest.mark.parametrize("name", ["convolution", "nested twice", "sequential around a pooled base"])
def test_the_model_saves_loads_and_clones_as_before(name, tmp_path):
    model = randomize(OWN_MODELS[name]("softmax"))
    images = draw_images(model)
    expected = call(model, images)
    expose_spatial_logits(model)
    expose_cells(model, (1, 2))

    model.save(tmp_path / "model.keras")
    assert_close(call(keras.models.load_model(tmp_path / "model.keras"), images), expected)
    clone = keras.models.clone_model(model)
    assert [v.shape for v in clone.weights] == [v.shape for v in model.weights]
    clone.set_weights(model.get_weights())
    assert_close(call(clone, images), expected)


def test_a_file_of_layers_with_the_names_of_ours(tmp_path):
    """Names that Keras gives by itself come back from a file and must not clash with new ones."""
    inputs = keras.Input((4, 4, 3))
    x = layers.Permute((2, 1, 3), name="permute")(layers.Reshape((4, 4, 3), name="reshape")(inputs))
    x = layers.Reshape((4, 4, 3), name="cell_pooling")(layers.Flatten(name="flatten")(x))
    x = average(keepdims=True)(layers.Conv2D(4, 1, name="conv2d")(x))
    x = layers.Flatten(name="flatten_1")(x)
    keras.Model(inputs, dense()(x)).save(tmp_path / "model.keras")
    keras.utils.clear_session(free_memory=False)
    model = keras.models.load_model(tmp_path / "model.keras")
    expose_spatial_logits(model)
    expose_cells(model, (1,))
    expose_cells(model, (1, 2))
