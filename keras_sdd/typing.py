"""Names that annotations use. All are `Any` or made of it: Keras and the backends have no types.

What an array's axes are, and whether it holds numbers or symbols, is said where it is used, as in
`logits (B, K)`: batch, classes; `maps (B, H, W, C)`: batch, height, width, channels; `cells
(B, N, K)`: batch, regions, classes.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras

__all__ = ["Config", "Dataset", "LayerPairs", "Shape", "Tensor"]

Tensor: TypeAlias = Any
"""A tensor of the backend that Keras runs on, also a symbolic `keras.KerasTensor`. As an argument
of losses, and of what else computes, a NumPy array too; what comes back is the backend's."""

Dataset: TypeAlias = Any
"""A `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch `DataLoader`, or arrays in a tuple;
which of them, is said where it is used."""

Shape: TypeAlias = tuple[Any, ...]
"""Sizes of the axes, integers; None where one is not known."""

LayerPairs: TypeAlias = Sequence[tuple[str | keras.layers.Layer, str | keras.layers.Layer]]
"""Layers to compare, or their names: (teacher's, student's) of each pair."""

Config: TypeAlias = dict[str, Any]
"""What Keras saves of an object: its arguments, by name."""
