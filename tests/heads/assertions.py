"""Calling models with NumPy arrays, and what the tests of heads compare."""

import json

import keras
import numpy as np
from keras import ops


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def call(model, images, **kwargs):
    return keras.tree.map_structure(to_numpy, model(images, **kwargs))


def draw_images(model, size=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (size, *model.inputs[0].shape[1:])
    return rng.uniform(0.0, 2.0, shape).astype("float32")


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def assert_close(actual, desired, tolerance=2e-5):
    """Equal within `tolerance` times the largest value."""
    assert actual.shape == desired.shape
    np.testing.assert_allclose(
        actual, desired, rtol=0, atol=tolerance * max(1.0, np.abs(desired).max())
    )


def assert_shares_weights(exposed, model):
    weights = [v for v in exposed.weights if not v.path.endswith("weights_of_cells")]
    assert {id(v) for v in weights} == {id(v) for v in model.weights}
    assert len(weights) == len(model.weights)


def assert_positions_differ(spatial_logits):
    """A map whose positions were all equal would pass any test."""
    assert spatial_logits.shape[1] * spatial_logits.shape[2] > 1
    assert np.ptp(spatial_logits, axis=(1, 2)).max() > 1e-2


def config_of(model):
    return json.dumps(model.get_config(), default=str, sort_keys=True)
