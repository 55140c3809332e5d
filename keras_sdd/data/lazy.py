"""TensorFlow and TensorFlow Datasets, imported when the first of their attributes is read.

They read the data on every backend, but JAX and PyTorch need neither until a data set is loaded.
"""

import importlib

_INSTALL = (
    "Data sets are read by TensorFlow and TensorFlow Datasets, whichever backend trains. "
    "Install both with: pip install 'keras-sdd[data]'."
)


def import_module(name):
    """Return the module `name`.

    Raises:
        ImportError: if it is missing, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{_INSTALL} Received: {error}") from error


class LazyModule:
    """Stands for the module `name`: its attributes are those of the module."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        # A look-up each time: Python keeps imported modules, so nothing has to be kept here.
        return getattr(import_module(self._name), attribute)


tf = LazyModule("tensorflow")
tfds = LazyModule("tensorflow_datasets")
