"""Checkpoints: PyTorch state dicts into the networks of `keras_sdd.models`, and back.

An entry of a state dict is matched by its name: the layer's name with `.` for `_`, then
PyTorch's word for the variable.
"""

import collections.abc
import math
import os
import pickle
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

__all__ = ["load_torch_state_dict", "to_torch_state_dict"]

_ENTRY_WORDS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Axes of the PyTorch kernel in the order of the Keras kernel.
_KERNEL_AXES = {
    layers.Conv2D: (2, 3, 1, 0),
    layers.DepthwiseConv2D: (2, 3, 0, 1),
    layers.Dense: (1, 0),
    # A 1x1 convolution in groups, after (O, C, 1, 1) was read as (groups, O / groups, C).
    layers.EinsumDense: (0, 2, 1),
}
_WRAPPINGS = ("model", "state_dict")
# What programs keep a network under; in front of a distiller's student other parts may stand.
_STUDENT_PREFIXES = ("module.student.", "student.")
_PREFIXES = ("", *_STUDENT_PREFIXES, "module.model.", "model.module.", "model.", "module.")
_COUNTER = "num_batches_tracked"


def load_torch_state_dict(
    model: keras.Model, state_dict: Mapping[str, Any] | str | os.PathLike[str]
) -> keras.Model:
    """Fill a network with the weights of its PyTorch original.

    Every weight of `model` is set and every entry used, batch counters aside; otherwise the
    model stays as it was.

    Args:
        model: a model built by `keras_sdd.models.build`.
        state_dict: mapping of entry name to NumPy array or PyTorch tensor, or the path of a
            file that `torch.save` wrote, whatever its suffix. It may be wrapped in a mapping under
            `"model"` or `"state_dict"`, and its names may start with `"module."`, `"model."` or
            both. Of names that start with `"student."` or `"module.student."` the student is taken
            alone, and not the teacher and the other parts of a distiller beside it.

    Returns:
        `model`.

    Raises:
        ValueError: for missing entries, entries without a weight, or shapes that differ, with
            their names; for a file that is damaged, or holds more than tensors and plain values.
        ImportError: for a file, if PyTorch is not installed.
        TypeError: if `state_dict` is neither a mapping nor a path.

    Examples:
        >>> models = [keras_sdd.models.build("small/cnn_8_16_32") for _ in range(2)]
        >>> state_dict = keras_sdd.converters.to_torch_state_dict(models[0])  # or "network.pth"
        >>> model = keras_sdd.converters.load_torch_state_dict(models[1], {"model": state_dict})
        >>> kernels = [keras.ops.convert_to_numpy(x.get_layer("fc").kernel) for x in models]
        >>> bool(np.all(kernels[0] == kernels[1])), model is models[1]
        (True, True)
    """
    weights = _name_weights(model)
    entries = _strip_prefix(_read_entries(state_dict), weights)
    expected = {
        name: _to_torch(layer, np.broadcast_to(np.float32(0), variable.shape)).shape
        for name, (layer, variable) in weights.items()
    }
    received = {name: tuple(getattr(value, "shape", ())) for name, value in entries.items()}
    _check_entries(model.name, expected, received)
    # All conversions come before the first assignment: one that fails leaves the model whole.
    values = {
        name: _to_keras(layer, _to_numpy(entries[name], variable.dtype), variable.shape)
        for name, (layer, variable) in weights.items()
    }
    for name, (_, variable) in weights.items():
        variable.assign(values[name])
    return model


def to_torch_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the weights of a network as its PyTorch original would hold them.

    Args:
        model: a model built by `keras_sdd.models.build`.

    Returns:
        dict of entry name to NumPy array, in PyTorch's layout and without batch counters.

    Raises:
        ValueError: if `model` is none of `keras_sdd.models.build`.

    Examples:
        >>> model = keras_sdd.models.build("small/cnn_8_16_32")
        >>> state_dict = keras_sdd.converters.to_torch_state_dict(model)
        >>> state_dict["conv1.weight"].shape, state_dict["fc.weight"].shape  # (O, I, H, W), (O, I)
        ((16, 8, 3, 3), (10, 32))
    """
    return {
        name: _to_torch(layer, keras.ops.convert_to_numpy(variable))
        for name, (layer, variable) in _name_weights(model).items()
    }


def _read_entries(state_dict: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """Unwrap a state dict and drop the batch counters."""
    if isinstance(state_dict, (str, os.PathLike)):
        state_dict = _read_file(state_dict)
    entries = state_dict
    while isinstance(entries, collections.abc.Mapping):
        inner = [entries[key] for key in _WRAPPINGS if key in entries]
        if len(inner) != 1 or not isinstance(inner[0], collections.abc.Mapping):
            break
        entries = inner[0]
    if not isinstance(entries, collections.abc.Mapping):
        raise TypeError(
            "`state_dict` must be a mapping of names to arrays or the path of a .pth file. "
            f"Received: {type(entries).__name__}"
        )
    return {str(k): value for k, value in entries.items() if not str(k).endswith(_COUNTER)}


def _strip_prefix(entries: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Entries without the prefix under which those of some weights are found.

    Names of a network may start as a prefix does: what they are is decided by those that it has.
    """
    prefix = next((x for x in _PREFIXES if any(x + name in entries for name in weights)), "")
    if prefix in _STUDENT_PREFIXES:
        entries = {name: value for name, value in entries.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in entries.items()}


