"""What computes, and how: precision, determinism, devices, compilation, all from a config."""

import os

import keras

from configs import recipes
from keras_sdd import distribution
from training.command_line import SetupError

_JIT_COMPILE = {"auto": "auto", "true": True, "false": False}


def setup_devices(config, distribute=False):
    """Set precision, determinism and devices; to be called before anything touches a device.

    Args:
        config: of the experiment.
        distribute: whether to train on all devices, instead of the one the backend takes.

    Returns:
        `keras_sdd.distribution.Devices`.
    """
    import tensorflow as tf  # every backend's data come through it

    keras.config.set_dtype_policy(config.dtype_policy)
    backend = keras.backend.backend()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and backend != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # it would take the memory of the other
    for gpu in gpus if backend == "tensorflow" else ():
        tf.config.experimental.set_memory_growth(gpu, True)
    if config.deterministic:
        _make_deterministic(backend)
    if not distribute:
        return distribution.Devices()
    try:
        devices = distribution.initialize()
    except RuntimeError as error:
        raise SetupError(error) from error
    if config.batch_size % devices.num_devices:
        raise SetupError(
            f"The {devices.num_devices} devices share a batch: their number must divide it. "
            f"Received: batch_size={config.batch_size}"
        )
    return devices


def describe_device():
    """Return the name of the GPU, or of what else computes."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"


def _make_deterministic(backend):
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "jax":
        xla_flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{xla_flags} --xla_gpu_deterministic_ops=true"
    else:
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def choose_jit_compile(config):
    """Return the argument of `compile`."""
    chosen = _JIT_COMPILE[recipes.pick("jit_compile", config.jit_compile, _JIT_COMPILE)]
    # XLA's convolutions for CPUs take about three times as long as TensorFlow's own.
    slow = keras.backend.backend() == "tensorflow" and describe_device() == "cpu"
    return False if chosen == "auto" and slow else chosen
