"""Losses and terms, as README and docstrings show them, train on every backend."""

import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
from backends import BACKEND
from classifiers import build_cnn, draw_data

import keras_sdd
from keras_sdd import losses, terms

README = pathlib.Path(__file__).parents[1] / "README.md"
X, Y = draw_data()


def find_classes(text):
    """The classes that are defined in the code blocks of a text."""
    found = []
    for block in re.findall(r"```python\n(.*?)```", inspect.cleandoc(text), re.DOTALL):
        if "class " in block:
            names = {"keras": keras, "keras_sdd": keras_sdd}
            exec(block, names)
            found += [x for x in names.values() if isinstance(x, type)]
    return found


EXAMPLES = [
    *find_classes(README.read_text()),
    *(x for kind in (terms.Term, terms.FeatureTerm) for x in find_classes(kind.__doc__)),
    *find_classes(losses.LogitLoss.__doc__),
]


def test_all_are_found():
    names = [x.__name__ for x in EXAMPLES]
    assert names == [
        "MeanSquaredLogits", "EmbeddingDistance", "EmbeddingDistance", "ChannelMeans",
        "MeanSquaredLogits",
    ]  # fmt: skip


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


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_terms_of_the_readme():
    (block,) = re.findall(r"```python\n([^`]*CRD\([^`]*)```", README.read_text())
    names = {"keras": keras, "keras_sdd": keras_sdd, "x_train": X, "y_train": Y}
    exec(block, names | {"teacher": build_cnn(8), "student": build_cnn(4)})
