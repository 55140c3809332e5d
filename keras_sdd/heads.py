"""Spatial-logit heads: finding what a classifier pools, and applying its head to regions.

The logits of a region are what the model's own head makes of the model's own pooling of it. Where
the head is linear and the pooling a mean, that is the region's mean of a logit map (eq. 4-5 of the
SDD paper). The search walks from the model's output back to the pooled map, into nested models
where it must; the head is then applied through the model's own layers.
"""

import collections
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_sdd.graphs import (
    find_calls,
    find_makers,
    find_node,
    is_functional,
    is_kind,
    is_vector,
    lift,
    rebuild,
    resolve,
)
from keras_sdd.normalization import is_batch_norm
from keras_sdd.pooling import CellPooling
from keras_sdd.regions import (
    SOFTMAXES,
    GlobalCell,
    LogProbability,
    PositionwiseClassifier,
    RegionClassifier,
    RegionNorm,
    RegionOperation,
    RegionPooling,
    is_linear,
    slot,
)

_LINEAR = keras.activations.linear
_OF_REGIONS = (RegionPooling, RegionNorm, RegionOperation, RegionClassifier, LogProbability)
_RESHAPES = ("Reshape", "Flatten", "Identity", "Squeeze", "Cast")
_DROPOUTS = ("Dropout", "GaussianDropout", "GaussianNoise")
# What leaves probabilities proportional to some.
_MIXTURES = (
    "Average",
    "Mean",
    "Add",
    "Stack",
    "GetItem",
    "Take",
    "Multiply",
    "Divide",
    "TrueDivide",
)
_OTHERWISE = 'give the model outputs {"logits", "spatial_logits"}, or use scales=(1,) for plain KD'


def expose_spatial_logits(model, feature_layer=None, classifier_layer=None, patch_tokens=False):
    """Give a classifier a second output: the logits of every position of its last map.

    They are what the layers after the pooling make of a position alone. Any such layers will do;
    a final softmax is stripped. All weights are shared with `model`, none copied.

    ```python
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3), classes=10)
    exposed = keras_sdd.expose_spatial_logits(model)
    assert exposed.output["spatial_logits"].shape == (None, 2, 2, 10)
    ```

    Args:
        model: a built functional or Sequential Keras classifier with one output (B, K), or a
            functional model whose outputs are `{"logits", "spatial_logits"}` already.
        feature_layer: layer, or name of one, whose output is pooled, to insist on it.
        classifier_layer: layer, or name of one, that takes (..., C) to (..., K) logits linearly,
            where it is neither Dense nor Conv2D; you vouch for its being linear.
        patch_tokens: for transformers that classify a class token, or pool it with the others:
            whether the logits of a patch are the head's of its own token. The tokens (B, T, C)
            end with those of a square map, row by row; class and distillation tokens come first.

    Returns:
        A functional model on the inputs of `model` with outputs
        `{"logits": (B, K), "spatial_logits": (B, H, W, K)}`. Their mean is `logits` only where the
        head is linear and the pooling a mean.

    Raises:
        ValueError: if the head cannot be exposed, with the layer in the way and the remedy.

    Source: eq. 4 and 5 of "Scale Decoupled Distillation" (CVPR 2024).
    """
    check_classifier(model)
    if is_exposed(model):
        return model
    head = find_head(model, feature_layer, classifier_layer, patch_tokens)
    return rebuild(model, {"logits": head.logits, "spatial_logits": head.spatial_logits})


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
class LinearHead:
    """A head that is linear in the average of a map: one product serves all cells.

    Attributes:
        vector: symbolic (B, C), the model's own pooling of the whole map.
        maps: symbolic (B, H, W, C), what it pools.
        operations: what takes features (..., C) to logits (..., K), in order.
    """

    vector: Any
    maps: Any
    operations: tuple[Callable, ...]
    is_linear = True

    @property
    def logits(self):
        """(B, K)."""
        return self._classify(self.vector)

    @property
    def spatial_logits(self):
        """(B, H, W, K)."""
        return self._classify(self.maps)

    def cells(self, scales, pooling):
        """(B, N, K): features are pooled first and classified after, N products for H * W."""
        name = "_".join(["head_cells", pooling, *map(str, scales)])
        pool = CellPooling(scales, pooling, dtype=self.maps.dtype, name=name)
        return self._classify(pool(self.maps))

    def _classify(self, features):
        for operation in self.operations:
            features = operation(features)
        return features


