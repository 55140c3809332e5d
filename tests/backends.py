"""Values and gradients as NumPy arrays, on whichever backend runs."""

import functools

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def to_numpy(x):
    if BACKEND == "torch":
        x = x.detach().cpu()
    return np.asarray(x)


@functools.cache
def compiled(function):
    """The function, compiled where running it operation by operation would be slow."""
    if BACKEND != "jax":
        return function
    import jax

    return jax.jit(function)


def evaluate(function, *arrays):
    """Return `function(*arrays)` as a NumPy array."""
    return to_numpy(compiled(function)(*arrays))


@functools.cache
def differentiated(function):
    """The function with its gradient, compiled by JAX once for all calls of the same function."""
    import jax

    return jax.jit(jax.value_and_grad(function))


def value_and_gradient(function, x):
    """Return the scalar `function(x)` and its gradient as NumPy arrays."""
    if BACKEND == "jax":
        value, gradient = differentiated(function)(x)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        gradient = tape.gradient(value, x)
    else:
        x = ops.convert_to_tensor(x).clone().requires_grad_(True)
        value = function(x)
        value.backward()
        gradient = x.grad
    return to_numpy(value), to_numpy(gradient)
