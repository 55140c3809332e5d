"""The search for a head: from a classifier's output back to what it pools.

It walks into nested models where it must, and says which layer is in the way.
"""

import dataclasses
import inspect
import math
from typing import Any

import keras
from keras import layers

from keras_sdd.graphs import find_calls, find_makers, find_node, is_kind, is_vector, lift, resolve
from keras_sdd.regions import (
    SOFTMAXES,
    LogProbability,
    PositionwiseClassifier,
    RegionPooling,
    is_linear,
    slot,
)

_LINEAR = keras.activations.linear
_LOG_SOFTMAXES = (keras.activations.log_softmax, keras.ops.log_softmax)
_CLASSIFIERS = ("Activation", "Dense", "Conv2D", "EinsumDense")
_RESHAPES = ("Reshape", "Flatten", "Identity", "Squeeze", "Cast")
# What leaves probabilities proportional to some.
_MIXTURES = ("Average", "Mean", "Add", "Stack", "GetItem", "Take", "Multiply", "TrueDivide")
OTHERWISE = 'give the model outputs {"logits", "spatial_logits"}, or use scales=(1,) for plain KD'


@dataclasses.dataclass(frozen=True)
class Call:
    """A call in a graph, `calls` being those of the nested models around it."""

    node: Any
    calls: tuple

    @property
    def operation(self):
        return self.node.operation

    @property
    def inputs(self):
        """Its tensors, each as `resolve` gives it."""
        return [resolve(x, self.calls) for x in self.node.input_tensors]

    @property
    def output(self):
        return self.node.outputs[0]

    @property
    def training(self):
        """The training mode that the graph calls it with, or None."""
        nodes = [self.node, *(node for _, node in reversed(self.calls))]
        given = (node.arguments.kwargs.get("training") for node in nodes)
        return next((x for x in given if x is not None), None)

    def lift_inputs(self):
        """Its tensors in the outermost graph, as vectors (B, C)."""
        name = f"{self.operation.name}_input"
        return [_flatten(lift(x, self.calls), name) for x in self.node.input_tensors]

    def arguments(self):
        """Its arguments with slots for its tensors, and that mode."""
        slots = {id(x): slot(i) for i, x in reversed(list(enumerate(self.node.input_tensors)))}
        given = (self.node.arguments.args, self.node.arguments.kwargs)
        args, kwargs = keras.tree.map_structure(lambda x: slots.get(id(x), x), given)
        if self.training is not None and isinstance(self.operation, layers.Layer):
            if "training" in inspect.signature(self.operation.call).parameters:
                kwargs = kwargs | {"training": self.training}
        return args, kwargs


@dataclasses.dataclass(frozen=True)
class End(Call):
    """The call that makes the logits, but for a softmax and reshapes that come after it.

    Attributes:
        tensor: what it makes.
        has_softmax: whether a softmax comes after it.
        is_probability: whether what it makes is a class probability, or proportional to some.
    """

    tensor: Any
    has_softmax: bool = False
    is_probability: bool = False

    @property
    def gives_probabilities(self):
        """Whether the outputs of the model are class probabilities."""
        return self.has_softmax or self.strips_softmax or self.is_probability

    @property
    def strips_softmax(self):
        """Whether the layer has a softmax of its own that its kernel does without."""
        return self.operation_activation in SOFTMAXES and is_linear(self.operation, at_end=True)

    @property
    def operation_activation(self):
        return getattr(self.operation, "activation", None)

    @property
    def has_other_activation(self):
        """Whether the layer ends in an activation that makes no logits and is no softmax."""
        plain = self.operation_activation in (None, _LINEAR, *SOFTMAXES, *_LOG_SOFTMAXES)
        return not plain and is_kind(self.operation, *_CLASSIFIERS)

    def find_logits(self):
        """Symbolic logits (B, K)."""
        if self.strips_softmax:
            return PositionwiseClassifier(self.operation)(self.lift_inputs()[0])
        outputs = _flatten(lift(self.tensor, self.calls), "head_logits")
        return (
            LogProbability(name="head_log_probability")(outputs) if self.is_probability else outputs
        )


def find_end(logits):
    """Find what makes the logits of a classifier."""
    (tensor, calls), has_softmax = resolve(logits), False
    while True:
        call = Call(find_node(tensor), calls)
        if len(call.inputs) != 1 or not is_vector(call.node.input_tensors[0]):
            break
        softmax = _is_softmax(call)
        if not (softmax and not has_softmax) and not keeps_vector(call.operation):
            break
        has_softmax = has_softmax or softmax
        ((tensor, calls),) = call.inputs
    end = End(call.node, call.calls, tensor, has_softmax)
    if has_softmax or end.strips_softmax or not _gives_probabilities(tensor, calls):
        return end
    return dataclasses.replace(end, is_probability=True)