@dataclasses.dataclass(frozen=True)
class Head:
    """Any other head: its layers are called on the model's own pooling of every region.

    Attributes:
        vector: symbolic (B, C), what the model pools, or the token that it classifies; None for
            an exposed model, which does not show it.
        logits: symbolic (B, K), the model's own.
        spatial_logits: symbolic (B, H, W, K), made of a `RegionPooling` of every position.
    """

    vector: Any
    logits: Any
    spatial_logits: Any
    is_linear = False

    def cells(self, scales, pooling):
        """(B, N, K). The cell of scale 1 is the model's own logits."""
        suffix = "_".join([pooling, *map(str, scales)])
        cells = _of_regions(
            self.spatial_logits, lambda x: x.at(scales, pooling, f"{x.name}_{suffix}"), {}
        )
        if 1 not in scales:
            return cells
        before = sum(m * m for m in scales[: scales.index(1)])
        return GlobalCell(before, name=f"head_global_cell_{suffix}")([cells, self.logits])


def _of_regions(tensor, place, done):
    """What makes a tensor of every position, called on other regions.

    Args:
        tensor: symbolic (B, H, W, C).
        place: function from the `RegionPooling` of every position to that of the regions.
        done: dict of what was made so, by id.
    """
    if id(tensor) not in done:
        node = find_node(tensor)
        first, *others = node.input_tensors
        if isinstance(node.operation, RegionPooling):
            regions = place(node.operation)(first)
        elif isinstance(node.operation, RegionNorm):  # others: the images' own vectors
            regions = node.operation([_of_regions(first, place, done), *others])
        elif isinstance(node.operation, LogProbability):
            regions = node.operation(_of_regions(first, place, done))
        else:
            regions = node.operation([_of_regions(x, place, done) for x in node.input_tensors])
        done[id(tensor)] = regions
    return done[id(tensor)]


def find_head(model, feature_layer=None, classifier_layer=None, patch_tokens=False, frozen=True):
    """Find the head of a functional classifier: a `LinearHead` if it is one, else a `Head`.

    A head that is `frozen` runs in inference mode for good. The other arguments and the errors are
    those of `expose_spatial_logits`.
    """
    if is_exposed(model):
        logits, maps = model.output["logits"], model.output["spatial_logits"]
        if _begins_with_pooling(maps):
            return Head(None, logits, maps)
        return LinearHead(logits, maps, ())
    search = _Search(model, feature_layer, classifier_layer, patch_tokens, frozen)
    return search.find_linear() or search.find_any()


def _begins_with_pooling(maps):
    """Whether exposed logits are made of a `RegionPooling` of every position."""
    node = find_node(maps)
    while isinstance(node.operation, _OF_REGIONS):
        if isinstance(node.operation, RegionPooling):
            return True
        node = find_node(node.input_tensors[0])
    return False


def find_logits(model):
    """Symbolic logits (B, K) of any classifier, and the vector (B, C) that its last layer takes.

    A final softmax is stripped, or undone where it cannot be. The vector is None where the last
    layer takes none.
    """
    end = _find_end(model)
    vectors = [x for x, _ in end.inputs if is_vector(x)]
    vector = end.lift_inputs()[0] if len(vectors) == len(end.inputs) == 1 else None
    return end.find_logits(), vector


