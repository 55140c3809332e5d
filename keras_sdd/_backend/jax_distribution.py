"""JAX: one program over all devices, of one host or of several."""

import os

import jax
import keras
from jax.experimental import multihost_utils


def start(timeout):
    if keras.distribution.distribution() is not None:
        raise RuntimeError("A keras.distribution is set already. Call initialize() once.")
    if any(name.startswith("KERAS_DISTRIBUTION_") for name in os.environ):
        keras.distribution.initialize()
    # Keras's own sharding would hand out unequal numbers of batches where the last is incomplete.
    parallel = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices(), auto_shard_dataset=False
    )
    keras.distribution.set_distribution(parallel)
    return {
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "rank": jax.process_index(),
        "equal_parts": True,
    }


def prepare(model):
    """Nothing: variables are replicated, and the step is one program."""


def leave():
    """Let every process compute alone from now on."""
    multihost_utils.sync_global_devices("keras_sdd.distribution.leave")
    keras.distribution.set_distribution(None)
