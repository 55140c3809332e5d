"""A teacher in an ONNX file, run by ONNX Runtime, for a student on any backend.

    KERAS_BACKEND=torch python examples/onnx_teacher.py

A map of logits has to be among the file's outputs; that of a Keras model is what
`keras_sdd.expose_spatial_logits` adds. Here the file is made first, which Keras does on TensorFlow
and PyTorch; with a file at hand, the student trains on JAX too.
"""

# %% Images: handwritten digits, 16 x 16.
import pathlib
import tempfile

import keras
import numpy as np
import onnxruntime
from sklearn import datasets

import keras_sdd

keras.utils.set_random_seed(0)
digits, labels = datasets.load_digits(return_X_y=True)
images = np.kron(digits.reshape(-1, 8, 8, 1) / 16, np.ones((1, 2, 2, 1))).astype("float32")
train, test = (images[:1000], labels[:1000]), (images[1000:], labels[1000:])
folder = pathlib.Path(tempfile.mkdtemp())


# %% A file to begin with: a trained network that gives its map of logits beside the logits.
def build(*widths):
    """A classifier of two convolutions."""
    return keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(widths[0], 3, strides=2, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(widths[1], 3, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


network = build(32, 64)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
network.compile(keras.optimizers.Adam(5e-3), loss, jit_compile=False)
network.fit(*train, epochs=30, verbose=0)
exposed = keras_sdd.expose_spatial_logits(network)
exposed.predict(test[0][:1], verbose=0)  # Keras exports what was called
exposed.export(folder / "teacher.onnx", format="onnx", verbose=False)

# %% From here on, the file is all there is of the teacher.
session = onnxruntime.InferenceSession(folder / "teacher.onnx")
name = session.get_inputs()[0].name


def teacher(images):
    """Maps of logits (B, H, W, K): of the file's outputs the one with four axes."""
    return next(x for x in session.run(None, {name: images}) if x.ndim == 4)


right = np.mean(teacher(test[0]).mean((1, 2)).argmax(-1) == test[1])
print(f"teacher, by ONNX Runtime: {right:.1%} of {len(test[1])} test images")

# %% What it gives for the training images is kept, and stands for it in the distiller.
cells = keras_sdd.cache_outputs(teacher, train, folder / "cells", scales=(1, 2, 4), verbose=0)
stored = keras_sdd.StoredTeacher(folder / "cells")
distiller = keras_sdd.SDDDistiller(stored, build(16, 32), scales=(1, 2, 4))
distiller.compile(keras.optimizers.Adam(5e-3), metrics=["accuracy"], jit_compile=False)
distiller.fit(cells, epochs=30, verbose=0)
result = distiller.evaluate(*test, verbose=0, return_dict=True)
print(f"student, on {keras.backend.backend()}: {result['accuracy']:.1%}")