@dataclasses.dataclass(frozen=True)
class _Call:
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
        """What the graph fixes the training mode to, or None."""
        nodes = [self.node, *(node for _, node in reversed(self.calls))]
        given = (node.arguments.kwargs.get("training") for node in nodes)
        return next((x for x in given if x is not None), None)

    def lift_inputs(self):
        """Its tensors in the outermost graph, as vectors (B, C)."""
        name = f"{self.operation.name}_input"
        return [_flatten(lift(x, self.calls), name) for x in self.node.input_tensors]

    def arguments(self):
        """Its arguments with slots for its tensors, and the mode that the graph fixes."""
        slots = {id(x): slot(i) for i, x in reversed(list(enumerate(self.node.input_tensors)))}
        given = (self.node.arguments.args, self.node.arguments.kwargs)
        args, kwargs = keras.tree.map_structure(lambda x: slots.get(id(x), x), given)
        if self.training is not None and isinstance(self.operation, layers.Layer):
            if "training" in inspect.signature(self.operation.call).parameters:
                kwargs = kwargs | {"training": self.training}
        return args, kwargs


@dataclasses.dataclass(frozen=True)
class _End(_Call):
    """The call that makes the logits, but for a softmax and reshapes that come after it.

    Attributes:
        tensor: what it makes.
        is_probability: whether that is a class probability, or proportional to some.
    """

    tensor: Any
    is_probability: bool = False

    @property
    def strips_softmax(self):
        """Whether the layer has a softmax of its own that its kernel does without."""
        return self.operation_activation in SOFTMAXES and is_linear(self.operation, at_end=True)

    @property
    def operation_activation(self):
        return getattr(self.operation, "activation", None)

    def find_logits(self):
        """Symbolic logits (B, K)."""
        if self.strips_softmax:
            return PositionwiseClassifier(self.operation)(self.lift_inputs()[0])
        outputs = _flatten(lift(self.tensor, self.calls), "head_logits")
        return (
            LogProbability(name="head_log_probability")(outputs) if self.is_probability else outputs
        )


def _find_end(model):
    """Find what makes the logits of a classifier."""
    (tensor, calls), has_softmax = resolve(class_logits(model)), False
    while True:
        call = _Call(find_node(tensor), calls)
        if len(call.inputs) != 1 or not is_vector(call.node.input_tensors[0]):
            break
        softmax = _is_softmax(call)
        if not (softmax and not has_softmax) and not _keeps_vector(call.operation):
            break
        has_softmax = has_softmax or softmax
        ((tensor, calls),) = call.inputs
    end = _End(call.node, call.calls, tensor)
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


def _keeps_vector(operation):
    """Whether an operation passes on vectors (B, C), (B, 1, 1, C) ... as they are."""
    if is_kind(operation, "Activation"):
        return operation.activation is _LINEAR
    return is_kind(operation, *_RESHAPES)


def _gives_probabilities(tensor, calls):
    """Whether a tensor is the output of a softmax, or a mixture or a part of such outputs."""
    call = _Call(find_node(tensor), calls)
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
class _Pooling(_Call):
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


