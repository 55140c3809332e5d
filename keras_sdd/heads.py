"""Spatial-logit heads: finding the classifier of a model and applying it to regions.

A classifier that is linear in the pooled map gives the logits of any region: those of the region's
average (eq. 4-5 of the SDD paper). The search walks from the model's output back to the pooled
map, into nested models where it must; the head is then rebuilt on the model's own layers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers, ops

from keras_sdd.graphs import find_makers, is_functional, is_kind, is_vector, lift, rebuild
from keras_sdd.normalization import is_batch_norm

_LINEAR, _SOFTMAXES = keras.activations.linear, (keras.activations.softmax, ops.softmax)
_RESHAPES = ("Reshape", "Flatten", "Identity", "Squeeze", "Cast")
_OTHERWISE = 'give the model outputs {"logits", "spatial_logits"}, or use scales=(1,) for plain KD'
_DROPOUTS = ("Dropout", "GaussianDropout", "GaussianNoise")
_MAXIMA = ("GlobalMaxPooling2D", "GlobalMaxPooling1D")


@keras.saving.register_keras_serializable(package="keras_sdd")
class PositionwiseClassifier(layers.Wrapper):
    """A Dense or 1x1 Conv2D `layer` at every position, (..., C) to (..., K), without its softmax.

    It has no weights of its own. Layers of other kinds are called on vectors (B, C).
    """

    def __init__(self, layer, **kwargs):
        defaults = {"dtype": layer.compute_dtype, "name": f"{layer.name}_positionwise"}
        super().__init__(layer, **defaults | kwargs)

    def call(self, inputs):
        layer = self.layer
        if not _is_linear(layer, at_end=True) or layer.dtype_policy.quantization_mode is not None:
            outputs = layer(ops.reshape(inputs, (-1, inputs.shape[-1])))
            return ops.reshape(outputs, (*ops.shape(inputs)[:-1], outputs.shape[-1]))
        kernel = ops.reshape(layer.kernel, tuple(layer.kernel.shape[-2:]))
        outputs = ops.matmul(inputs, ops.cast(kernel, self.compute_dtype))
        return outputs if layer.bias is None else outputs + ops.cast(layer.bias, outputs.dtype)


def expose_spatial_logits(model, feature_layer=None, classifier_layer=None):
    """Give a classifier a second output: the logits of every position of its last map.

    Finds global average pooling, then (dropout, reshape, flatten), then Dense layers or a 1x1
    convolution, also inside nested models, and strips a final softmax. All weights are shared
    with `model`, none copied.

    Args:
        model: a built functional or Sequential Keras classifier with one output (B, K), or a
            functional model whose outputs are `{"logits", "spatial_logits"}` already.
        feature_layer: layer, or name of one, whose output is pooled. Needed to read the tokens
            (B, T, C) of a transformer as a square map, or to take the map before a maximum
            pooling (whose global logits are then not the mean of the spatial ones).
        classifier_layer: layer, or name of one, that takes (..., C) to (..., K) logits. Needed
            where it is neither Dense nor Conv2D; you vouch for its being linear.

    Returns:
        A functional model on the inputs of `model` with outputs
        `{"logits": (B, K), "spatial_logits": (B, H, W, K)}`.

    Raises:
        ValueError: if the head cannot be exposed, with the layer in the way and the remedy.

    Source: eq. 4 and 5 of "Scale Decoupled Distillation" (CVPR 2024).
    """
    check_classifier(model)
    if is_exposed(model):
        return model
    head = find_head(model, feature_layer, classifier_layer)
    outputs = {"logits": head.classify(head.vector), "spatial_logits": head.classify(head.maps)}
    return rebuild(model, outputs)


def is_exposed(model):
    """Whether the outputs of a functional model are `{"logits", "spatial_logits"}`."""
    outputs = getattr(model, "output", None)
    return isinstance(outputs, dict) and set(outputs) == {"logits", "spatial_logits"}


def class_logits(model):
    """The symbolic output (B, K) of a functional classifier, exposed or not."""
    return model.output["logits"] if is_exposed(model) else model.outputs[0]


def check_classifier(model):
    """Raise a ValueError if `model` is no built functional classifier with one output (B, K)."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model. Received: {model!r}")
    shapes = [tuple(x.shape) for x in model.outputs] if is_functional(model) else []
    if len(shapes) == 1 or (shapes and is_exposed(model)):
        logits = tuple(class_logits(model).shape)
        maps = tuple(model.output["spatial_logits"].shape) if is_exposed(model) else (0, 0, *logits)
        if (len(logits), len(maps), logits[-1]) == (2, 4, maps[-1]) and (logits[-1] or 0) > 1:
            return
    if shapes:
        fault = (
            "must have one output, logits (B, K) of 2 or more classes, or outputs "
            '{"logits": (B, K), "spatial_logits": (B, H, W, K)}; choose with '
            f"keras.Model(model.inputs, model.outputs[i]). Received: outputs of shapes {shapes}"
        )
    elif isinstance(model, keras.Sequential):
        fault = "is not built: begin it with keras.Input(shape), or call model.build(input_shape)"
    else:
        fault = (
            "is subclassed: its layers cannot be searched. Build it as a functional model, or let "
            '`call` return {"logits", "spatial_logits"} and use keras.Model(inputs, model(inputs))'
        )
    raise ValueError(f"The model {model.name!r} ({type(model).__name__}) {fault}.")


