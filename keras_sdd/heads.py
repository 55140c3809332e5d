"""Spatial-logit heads: finding what a classifier pools, and applying its head to regions.

The logits of a region are what the model's own head makes of the model's own pooling of it. Where
the head is linear and the pooling a mean, that is the region's mean of a logit map (eq. 4-5 of the
SDD paper). The search walks from the model's output back to the pooled map, into nested models
where it must; the head is then applied through the model's own layers.
"""

import collections
import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_sdd.graphs import find_node, is_functional, is_kind, is_vector, rebuild
from keras_sdd.head_search import (
    OTHERWISE,
    Pooling,
    Search,
    find_end,
    is_square,
    keeps_vector,
    key_of,
    refuse,
)
from keras_sdd.normalization import is_plain_batch_norm
from keras_sdd.pooling import CellPooling
from keras_sdd.regions import (
    GlobalCell,
    LogProbability,
    PositionwiseClassifier,
    RegionClassifier,
    RegionNorm,
    RegionOperation,
    RegionPooling,
    is_linear,
)

_logger = logging.getLogger("keras_sdd")
_LINEAR = keras.activations.linear
_OF_REGIONS = (RegionPooling, RegionNorm, RegionOperation, RegionClassifier, LogProbability)
_DROPOUTS = ("Dropout", "GaussianDropout", "GaussianNoise")