class _Search:
    """What lies between the pooling and the logits of a classifier.

    Attributes:
        end: the `_End`.
        made: the calls that lead to it, in order, and the `_Pooling`s that they begin with, by the
            key of what they make.
    """

    def __init__(self, model, feature_layer, classifier_layer, patch_tokens, frozen):
        self.model = model
        self.feature_layer, self.classifier_layer = feature_layer, classifier_layer
        self.patch_tokens, self.frozen = patch_tokens, frozen
        formats = (getattr(node.operation, "data_format", None) for _, node, _ in find_calls(model))
        self.data_format = next(filter(None, formats), None) or "channels_last"
        self.end = _find_end(model)
        _check_classifier_layer(self.end, classifier_layer)
        self.made: dict = {}
        self._walk_back()
        _check_activation(self.end)
        self._check_maps()

    def _walk_back(self):
        waiting = [(self.end.tensor, self.end.calls, None)]
        while waiting:  # no recursion: some heads are deeper than Python's stack
            tensor, calls, reader = waiting[-1]
            call = self._find_pooling(_Call(find_node(tensor), calls))
            missing = []
            if not isinstance(call, _Pooling):
                _check_call(call, reader, self.model)
                missing = [x for x in call.inputs if _key(*x) not in self.made]
            if missing:
                waiting.extend((*x, call) for x in missing)
            else:
                self.made.setdefault(_key(tensor, calls), call)
                waiting.pop()

    def _check_maps(self):
        """Raise a ValueError if the model pools several maps, as an ensemble does."""
        maps = {_key(*x.inputs[0]) for x in self.made.values() if isinstance(x, _Pooling)}
        if len(maps) > 1:
            _refuse(self.end.operation, f"joins what is pooled of different maps, {_OTHERWISE}")

    def find_linear(self):
        """The `LinearHead`, or None if it is none."""
        pooling, *calls = self.made.values()
        if not isinstance(pooling, _Pooling) or pooling.kind != "average":
            return None
        if pooling.layout == "tokens" and not _is_square(pooling.node.input_tensors[0].shape[1]):
            return None
        operations: list[Callable] = []
        for call in calls:
            operation = call.operation
            at_end = call.node is self.end.node
            named = self.classifier_layer in (operation, operation.name)
            named = named and getattr(operation, "activation", None) in (None, _LINEAR)
            if len(call.inputs) != 1 or isinstance(call, _Pooling):
                return None
            if is_linear(operation, at_end) or (
                at_end and named and isinstance(operation, layers.Layer)
            ):
                operations.append(PositionwiseClassifier(operation))
            elif is_kind(operation, *_DROPOUTS) and not operation.input_spec and not at_end:
                # Called as the model calls it: some drop in inference too, with training=True.
                operations.append(functools.partial(operation, **call.node.arguments.kwargs))
            elif not _keeps_vector(operation):
                return None
        if self.end.is_probability:
            return None
        maps = _as_map(pooling.lift_features(), pooling.layout)
        return LinearHead(pooling.lift_vector(), maps, tuple(operations))

    def find_any(self):
        """The `Head`. What stands for a layer is called on the vectors and on all positions."""
        names: collections.Counter = collections.Counter()
        vectors: dict = {}
        positions: dict = {}
        for key, call in self.made.items():
            if isinstance(call, _Pooling):
                vectors[key] = call.lift_vector()
                positions[key] = self._pool(call, names)(call.lift_features())
                continue
            layer = self._stand_in(call, names)
            own, everywhere = ([x[_key(*y)] for y in call.inputs] for x in (vectors, positions))
            vectors[key] = layer(own)
            is_norm = isinstance(layer, RegionNorm)
            positions[key] = layer([*everywhere, *own] if is_norm else everywhere)
        end = _key(self.end.tensor, self.end.calls)
        logits, spatial_logits = vectors[end], positions[end]
        if self.end.is_probability:
            log = LogProbability(name="head_log_probability")
            logits, spatial_logits = log(logits), log(spatial_logits)
        vector, *others = [vectors[key] for key, x in self.made.items() if isinstance(x, _Pooling)]
        if others:
            vector = layers.Concatenate(name="head_vector")([vector, *others])
        return Head(vector, logits, spatial_logits)

    def _pool(self, pooling, names):
        own = pooling.kind in ("maximum", "own")
        operation, arguments = (pooling.operation, pooling.arguments()) if own else (None, None)
        options = {"dtype": pooling.output.dtype, "name": _name(pooling.operation, names)}
        return RegionPooling(operation, arguments, pooling.layout, **options)

    def _stand_in(self, call, names):
        """The layer that stands for a call of the head: lists of (B, ..., C) to (B, ..., C')."""
        operation = call.operation
        options = {"name": _name(operation, names)}
        shapes = [tuple(x.shape[1:]) for x in call.node.input_tensors]
        if call.node is self.end.node and self.end.strips_softmax:
            return RegionClassifier(operation, **options)
        if is_batch_norm(operation) and not operation.renorm and len(shapes) == 1:
            return RegionNorm(operation, shapes[0], call.training, **options)
        if not self.frozen:
            _check_state(operation)
        return RegionOperation(operation, call.arguments(), shapes, **options)

    def _find_pooling(self, call):
        """The call as a `_Pooling` if it is one."""
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
        return _Pooling(node, call.calls, kind, "tokens" if len(shape) == 3 else layout)

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
        elif self.patch_tokens or _is_square(shape[1]):
            return
        else:
            reason = (
                f"tokens {shape}, which are no square map (B, H * H, C); if class tokens come "
                "before one, row by row, pass patch_tokens=True to expose_spatial_logits, else "
                "Reshape them to (H, W, C) in the model and pool that"
            )
        _refuse(call.operation, f"pools {reason}")


