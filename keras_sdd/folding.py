"""Batch norms folded into the layers next to them: which can be, and the model that has them."""

import collections
import dataclasses
import math

import keras
import numpy as np
from keras import layers

from keras_sdd.graphs import is_functional, is_kind, is_vector, replay, sort_nodes, structure
from keras_sdd.normalization import is_batch_norm
from keras_sdd.regions import PositionwiseClassifier

_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")


@dataclasses.dataclass
class Fold:
    """The batch norms that a layer takes in, each a layer or None."""

    before: layers.Layer | None = None
    after: layers.Layer | None = None


def fold_batch_norm(model):
    """Copy a model for inference, with its batch norms folded into the layers next to them.

    A batch norm is folded into the convolution or Dense layer before it, or after it where no
    padding comes between, if nothing else reads what is between the two. Outputs are those of
    `model` in inference, but for rounding. What cannot be folded stays. Nested functional models
    are folded too; layers of other kinds are copied as they are.

    Args:
        model: a built functional or Sequential model.

    Returns:
        A functional model with the same inputs and outputs, not trainable, sharing nothing with
        `model`.

    Raises:
        ValueError: if `model` is not functional, or a layer cannot be copied from its config.
    """
    if not is_functional(model):
        raise ValueError(
            "`model` must be a built functional or Sequential model; wrap a subclassed one: "
            f"keras.Model(inputs, model(inputs)). Received: {model!r}"
        )
    copy = InferenceCopy(model, share=False).model
    copy.trainable = False
    return copy


class InferenceCopy:
    """A functional model rebuilt for inference.

    Layers that gain from it are copies, not trainable; with `share` the others are those of the
    original itself.

    Args:
        model: the functional or Sequential model.
        dtype: precision of what is copied, then all layers of Keras; None for that of each
            layer. Layers whose outputs are vectors keep float32: logits need it.
        fold: whether to fold batch norms.
        share: whether layers that need no copy are shared.

    Attributes:
        model: the copy.
        num_folded: how many batch norms are folded in it.
    """

    def __init__(self, model, dtype=None, fold=True, share=True):
        self._dtype, self._fold, self._share = dtype, fold, share
        self._copies: dict = {}
        self._sources: list = []  # (copy, layer, its Fold or None)
        self.num_folded = 0
        self.model = self._rebuild(model)
        self.refresh()

    def refresh(self):
        """Compute the values of the copied layers from the original's of now."""
        for copy, layer, fold in self._sources:
            if fold is not None:
                for variable, value in zip(copy.weights, fold_values(layer, fold), strict=True):
                    wide = "float64" if variable.dtype == "float64" else "float32"
                    variable.assign(value.astype(wide))
                continue
            if len(copy.weights) != len(layer.weights):
                raise ValueError(
                    f"The config of layer {layer.name!r} ({type(layer).__name__}) does not make it "
                    f"again. Received: {len(layer.weights)} weights, {len(copy.weights)} in a copy"
                )
            for variable, value in zip(copy.weights, layer.weights, strict=True):
                # A buffer of its own: JAX gives those of a step away.
                variable.assign(keras.ops.copy(keras.ops.cast(value, variable.dtype)))

    def _rebuild(self, model):
        nodes = sort_nodes(model.inputs, model.outputs)
        folds, folded_nodes = find_folds(model, nodes) if self._fold else ({}, set())
        self.num_folded += len(folded_nodes)
        tensors = {
            id(x): keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x._keras_history[0].name)
            for x in model.inputs
        }
        own: dict = {}  # what is folded belongs to this graph alone

        def call(node, args, kwargs):
            if id(node) in folded_nodes:
                return args[0]
            layer = node.operation
            fold = folds.get(id(layer))
            copies = self._copies if fold is None else own
            if id(layer) not in copies:
                copies[id(layer)] = self._copy(node, fold)
            return copies[id(layer)](*args, **kwargs)

        replay(nodes, tensors, call)
        ends = keras.tree.map_structure(lambda x: tensors[id(x)], structure(model))
        rebuilt = keras.Model(*ends, name=model.name)
        rebuilt.dtype_policy = model.dtype_policy
        return rebuilt

    def _copy(self, node, fold):
        """Return what is called in place of a node's operation."""
        operation = node.operation
        if not isinstance(operation, layers.Layer) or node.arguments.kwargs.get("training"):
            return operation
        if is_functional(operation):
            return self._rebuild(operation)
        if isinstance(operation, PositionwiseClassifier) and self._share:
            # The weights are those of the teacher's layer; logits need float32.
            dtype = operation.dtype_policy if self._dtype is None else "float32"
            return type(operation)(operation.layer, dtype=dtype, name=operation.name)
        if type(operation).__module__ == "keras_sdd.regions" and self._share:
            return operation  # it calls the teacher's own layers, each in its precision
        # Other layers may be more than their config says.
        known = type(operation).__module__.startswith(("keras.src.layers.", "keras_sdd."))
        known = known and not isinstance(operation, (layers.Lambda, layers.Wrapper))
        if self._share and fold is None and (self._dtype is None or not known):
            return operation
        config = operation.get_config()
        if fold is not None:
            config |= {"use_bias": True, "trainable": False}
            config |= {key: "zeros" for key in config if key.endswith("kernel_initializer")}
        if self._dtype is not None and known:
            config["dtype"] = self._choose_dtype(operation, node)
        copy = type(operation).from_config(config)
        self._sources.append((copy, operation, fold))
        return copy

    def _choose_dtype(self, layer, node):
        if all(is_vector(x) for x in node.outputs):
            return "float32"
        # Its statistics would suffer.
        is_norm = isinstance(layer, layers.BatchNormalization) and self._dtype != "float32"
        return f"mixed_{self._dtype}" if is_norm else self._dtype


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
