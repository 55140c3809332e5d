"""Low precision, low rank and quantized classifiers."""

import keras
import numpy as np
import pytest
from keras import layers
from library_classifiers import randomize

from heads.assertions import (
    assert_close,
    assert_shares_weights,
    call,
    draw_images,
    softmax,
    to_numpy,
)
from heads.exposing import expose_cells
from heads.own_models import OWN_MODELS, average, dense, functional
from keras_sdd import expose_spatial_logits, pool_cells


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
@pytest.mark.parametrize("name", ["functional", "convolution", "sequential around a pooled base"])
def test_precisions(name, policy):
    keras.config.set_dtype_policy(policy)
    model = randomize(OWN_MODELS[name]("softmax"))
    twin = OWN_MODELS[name](None)
    twin.set_weights(model.get_weights())
    keras.config.set_dtype_policy("float32")
    exposed, images = expose_spatial_logits(model), draw_images(model)
    assert exposed.dtype_policy.name == policy
    compute_dtype = policy.removeprefix("mixed_")
    dtypes = [keras.backend.standardize_dtype(x.dtype) for x in exposed(images).values()]
    assert dtypes == [compute_dtype, compute_dtype]
    outputs, expected = call(exposed, images), call(twin, images)
    tolerance = {"float16": 3e-3, "bfloat16": 2e-2}[compute_dtype]
    assert_close(outputs["logits"], expected, tolerance)
    assert_close(outputs["spatial_logits"].mean((1, 2)), expected, tolerance)
    assert_shares_weights(exposed, model)
    cells = call(expose_cells(model, (1, 2)), images)["cells"]
    reference = to_numpy(pool_cells(outputs["spatial_logits"].astype("float32"), (1, 2)))
    assert_close(cells, reference, tolerance)


def test_a_float32_classifier_of_a_low_precision_model():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, dtype="mixed_float16")(inputs)
    x = dense("softmax", dtype="float32")(average(dtype="mixed_float16")(x))
    exposed = expose_spatial_logits(keras.Model(inputs, x))
    assert [x.dtype for x in exposed.outputs] == ["float32", "float32"]


def test_low_rank_and_quantized_classifiers():
    model = randomize(functional(average(), dense("softmax")))
    model.get_layer("predictions").enable_lora(2)
    for variable in model.get_layer("predictions").weights:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    exposed, images = expose_spatial_logits(model), draw_images(model)
    assert_close(softmax(call(exposed, images)["logits"]), call(model, images), 1e-6)
    assert_shares_weights(exposed, model)

    plain = randomize(functional(average(), dense()))
    plain.get_layer("predictions").quantize("int8")
    exposed = expose_spatial_logits(plain)
    assert_close(call(exposed, images)["logits"], call(plain, images))
    with_softmax = randomize(functional(average(), dense("softmax")))
    with_softmax.get_layer("predictions").quantize("int8")
    outputs = call(expose_spatial_logits(with_softmax), images)  # undone, not stripped
    assert_close(softmax(outputs["logits"]), call(with_softmax, images), 1e-6)
