"""The losses and terms of one's own in the docs make training lower their value."""

import pathlib
import re

import keras
import numpy as np
import pytest
from backends import BACKEND
from small_classifiers import build_cnn, draw_data

import keras_sdd
from keras_sdd import losses

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "own_loss.md"
X, Y = draw_data()


def find_classes(text):
    """The classes that are defined in the code blocks of a text."""
    found = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "class " in block:
            names = {"keras": keras, "keras_sdd": keras_sdd}
            exec(re.split(r"^distiller = ", block, flags=re.M)[0], names)
            found += [x for x in names.values() if isinstance(x, type)]
    return found


EXAMPLES = find_classes(PAGE.read_text())


def test_all_are_found():
    names = [x.__name__ for x in EXAMPLES]
    assert names == ["MeanSquaredLogits", "EmbeddingDistance", "ChannelMeans"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda x: x.__name__)
def test_example(example):
    # Both of 16 channels: the shortest example compares embeddings of one size.
    options = {"distillation_loss": example()} if issubclass(example, losses.LogitLoss) else {}
    further = [] if options else [example()]
    distiller = keras_sdd.SDDDistiller(
        build_cnn(8), build_cnn(8), feature_losses=further, **options
    )
    distiller.compile(keras.optimizers.Adam(0.01), jit_compile=BACKEND == "jax")
    logs = distiller.fit(X, Y, epochs=5, verbose=0).history[distiller.terms[-1].name]
    assert np.isfinite(logs).all() and logs[-1] < logs[0]