@dataclasses.dataclass(frozen=True)
class Head:
    """What a classifier pools, and what it makes of that.

    Attributes:
        vector: symbolic (B, C), the model's own pooling of the whole map.
        maps: symbolic (B, H, W, C), what it pools; None if that was not looked for.
        operations: what takes features (..., C) to logits (..., K), in order.
    """

    vector: Any
    maps: Any
    operations: tuple[Callable, ...]

    def classify(self, features):
        """Symbolic logits (..., K) of features (..., C)."""
        for operation in self.operations:
            features = operation(features)
        return features


def find_head(model, feature_layer=None, classifier_layer=None, logits_only=False, frozen=False):
    """Find the `Head` of a functional classifier.

    With `logits_only` any pooling will do, also none: the vector is then what the last layer takes,
    and the map is None. A head that is `frozen`, in inference mode for good, may have batch norms,
    which are linear then. The other arguments and the errors are those of `expose_spatial_logits`.
    """
    if is_exposed(model):
        return Head(model.output["logits"], model.output["spatial_logits"], ())
    operations: list[Callable] = []
    for node, tensor, calls in _walk_back(model):
        operation, at_end = node.operation, not operations
        data_format = None if at_end else _pooled_format(operation, tensor, feature_layer)
        if _is_linear(operation, at_end, classifier_layer):
            if at_end and classifier_layer not in (None, operation, operation.name):
                _refuse(operation, f"is the classifier, not classifier_layer={classifier_layer!r}")
            operations.insert(0, PositionwiseClassifier(operation))
        elif data_format:
            _check_features(operation, tensor, data_format, feature_layer)
        elif is_kind(operation, *_DROPOUTS) and not operation.input_spec and not at_end:
            # Called as the model calls it: some drop in inference too, with training=True.
            operations.insert(0, functools.partial(operation, **node.arguments.kwargs))
        elif frozen and not at_end and is_batch_norm(operation) and len(tensor.shape) == 2:
            operations.insert(0, PositionwiseClassifier(operation))
        elif not _keeps_vector(operation, tensor, at_end):
            _refuse_operation(operation, tensor, at_end)
        if data_format or (logits_only and operations):
            features = lift(tensor, calls)
            vector = operation(features) if data_format else features
            vector = layers.Flatten(dtype=vector.dtype, name="head_vector")(vector)
            maps = _as_map(features, data_format) if data_format else None
            return Head(vector, maps, tuple(operations))
    raise ValueError(
        f"The head cannot be exposed: {model.name!r} has no pooling before its classifier, so that "
        f"regions have no logits; pool its map, {_OTHERWISE}."
    )


def _walk_back(model) -> Iterator[tuple]:
    """Yield what computes the model's output, last first: (node, tensor, calls).

    That is the call of an operation, its input, and the (nested model, its node) pairs that
    enclose the input, outermost first.
    """
    tensor, caller = model.outputs[0], None
    calls: list[tuple] = []
    while True:
        while calls and any(x is tensor for x in calls[-1][0].inputs):  # leave a nested model
            nested, node = calls.pop()
            tensor = node.input_tensors[[x is tensor for x in nested.inputs].index(True)]
        if caller is not None:
            yield caller, tensor, calls
        operation, node_index, tensor_index = tensor._keras_history
        node = operation._inbound_nodes[node_index]
        if node.is_input:
            return
        if is_functional(operation):  # enter a nested model
            calls.append((operation, node))
            tensor, caller = operation.outputs[tensor_index], None
        elif len(node.input_tensors) == 1:
            tensor, caller = node.input_tensors[0], node
        else:
            _refuse(operation, f"joins several tensors (masks count), {_OTHERWISE}")


def _as_map(features, data_format):
    """Make a map (B, H, W, C) of one in another layout, or of tokens (B, H * H, C)."""
    options = {"dtype": features.dtype, "name": "head_map"}
    if len(features.shape) == 3:
        side = math.isqrt(features.shape[1])
        return layers.Reshape((side, side, features.shape[2]), **options)(features)
    if data_format == "channels_first":
        return layers.Permute((2, 3, 1), **options)(features)
    return features