def expose_spatial_logits(
    model: keras.Model,
    feature_layer: str | keras.layers.Layer | None = None,
    classifier_layer: str | keras.layers.Layer | None = None,
    patch_tokens: bool = False,
) -> keras.Model:
    """Give a classifier a second output: the logits of every position of its last map.

    They are what the layers after the pooling make of a position alone. Any such layers will do;
    a final softmax is stripped. All weights are shared with `model`, none copied.

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

    Examples:
        >>> model = keras_sdd.models.build("small/cnn_8_16_32", num_classes=4)
        >>> exposed = keras_sdd.expose_spatial_logits(model)
        >>> {name: x.shape for name, x in exposed.output.items()}
        {'logits': (None, 4), 'spatial_logits': (None, 8, 8, 4)}
        >>> outputs = exposed(np.ones((1, 32, 32, 3), "float32"))
        >>> means = keras.ops.mean(outputs["spatial_logits"], axis=(1, 2))  # this head is linear
        >>> bool(keras.ops.max(keras.ops.abs(means - outputs["logits"])) < 1e-5)
        True
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
            '`call` return {"logits", "spatial_logits"} and use keras.Model(inputs, model(inputs)).'
            " For scales=(1,) that will do whatever `call` returns"
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
    def map_shape(self):
        """Height and width."""
        return tuple(self.maps.shape[1:3])

    @property
    def spatial_logits(self):
        """(B, H, W, K)."""
        return self._classify(self.maps)

    def cells(self, scales, pooling):
        """(B, N, K): features are pooled first and classified after, N products for H * W."""
        name = "_".join(["head_cells", pooling, *map(str, scales)])
        options = {"dtype": self.maps.dtype, "name": name}
        pool: layers.Layer = CellPooling(scales, pooling, **options)
        if None in self.maps.shape[1:3]:  # of a model for any size: the images will tell
            pool = RegionPooling(None, None, "channels_last", scales, pooling, **options)
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

    @property
    def map_shape(self):
        """Height and width."""
        return tuple(self.spatial_logits.shape[1:3])

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
    search = Search(model, feature_layer, classifier_layer, patch_tokens)
    return _build_linear(search) or _build_any(search, frozen)


def _begins_with_pooling(maps):
    """Whether exposed logits are made of a `RegionPooling` of every position."""
    node = find_node(maps)
    while isinstance(node.operation, _OF_REGIONS):
        if isinstance(node.operation, RegionPooling):
            return True
        node = find_node(node.input_tensors[0])
    return False


def gives_probabilities(model):
    """Whether a classifier ends in a softmax."""
    return not is_exposed(model) and find_end(class_logits(model)).gives_probabilities


def find_logits(model):
    """Symbolic logits (B, K) of any classifier, and the vector (B, C) that its last layer takes.

    A final softmax is stripped, or undone where it cannot be. The vector is None where the last
    layer takes none.
    """
    end = find_end(class_logits(model))
    if end.has_other_activation:
        _logger.warning(
            "The outputs of %r are taken as logits, though %r ends it with an activation.",
            model.name, end.operation.name,
        )  # fmt: skip
    vectors = [x for x, _ in end.inputs if is_vector(x)]
    vector = end.lift_inputs()[0] if len(vectors) == len(end.inputs) == 1 else None
    return end.find_logits(), vector


def _build_linear(search):
    """The `LinearHead`, or None if it is none."""
    pooling, *calls = search.made.values()
    if not isinstance(pooling, Pooling) or pooling.kind != "average":
        return None
    if pooling.layout == "tokens" and not is_square(pooling.node.input_tensors[0].shape[1]):
        return None
    operations: list[Callable] = []
    for call in calls:
        operation = call.operation
        at_end = call.node is search.end.node
        named = search.classifier_layer in (operation, operation.name)
        named = named and getattr(operation, "activation", None) in (None, _LINEAR)
        if len(call.inputs) != 1 or isinstance(call, Pooling):
            return None
        if is_linear(operation, at_end) or (
            at_end and named and isinstance(operation, layers.Layer)
        ):
            operations.append(PositionwiseClassifier(operation))
        elif is_kind(operation, *_DROPOUTS) and not operation.input_spec and not at_end:
            # Called as the model calls it: some drop in inference too, with training=True.
            operations.append(functools.partial(operation, **call.node.arguments.kwargs))
        elif not keeps_vector(operation):
            return None
    if search.end.is_probability:
        return None
    maps = _as_map(pooling.lift_features(), pooling.layout)
    return LinearHead(pooling.lift_vector(), maps, tuple(operations))


def _build_any(search, frozen):
    """The `Head`. What stands for a layer is called on the vectors and on all positions."""
    names: collections.Counter = collections.Counter()
    vectors: dict = {}
    positions: dict = {}
    for key, call in search.made.items():
        if isinstance(call, Pooling):
            pool, features = _pool(call, names), call.lift_features()
            positions[key] = pool(features)
            vectors[key] = call.lift_vector()
            if call.kind == "maximum":  # of which the gradient is safe on JAX
                whole = pool.at((1,), "direct", f"{pool.name}_whole")(features)
                vectors[key] = layers.Flatten(dtype=whole.dtype, name=f"{pool.name}_vector")(whole)
            continue
        layer = _stand_in(search, call, names, frozen)
        own, everywhere = ([x[key_of(*y)] for y in call.inputs] for x in (vectors, positions))
        vectors[key] = layer(own)
        is_norm = isinstance(layer, RegionNorm)
        positions[key] = layer([*everywhere, *own] if is_norm else everywhere)
    end = key_of(search.end.tensor, search.end.calls)
    logits, spatial_logits = vectors[end], positions[end]
    if search.end.is_probability:
        log = LogProbability(name="head_log_probability")
        logits, spatial_logits = log(logits), log(spatial_logits)
    vector, *others = [vectors[key] for key, x in search.made.items() if isinstance(x, Pooling)]
    if others:
        vector = layers.Concatenate(name="head_vector")([vector, *others])
    return Head(vector, logits, spatial_logits)


def _pool(pooling, names):
    operation = arguments = None
    if pooling.kind == "maximum":
        operation = "maximum"
    elif pooling.kind == "own":
        operation, arguments = pooling.operation, pooling.arguments()
    options = {"dtype": pooling.output.dtype, "name": _name(pooling.operation, names)}
    return RegionPooling(operation, arguments, pooling.layout, **options)


def _stand_in(search, call, names, frozen):
    """The layer that stands for a call of the head: lists of (B, ..., C) to (B, ..., C')."""
    operation = call.operation
    options = {"name": _name(operation, names)}
    shapes = [tuple(x.shape[1:]) for x in call.node.input_tensors]
    if call.node is search.end.node and search.end.strips_softmax:
        return RegionClassifier(operation, **options)
    if is_plain_batch_norm(operation) and len(shapes) == 1:
        return RegionNorm(operation, shapes[0], call.training, **options)
    if not frozen:
        _check_state(operation)
    return RegionOperation(operation, call.arguments(), shapes, **options)


def _name(operation, names):
    """A name for what stands for an operation, different each time."""
    names[operation.name] += 1
    count = names[operation.name]
    return f"{operation.name}_of_regions" + (f"_{count}" if count > 1 else "")


def _as_map(features, layout):
    """Make a map (B, H, W, C) of one in another layout, or of tokens (B, H * H, C)."""
    options = {"dtype": features.dtype, "name": "head_map"}
    if layout == "tokens":
        side = math.isqrt(features.shape[1])
        return layers.Reshape((side, side, features.shape[2]), **options)(features)
    if layout == "channels_first":
        return layers.Permute((2, 3, 1), **options)(features)
    return features


def _check_state(operation):
    """Raise a ValueError if a layer of a student's head keeps what regions would change."""
    state = getattr(operation, "non_trainable_weights", ())
    plain = is_kind(operation, "Normalization") or not getattr(operation, "trainable", False)
    quantized = getattr(getattr(operation, "dtype_policy", None), "quantization_mode", None)
    if state and not plain and quantized is None:
        refuse(
            operation,
            f"keeps {state[0].name!r} in training, which every region would move; freeze it "
            f"(trainable = False), or {OTHERWISE}",
        )
