"""Teachers that are no Keras models as they come: of PyTorch, of JAX, with other classes."""

from keras_sdd.teachers.class_maps import select_classes
from keras_sdd.teachers.jax_teachers import from_jax
from keras_sdd.teachers.torch_teachers import from_torch

__all__ = ["from_jax", "from_torch", "select_classes"]