def _is_linear(operation, at_end, classifier_layer=None):
    """Whether a layer is Dense or 1x1 Conv2D, or named, with no activation but a last softmax."""
    activation = getattr(operation, "activation", None)
    if classifier_layer in (operation, operation.name) and activation in (None, _LINEAR):
        return isinstance(operation, layers.Layer)
    if is_kind(operation, "Conv2D"):
        trivial = (operation.kernel_size, operation.strides, operation.groups)
        if trivial != ((1, 1), (1, 1), 1):
            return False
    elif not is_kind(operation, "Dense"):
        return False
    if activation in _SOFTMAXES:  # stripped by using the kernel, which must be plain for that
        return at_end and operation.dtype_policy.quantization_mode is None
    return activation is _LINEAR


def _keeps_vector(operation, tensor, at_end):
    """Whether an operation passes on (B, C), (B, 1, 1, C) ... as it is, but for a last softmax."""
    if is_kind(operation, "Activation"):
        return operation.activation is _LINEAR or (at_end and operation.activation in _SOFTMAXES)
    last = (-1, len(tensor.shape) - 1)
    softmax = at_end and is_kind(operation, "Softmax") and operation.axis in last
    return is_vector(tensor) and (softmax or is_kind(operation, *_RESHAPES))


def _pooled_format(operation, tensor, feature_layer):
    """The data format of the map that `operation` pools to one vector, None if it does not."""
    maxima = () if feature_layer is None else _MAXIMA
    if is_kind(operation, "GlobalAveragePooling2D", "GlobalAveragePooling1D", *maxima):
        return operation.data_format
    if is_kind(operation, "Mean") and operation.axis is not None:
        rank = len(tensor.shape)
        axes = sorted(axis % rank for axis in keras.tree.flatten(operation.axis))
        formats = {(4, 1, 2): "channels_last", (4, 2, 3): "channels_first", (3, 1): "channels_last"}
        return formats.get((rank, *axes))
    if is_kind(operation, "AveragePooling2D", "AdaptiveAveragePooling2D"):
        first = 2 if operation.data_format == "channels_first" else 1
        spatial = tuple(tensor.shape[first : first + 2])
        if getattr(operation, "pool_size", spatial) == spatial:
            return operation.data_format
    return None


def _check_features(pooling, features, data_format, feature_layer):
    """Raise a ValueError if the pooled tensor is not a map that can be told apart by position."""
    makers, shape = find_makers(features), tuple(features.shape)
    square = shape[1] is not None and math.isqrt(shape[1]) ** 2 == shape[1]
    if feature_layer not in (None, *makers, *(x.name for x in makers)):
        reason = f"the output of {makers[0].name!r}, not of feature_layer={feature_layer!r}"
    elif len(shape) == 4 or (feature_layer and square and data_format == "channels_last"):
        return
    else:
        reason = (
            f"{data_format} tokens {shape}; if they are a square map (B, H * H, C), row by row, "
            f"pass feature_layer={makers[0].name!r} to expose_spatial_logits; if not (is a class "
            "token among them?), Reshape them to (H, W, C) in the model and pool that"
        )
    _refuse(pooling, f"pools {reason}")


def _refuse_operation(operation, tensor, at_end):
    """Raise the ValueError for an operation that a head must not have, with the remedy."""
    activation = getattr(operation, "activation", None)
    if at_end and activation not in (None, _LINEAR):
        name = getattr(activation, "__name__", activation)
        reason = f"ends the model with activation {name!r}; give the classifier activation=None"
    elif at_end:
        reason = (
            "ends the model and is no Dense layer or 1x1 convolution; if it takes (..., C) to "
            "(..., K) logits linearly, pass it as classifier_layer to expose_spatial_logits"
        )
    elif is_kind(operation, *_RESHAPES):
        reason = (
            f"gives the classifier all positions of {tuple(tensor.shape)}, with weights of their "
            "own for each; pool the map instead (keras.layers.GlobalAveragePooling2D)"
        )
    elif is_kind(operation, *_MAXIMA):
        reason = (
            "pools by maximum, which is not the mean of the regions; to use the map before it, "
            f"pass feature_layer={find_makers(tensor)[0].name!r} to expose_spatial_logits"
        )
    else:
        reason = (
            "stands before the classifier, where only dropout, reshapes and linear layers leave "
            f"the regions logits of their own; move it before the pooling, {_OTHERWISE}"
        )
    _refuse(operation, reason)


def _refuse(operation, reason):
    name = f"{type(operation).__name__} {operation.name!r}"
    raise ValueError(f"The head cannot be exposed: {name} {reason}.")