def _read_file(path: str | os.PathLike[str]) -> Any:
    try:
        import torch  # only files need it
    except ImportError as error:
        raise ImportError(
            "Reading a PyTorch file needs PyTorch: install `torch`, or pass a mapping of entry "
            f"names to NumPy arrays. Received: state_dict={os.fspath(path)!r}"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):  # a file that is missing or too large is not damaged
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            "The file is damaged or holds Python objects beside tensors, and unpickling those "
            "can run code. If you trust it, load it with PyTorch yourself and pass its state "
            f"dict. Received: state_dict={os.fspath(path)!r}"
        ) from error
    except Exception as error:  # of many kinds, as damaged bytes can mean anything to a pickle
        raise ValueError(
            "The file is damaged, cut off or none of torch.save; copy or download it again. "
            f"Received: state_dict={os.fspath(path)!r}"
        ) from error


def _name_weights(model: keras.Model) -> dict[str, Any]:
    """Map entry names to (layer, variable)."""
    weights = {}
    for layer in model.layers:
        if layer.weights and not isinstance(layer, (*_KERNEL_AXES, layers.BatchNormalization)):
            raise ValueError(
                "Only the networks of `keras_sdd.models.build` can be converted, before their "
                f"heads are exposed. Received: model {model.name!r}, whose layer {layer.name!r} "
                f"is of type {type(layer).__name__}"
            )
        for variable in layer.weights:
            entry = f"{layer.name.replace('_', '.')}.{_ENTRY_WORDS[variable.name]}"
            weights[entry] = (layer, variable)
    return weights


def _check_entries(
    model_name: str, expected: dict[str, tuple[int, ...]], received: dict[str, tuple[int, ...]]
) -> None:
    lines = [f"missing: {name} {expected[name]}" for name in expected if name not in received]
    lines += [f"without a weight: {name}" for name in received if name not in expected]
    lines += [
        f"of another shape: {name}, expected {shape}, received {received[name]}"
        for name, shape in expected.items()
        if received.get(name, shape) != shape
    ]
    if lines and not expected.keys() & received.keys():
        _check_prefix(model_name, expected, received)
    if lines:
        raise ValueError(
            f"The state dict does not fit the model {model_name!r}, which is unchanged. Build "
            "the model that was saved, with its number of classes. Entries\n  " + "\n  ".join(lines)
        )


def _check_prefix(
    model_name: str, expected: dict[str, tuple[int, ...]], received: dict[str, tuple[int, ...]]
) -> None:
    """Raise a ValueError if all weights are there, under a prefix that is not known."""
    first = next(iter(expected), "")
    prefixes = [x.removesuffix(first) for x in received if x.endswith(f".{first}")]
    found = [x for x in prefixes if all(x + name in received for name in expected)]
    if found:
        prefix = found[0]
        raise ValueError(
            f"The state dict has the weights of the model {model_name!r} under the prefix "
            f"{prefix!r}. Give {{name.removeprefix({prefix!r}): value for name, value in "
            f"state_dict.items() if name.startswith({prefix!r})}}. Received: names as "
            f"{prefix + first!r}"
        )


def _kernel_axes(layer: keras.layers.Layer, rank: int) -> tuple[int, ...]:
    """PyTorch's axes in Keras's order."""
    if rank == 1:
        return (0,)
    return next(axes for kind, axes in _KERNEL_AXES.items() if isinstance(layer, kind))


def _to_keras(layer: keras.layers.Layer, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(layer, layers.EinsumDense):
        groups, channels, filters = shape
        value = value.reshape(groups, filters, channels)
    return value.transpose(_kernel_axes(layer, len(shape)))


def _to_torch(layer: keras.layers.Layer, value: np.ndarray) -> np.ndarray:
    value = value.transpose(np.argsort(_kernel_axes(layer, value.ndim)))
    if isinstance(layer, layers.EinsumDense):
        value = value.reshape(math.prod(value.shape[:2]), value.shape[2], 1, 1)
    return value


def _to_numpy(value: Any, dtype: str) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().double()  # NumPy has no bfloat16
    return np.asarray(value, dtype="float64" if dtype == "float64" else "float32")
