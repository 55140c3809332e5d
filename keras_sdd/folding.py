"""Batch norms that a layer next to them can take in, and the weights that it then has."""

import collections
import dataclasses
import math

import keras
import numpy as np
from keras import layers

from keras_sdd.heads import is_kind
from keras_sdd.models.layers import BatchNorm

_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")


@dataclasses.dataclass
class Fold:
    """The batch norms that a layer takes in, each a layer or None."""

    before: layers.Layer | None = None
    after: layers.Layer | None = None


def find_folds(model, nodes):
    """Find the batch norms that can be folded.

    Args:
        model: a functional or Sequential model.
        nodes: the calls that make its outputs, in order.

    Returns:
        Layer's id -> `Fold`, and the ids of the batch norms' nodes.
    """
    calls = collections.Counter(id(node.operation) for node in nodes)
    makers = {id(x): node for node in nodes for x in node.outputs}
    readers = collections.defaultdict(list, {id(x): [None] for x in model.outputs})
    for node in nodes:
        for x in node.input_tensors:
            readers[id(x)].append(node)
    folds: dict = collections.defaultdict(Fold)
    folded = set()
    for node in nodes:
        norm = node.operation
        if not _is_plain_norm(node) or calls[id(norm)] > 1:
            continue
        (x,), (y,) = node.input_tensors, node.outputs
        axis = norm.axis % len(x.shape)
        before = makers.get(id(x)) if len(readers[id(x)]) == 1 else None
        after = readers[id(y)][0] if len(readers[id(y)]) == 1 else None
        if before and calls[id(before.operation)] == 1 and _takes_after(before, axis):
            folds[id(before.operation)].after = norm
        elif after and calls[id(after.operation)] == 1 and _takes_before(after, axis):
            folds[id(after.operation)].before = norm
        else:
            continue
        folded.add(id(node))
    return dict(folds), folded


def _is_plain_norm(node):
    """Whether a call is batch normalization with the moving statistics of inference."""
    norm = node.operation
    plain = is_kind(norm, "BatchNormalization") or type(norm) is BatchNorm
    training = node.arguments.kwargs.get("training") or len(node.arguments.args) > 1
    return plain and not training and len(node.input_tensors) == 1


def _takes(node, axis, kinds):
    """Whether a call is of a plain linear layer of `kinds` with its channels on `axis`."""
    layer = node.operation
    if not is_kind(layer, "Dense", *kinds) or len(node.input_tensors) != 1:
        return False
    if layer.dtype_policy.quantization_mode or getattr(layer, "lora_enabled", False):
        return False
    first = getattr(layer, "data_format", None) == "channels_first"
    return axis == (1 if first else len(node.outputs[0].shape) - 1)


def _takes_after(node, axis):
    """Whether the layer of a call can take in a batch norm of its outputs."""
    kinds = (*_CONVOLUTIONS, *_DEPTHWISE, *_TRANSPOSED, *_SEPARABLE)
    return _takes(node, axis, kinds) and node.operation.activation is keras.activations.linear


def _takes_before(node, axis):
    """Whether the layer of a call can take in a batch norm of its inputs."""
    if not _takes(node, axis, (*_CONVOLUTIONS, *_DEPTHWISE)):
        return False
    # Padding puts zeros where the batch norm would have put its own constant.
    layer = node.operation
    padded = getattr(layer, "padding", "valid") != "valid"
    return not padded or math.prod(layer.kernel_size) == 1


def fold_values(layer, fold):
    """Return kernel(s) and bias in float64 of a layer that takes in the batch norms of a fold."""
    separable = is_kind(layer, *_SEPARABLE)
    kernel = _to_numpy(layer.pointwise_kernel if separable else layer.kernel)
    shape = kernel.shape
    if is_kind(layer, *_TRANSPOSED):  # (..., C_out, C_in)
        kernel = np.swapaxes(kernel, -1, -2)
    elif is_kind(layer, *_DEPTHWISE):  # (..., C, M): C groups of one input and M outputs
        kernel = kernel.reshape(*shape[:-2], 1, -1)
    bias = np.zeros(kernel.shape[-1]) if layer.bias is None else _to_numpy(layer.bias)
    if fold.before is not None:
        scale, offset = _find_affine(fold.before)
        inputs = kernel.shape[-2]
        # Outputs are grouped: those of group g read the inputs of group g.
        grouped = (scale.size // inputs, inputs, 1)
        outputs = kernel.shape[-1] // grouped[0]
        scale, offset = (
            np.repeat(x.reshape(grouped), outputs, axis=-1).transpose(1, 0, 2).reshape(inputs, -1)
            for x in (scale, offset)
        )
        bias = bias + np.sum(kernel * offset, axis=tuple(range(kernel.ndim - 1)))
        kernel = kernel * scale
    if fold.after is not None:
        scale, offset = _find_affine(fold.after)
        kernel, bias = kernel * scale, bias * scale + offset
    if is_kind(layer, *_TRANSPOSED):
        kernel = np.swapaxes(kernel, -1, -2)
    depthwise = [_to_numpy(layer.depthwise_kernel)] if separable else []
    return [*depthwise, kernel.reshape(shape), bias]


def _find_affine(norm):
    """Scale and offset (C,) in float64 that a batch norm applies in inference."""
    mean, variance = _to_numpy(norm.moving_mean), _to_numpy(norm.moving_variance)
    gamma = 1.0 if norm.gamma is None else _to_numpy(norm.gamma)
    beta = 0.0 if norm.beta is None else _to_numpy(norm.beta)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def _to_numpy(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable), "float64")