def _is_softmax(call):
    """Whether a call is a softmax over the classes (B, K), (B, 1, 1, K) and nothing else."""
    operation = call.operation
    if is_kind(operation, "Activation"):
        return operation.activation in SOFTMAXES
    last = (-1, len(call.node.input_tensors[0].shape) - 1)
    return is_kind(operation, "Softmax") and operation.axis in last


def keeps_vector(operation):
    """Whether an operation passes on vectors (B, C), (B, 1, 1, C) ... as they are."""
    if is_kind(operation, "Activation"):
        return operation.activation is _LINEAR
    return is_kind(operation, *_RESHAPES)


def _gives_probabilities(tensor, calls):
    """Whether a tensor is the output of a softmax, or a mixture or a part of such outputs."""
    call = Call(find_node(tensor), calls)
    if not call.inputs:
        return False
    if getattr(call.operation, "activation", None) in SOFTMAXES or _is_softmax(call):
        return True
    mixes = is_kind(call.operation, *_MIXTURES, *_RESHAPES)
    return mixes and all(_gives_probabilities(*x) for x in call.inputs)


def _flatten(tensor, name):
    if len(tensor.shape) == 2:
        return tensor
    return layers.Flatten(dtype=tensor.dtype, name=name)(tensor)


@dataclasses.dataclass(frozen=True)
class Pooling(Call):
    """A call that pools features, or, of tokens, takes one of them.

    Attributes:
        kind: `"average"`, `"maximum"`, `"own"` or `"token"`.
        layout: of the features, as for `RegionPooling`.
    """

    kind: str
    layout: str

    def lift_features(self):
        return lift(self.node.input_tensors[0], self.calls)

    def lift_vector(self):
        return _flatten(lift(self.output, self.calls), f"{self.operation.name}_vector")


class Search:
    """What lies between the pooling and the logits of a classifier.

    Attributes:
        end: the `End`.
        made: the calls that lead to it, in order, and the `Pooling`s that they begin with, by the
            key of what they make.
    """

    def __init__(self, model, feature_layer=None, classifier_layer=None, patch_tokens=False):
        self.model = model
        self.feature_layer, self.classifier_layer = feature_layer, classifier_layer
        self.patch_tokens = patch_tokens
        formats = (getattr(node.operation, "data_format", None) for _, node, _ in find_calls(model))
        self.data_format = next(filter(None, formats), None) or "channels_last"
        self.end = find_end(model.outputs[0])
        _check_classifier_layer(self.end, classifier_layer)
        self.made: dict = {}
        self._walk_back()
        _check_activation(self.end)
        self._check_maps()

    def _walk_back(self):
        waiting = [(self.end.tensor, self.end.calls, None)]
        while waiting:  # no recursion: some heads are deeper than Python's stack
            tensor, calls, reader = waiting[-1]
            call = self._find_pooling(Call(find_node(tensor), calls))
            missing = []
            if not isinstance(call, Pooling):
                _check_call(call, reader, self.model)
                missing = [x for x in call.inputs if key_of(*x) not in self.made]
            if missing:
                waiting.extend((*x, call) for x in missing)
            else:
                self.made.setdefault(key_of(tensor, calls), call)
                waiting.pop()

    def _check_maps(self):
        """Raise a ValueError if the model pools several maps, as an ensemble does."""
        maps = {key_of(*x.inputs[0]) for x in self.made.values() if isinstance(x, Pooling)}
        if len(maps) > 1:
            refuse(self.end.operation, f"joins what is pooled of different maps, {OTHERWISE}")

    def _find_pooling(self, call):
        """The call as a `Pooling` if it is one."""
        node, operation = call.node, call.operation
        if len(node.input_tensors) != 1 or node.is_input:
            return call
        (x,) = node.input_tensors
        shape = tuple(x.shape)
        kind, layout = _find_kind(operation, x)
        if self.patch_tokens and len(shape) == 3 and not is_vector(x):
            whole = is_vector(node.outputs[0]) and math.prod(node.outputs[0].shape[1:]) == shape[2]
            kind, layout = ("token", "channels_last") if whole and kind is None else (kind, layout)
        elif kind is None and len(shape) == 4 and not is_vector(x) and is_vector(call.output):
            layout = getattr(operation, "data_format", None) or self.data_format
            own = not any(x is y for y in self.model.inputs) and _pools_any_size(call, layout)
            kind = "own" if own else None
        if kind is None:
            return call
        self._check_features(call, shape, layout)
        return Pooling(node, call.calls, kind, "tokens" if len(shape) == 3 else layout)

    def _check_features(self, call, shape, layout):
        """Raise a ValueError if what is pooled is no map that can be told apart by position."""
        makers = find_makers(call.node.input_tensors[0])
        if self.feature_layer not in (None, *makers, *(x.name for x in makers)):
            reason = (
                f"the output of {makers[0].name!r}, not of feature_layer={self.feature_layer!r}"
            )
        elif len(shape) == 4:
            return
        elif layout == "channels_first" or shape[1] is None:
            reason = (
                f"{layout} tokens {shape}; Reshape them to (H, W, C) in the model and pool that"
            )
        elif self.patch_tokens or is_square(shape[1]):
            return
        else:
            reason = (
                f"tokens {shape}, which are no square map (B, H * H, C); if class tokens come "
                "before one, row by row, pass patch_tokens=True to expose_spatial_logits, else "
                "Reshape them to (H, W, C) in the model and pool that"
            )
        refuse(call.operation, f"pools {reason}")


