"""TensorFlow: a strategy from the first call on; Keras's trainer runs its steps under it."""

import os

import tensorflow as tf


def start(timeout):
    if tf.distribute.has_strategy():
        raise RuntimeError("A tf.distribute strategy is set already. Call initialize() once.")
    if "TF_CONFIG" in os.environ:
        raise RuntimeError(
            "Keras 3 cannot train under tf.distribute.MultiWorkerMirroredStrategy: its `fit` fails "
            "on the first batch. Use KERAS_BACKEND=jax or torch for several machines, or unset "
            f"TF_CONFIG for one. Received: TF_CONFIG={os.environ['TF_CONFIG']!r}"
        )
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    strategy = tf.distribute.MirroredStrategy(devices)
    tf.distribute.experimental_set_strategy(strategy)
    return {"num_devices": strategy.num_replicas_in_sync}


def prepare(model):
    """Nothing: the strategy was there when the model was built."""
