"""Which batch norms can be folded into the layers next to them, and the weights that come of it."""

import collections
import dataclasses
import math

import keras
import numpy as np
from keras import layers, ops

from keras_sdd.graphs import is_kind
from keras_sdd.normalization import is_batch_norm

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
    training = node.arguments.kwargs.get("training") or len(node.arguments.args) > 1
    return is_batch_norm(norm) and not training and len(node.input_tensors) == 1


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


def fold_values(layer, fold, xp=np, dtype="float64"):
    """Kernel(s) and bias of a layer that takes in the batch norms of a fold.

    Args:
        layer: a convolution or Dense layer.
        fold: its `Fold`.
        xp: what computes: NumPy, or `keras.ops` in a training step.
        dtype: in which.

    Returns:
        List of arrays, or tensors, in the order of the weights of a layer with a bias.
    """

    def read(variable):
        if xp is np:
            return np.asarray(ops.convert_to_numpy(variable), dtype)
        return ops.cast(variable, dtype)

    separable = is_kind(layer, *_SEPARABLE)
    kernel = read(layer.pointwise_kernel if separable else layer.kernel)
    shape = tuple(kernel.shape)
    if is_kind(layer, *_TRANSPOSED):  # (..., C_out, C_in)
        kernel = xp.swapaxes(kernel, -1, -2)
    elif is_kind(layer, *_DEPTHWISE):  # (..., C, M): C groups of one input and M outputs
        kernel = xp.reshape(kernel, (*shape[:-2], 1, -1))
    bias = None if layer.bias is None else read(layer.bias)
    if fold.before is not None:
        scale, offset = _find_affine(fold.before, read, xp)
        inputs, outputs = kernel.shape[-2:]
        # Outputs are grouped: those of group g read the inputs of group g.
        groups = scale.shape[0] // inputs
        scale, offset = (
            xp.reshape(
                xp.transpose(
                    xp.repeat(xp.reshape(x, (groups, inputs, 1)), outputs // groups, axis=-1),
                    (1, 0, 2),
                ),
                (inputs, -1),
            )
            for x in (scale, offset)
        )
        moved = xp.sum(kernel * offset, axis=tuple(range(len(kernel.shape) - 1)))
        bias = moved if bias is None else bias + moved
        kernel = kernel * scale
    if fold.after is not None:
        scale, offset = _find_affine(fold.after, read, xp)
        kernel, bias = kernel * scale, offset if bias is None else bias * scale + offset
    if is_kind(layer, *_TRANSPOSED):
        kernel = xp.swapaxes(kernel, -1, -2)
    depthwise = [read(layer.depthwise_kernel)] if separable else []
    return [*depthwise, xp.reshape(kernel, shape), bias]


def _find_affine(norm, read, xp):
    """Scale and offset (C,) that a batch norm applies in inference."""
    mean, variance = read(norm.moving_mean), read(norm.moving_variance)
    scale = 1.0 / xp.sqrt(variance + norm.epsilon)
    if norm.gamma is not None:
        scale = scale * read(norm.gamma)
    offset = -mean * scale
    return scale, offset if norm.beta is None else offset + read(norm.beta)
