"""The README's term of one's own, as it stands there, trains on every backend."""

import pathlib
import re

import keras
import numpy as np
from backends import BACKEND
from classifiers import build_cnn, draw_data

import keras_sdd

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_term_of_ones_own():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = (x for x in blocks if "keras_sdd.terms.Term" in x)
    names = {"keras": keras, "keras_sdd": keras_sdd}
    exec(block, names)
    x, y = draw_data()
    distiller = keras_sdd.SDDDistiller(
        build_cnn(8), build_cnn(4), feature_losses=[names["EmbeddingDistance"]()]
    )
    distiller.compile(keras.optimizers.Adam(0.01), jit_compile=BACKEND == "jax")
    logs = distiller.fit(x, y, epochs=5, verbose=0).history["embedding_distance_loss"]
    assert np.isfinite(logs).all() and logs[-1] < logs[0]
