"""Every test starts from the same seed and Keras's defaults."""

import tempfile

import keras
import pytest


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """Let tests that compile the same step share it: most of their time on JAX is compilation.

    The environment says the same to the programs that tests start.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        options = {
            "jax_compilation_cache_dir": folder,
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        for name, value in options.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session", autouse=True)
def variables_before_tracing():
    """Let TensorFlow trace a step once, as other backends and distribution strategies do.

    Keras leaves the optimizer and the metrics to the first trace of a step, and TensorFlow traces
    again what has created variables. The programs that tests start keep that way.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        build = keras.Model._symbolic_build
        patch.setattr(keras.Model, "_maybe_symbolic_build", build, raising=False)
        yield
