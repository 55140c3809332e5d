"""Networks of known weights for the tests, from recorded names and shapes."""

import contextlib
import json
import pathlib

import keras
import numpy as np
import pytest
from fixtures.weights import make_state_dict

from keras_sdd import converters, models

FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "models"
# For each network: `state_dict` (names and shapes), `parameters`, `input_shape_nchw`.
RECORDS = json.loads((FIXTURES / "state_dicts.json").read_text())


@contextlib.contextmanager
def zero_initialization():
    """Zeros where values do not matter: JAX compiles a random draw for every shape."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (keras.initializers.RandomNormal, keras.initializers.RandomUniform):
            patch.setattr(kind, "__call__", lambda self, shape, dtype=None: np.zeros(shape))
        yield


def build_empty(*args, **kwargs):
    """`models.build` with zeros for weights."""
    with zero_initialization():
        return models.build(*args, **kwargs)


def make_entries(name, seed):
    """A PyTorch state dict for a recorded network."""
    return make_state_dict(RECORDS[name]["state_dict"], seed)


def build_filled(name, seed=0, **kwargs):
    """`models.build` with the weights of `make_entries`."""
    return converters.load_torch_state_dict(build_empty(name, **kwargs), make_entries(name, seed))