def key_of(tensor, calls):
    return (id(tensor), *(id(node) for _, node in calls))


def is_square(count):
    return count is not None and math.isqrt(count) ** 2 == count


def _find_kind(operation, x):
    """How an operation pools `x` to one vector, and its data format, or None for both."""
    for kind, prefix, reduction in (("average", "Average", "Mean"), ("maximum", "Max", "Max")):
        if is_kind(operation, f"Global{prefix}Pooling2D", f"Global{prefix}Pooling1D"):
            return kind, operation.data_format
        if is_kind(operation, reduction) and hasattr(operation, "keepdims"):
            rank = len(x.shape)
            axes = sorted(axis % rank for axis in keras.tree.flatten(operation.axis or 0))
            formats = {
                (4, 1, 2): "channels_last", (4, 2, 3): "channels_first", (3, 1): "channels_last"
            }  # fmt: skip
            if (rank, *axes) in formats:
                return kind, formats[rank, *axes]
        if is_kind(operation, "AveragePooling2D", "AdaptiveAveragePooling2D"):
            first = 2 if operation.data_format == "channels_first" else 1
            spatial = tuple(x.shape[first : first + 2])
            if getattr(operation, "pool_size", spatial) == spatial:
                return kind, operation.data_format
    return None, None


def _pools_any_size(call, layout):
    """Whether a call makes of a map of any size a vector of the same length."""
    if hasattr(call.operation, "kernel_size") or is_kind(call.operation, "GetItem", "Take"):
        return False
    (x,) = call.node.input_tensors
    channels = x.shape[1 if layout == "channels_first" else -1]
    pooling = RegionPooling(call.operation, call.arguments(), layout, dtype=x.dtype)
    try:
        shapes = [pooling.compute_pooled_shape(size, channels) for size in (1, 2)]
    except Exception:  # whatever it says of a size that it is not made for
        return False
    return shapes == [tuple(call.output.shape[1:])] * 2


def _check_call(call, reader, model):
    """Raise a ValueError if a call of the head leaves regions no logits of their own."""
    node, operation = call.node, call.operation
    if node.is_input and reader is not None and len(reader.inputs) > 1:
        refuse(reader.operation, f"joins several tensors, one of them not pooled, {OTHERWISE}")
    if node.is_input:
        raise ValueError(
            f"The head cannot be exposed: {model.name!r} has no pooling before its classifier, so "
            f"that regions have no logits; pool its map, {OTHERWISE}."
        )
    if len(node.outputs) > 1:
        refuse(operation, f"has several outputs; move it before the pooling, {OTHERWISE}")
    wide = [x for x in node.input_tensors if not is_vector(x)]
    if not wide:
        return
    shape = tuple(wide[0].shape)
    if len(node.input_tensors) > 1:
        reason = f"joins several tensors (masks count), {OTHERWISE}"
    elif len(shape) == 3 and is_vector(call.output) and call.output.shape[-1] == shape[2]:
        reason = (
            f"takes one of the tokens {shape}, a class token perhaps, which is no region; for the "
            "logits of the patches, pass patch_tokens=True to expose_spatial_logits"
        )
    elif is_kind(operation, *_RESHAPES):
        reason = (
            f"gives the classifier all positions of {shape}, with weights of their own for each; "
            f"pool the map instead (keras.layers.GlobalAveragePooling2D), {OTHERWISE}"
        )
    else:
        reason = (
            f"makes {tuple(call.output.shape)} of {shape}, which is no pooling that regions have "
            f"too; pool the map instead (keras.layers.GlobalAveragePooling2D), {OTHERWISE}"
        )
    refuse(operation, reason)


def _check_classifier_layer(end, classifier_layer):
    if classifier_layer not in (None, end.operation, end.operation.name):
        refuse(end.operation, f"is the classifier, not classifier_layer={classifier_layer!r}")


def _check_activation(end):
    """Raise a ValueError if a model ends in an activation that makes no logits."""
    if end.has_other_activation:
        name = getattr(end.operation_activation, "__name__", end.operation_activation)
        refuse(
            end.operation,
            f"ends the model with activation {name!r}; give the classifier activation=None",
        )


def refuse(operation, reason):
    name = f"{type(operation).__name__} {operation.name!r}"
    raise ValueError(f"The head cannot be exposed: {name} {reason}.")
