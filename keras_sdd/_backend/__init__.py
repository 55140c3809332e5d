"""The lines of a training step that differ between backends, chosen once at import.

Each backend's module has these functions:

`run_teacher(distiller, frozen, state, x)`: the outputs of a `FrozenTeacher` for `x`, a nested dict
of tensors, in inference mode and outside the gradient. `state` lists what Keras hands
`train_step` before the data: on JAX one item, the values of all variables, elsewhere nothing.

`TELLS_VERSIONS`: whether a variable tells that it was assigned, without a look at its values;
`read_versions(variables)`: something that differs after one of them was. Where they do not tell,
a step computes what follows from them.

`batch_norm(inputs, axis, gamma, beta, epsilon)`: normalize float32 inputs with the statistics of
the batch in one kernel. Returns the outputs, and mean and variance (C,), that of n - 1 in n
values; or None where the backend has no such kernel.

`count_replicas()`: by how many Keras divides losses, so that their sum over replicas is the loss.

`average_over_devices(value)`: the mean over replicas of what each computed in a training step.
`gather_over_devices(value)`: what all of them computed, (B, ...) of each, one after the other.
Neither carries a gradient.

`get_random_state()`, `set_random_state(arrays)`: dict of name to array, of the generators that
layers draw from beside Keras's own, which are variables; empty where there are none.

`BACKEND_distribution.py` holds what `keras_sdd.distribution` needs of a backend.
"""

import importlib
import types

import keras

_module = importlib.import_module(f"keras_sdd._backend.{keras.backend.backend()}")
run_teacher = _module.run_teacher
TELLS_VERSIONS = _module.TELLS_VERSIONS
read_versions = _module.read_versions
batch_norm = _module.batch_norm
count_replicas = _module.count_replicas
average_over_devices = _module.average_over_devices
gather_over_devices = _module.gather_over_devices
get_random_state = _module.get_random_state
set_random_state = _module.set_random_state


def bind(instance, name):
    """A method as the class has it, so that what is put in its place can be put there twice."""
    return types.MethodType(getattr(type(instance), name), instance)


def list_statistics(model):
    """The moving statistics of a model, which devices average: what a distiller says, or all."""
    variables = getattr(model, "moving_statistics", model.non_trainable_variables)
    return [v for v in variables if keras.backend.is_float_dtype(v.dtype)]