def _key(tensor, calls):
    return (id(tensor), *(id(node) for _, node in calls))


def _name(operation, names):
    """A name for what stands for an operation, different each time."""
    names[operation.name] += 1
    count = names[operation.name]
    return f"{operation.name}_of_regions" + (f"_{count}" if count > 1 else "")


def _is_square(count):
    return count is not None and math.isqrt(count) ** 2 == count


def _as_map(features, layout):
    """Make a map (B, H, W, C) of one in another layout, or of tokens (B, H * H, C)."""
    options = {"dtype": features.dtype, "name": "head_map"}
    if layout == "tokens":
        side = math.isqrt(features.shape[1])
        return layers.Reshape((side, side, features.shape[2]), **options)(features)
    if layout == "channels_first":
        return layers.Permute((2, 3, 1), **options)(features)
    return features


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
        _refuse(reader.operation, f"joins several tensors, one of them not pooled, {_OTHERWISE}")
    if node.is_input:
        raise ValueError(
            f"The head cannot be exposed: {model.name!r} has no pooling before its classifier, so "
            f"that regions have no logits; pool its map, {_OTHERWISE}."
        )
    if len(node.outputs) > 1:
        _refuse(operation, f"has several outputs; move it before the pooling, {_OTHERWISE}")
    wide = [x for x in node.input_tensors if not is_vector(x)]
    if not wide:
        return
    shape = tuple(wide[0].shape)
    if len(node.input_tensors) > 1:
        reason = f"joins several tensors (masks count), {_OTHERWISE}"
    elif len(shape) == 3 and is_vector(call.output) and call.output.shape[-1] == shape[2]:
        reason = (
            f"takes one of the tokens {shape}, a class token perhaps, which is no region; for the "
            "logits of the patches, pass patch_tokens=True to expose_spatial_logits"
        )
    elif is_kind(operation, *_RESHAPES):
        reason = (
            f"gives the classifier all positions of {shape}, with weights of their own for each; "
            f"pool the map instead (keras.layers.GlobalAveragePooling2D), {_OTHERWISE}"
        )
    else:
        reason = (
            f"makes {tuple(call.output.shape)} of {shape}, which is no pooling that regions have "
            f"too; pool the map instead (keras.layers.GlobalAveragePooling2D), {_OTHERWISE}"
        )
    _refuse(operation, reason)


def _check_classifier_layer(end, classifier_layer):
    if classifier_layer not in (None, end.operation, end.operation.name):
        _refuse(end.operation, f"is the classifier, not classifier_layer={classifier_layer!r}")


def _check_activation(end):
    """Raise a ValueError if a model ends in an activation that makes no logits."""
    activation = end.operation_activation
    if activation in (None, _LINEAR, *SOFTMAXES) or not is_kind(
        end.operation, "Activation", "Dense", "Conv2D", "EinsumDense"
    ):
        return
    name = getattr(activation, "__name__", activation)
    _refuse(
        end.operation,
        f"ends the model with activation {name!r}; give the classifier activation=None",
    )


def _check_state(operation):
    """Raise a ValueError if a layer of a student's head keeps what regions would change."""
    state = getattr(operation, "non_trainable_weights", ())
    plain = is_kind(operation, "Normalization") or not getattr(operation, "trainable", False)
    quantized = getattr(getattr(operation, "dtype_policy", None), "quantization_mode", None)
    if state and not plain and quantized is None:
        _refuse(
            operation,
            f"keeps {state[0].name!r} in training, which every region would move; freeze it "
            f"(trainable = False), or {_OTHERWISE}",
        )


def _refuse(operation, reason):
    name = f"{type(operation).__name__} {operation.name!r}"
    raise ValueError(f"The head cannot be exposed: {name} {reason}.")
