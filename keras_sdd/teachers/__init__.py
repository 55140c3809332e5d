"""Teachers that are no Keras models as they come: of PyTorch, of JAX, with other classes."""

from keras_sdd.teachers.torch_teachers import from_torch

__all__ = ["from_torch"]
