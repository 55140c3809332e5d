"""The lines of a training step that differ between backends, chosen once at import.

Each backend's module has one function:

`run_teacher(distiller, network, state, x)`: the outputs of the teacher's `network` for `x`, in
inference mode and outside the gradient. `state` lists what Keras hands `train_step` before the
data: on JAX one item, the values of all variables, elsewhere nothing.
"""

import importlib

import keras

run_teacher = importlib.import_module(f"keras_sdd._backend.{keras.backend.backend()}").run_teacher
