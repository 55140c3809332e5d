"""The frozen teacher: whether it fits a student, and a faster copy of it."""

import logging
import math

import keras
from keras import layers

from keras_sdd.folding import find_folds, fold_values
from keras_sdd.heads import check_classifier, class_logits, is_functional
from keras_sdd.losses.base import fits

_logger = logging.getLogger("keras_sdd")


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


def check_pair(teacher, student):
    """Raise a ValueError if the two models cannot be teacher and student of each other."""
    check_classifier(teacher)
    check_classifier(student)
    shared = {id(v): v for v in teacher.weights}.keys() & {id(v) for v in student.weights}
    if shared:
        names = [v.path for v in student.weights if id(v) in shared]
        raise ValueError(
            "Teacher and student must be different models without common weights, as the teacher "
            f"is frozen and the student trained; copy one with keras.models.clone_model. "
            f"Received: {len(names)} common weights, the first {names[0]!r}"
        )
    classes = [class_logits(model).shape[-1] for model in (teacher, student)]
    if classes[0] != classes[1]:
        raise ValueError(
            "Teacher and student must have the same number of classes. Received: teacher "
            f"{classes[0]}, student {classes[1]}"
        )
    shapes = [[tuple(x.shape) for x in model.inputs] for model in (teacher, student)]
    if len(shapes[0]) != len(shapes[1]) or not all(map(fits, *shapes)):
        raise ValueError(
            "Teacher and student must take the same input shape; put a resizing layer in front of "
            f"one of them. Received: teacher {shapes[0]}, student {shapes[1]}"
        )


def prepare_teacher(teacher, fold, dtype):
    """Return an `InferenceCopy` of a teacher, or None where that would change nothing.

    Args:
        teacher: a classifier, as `SDDDistiller` takes it.
        fold: whether to fold its batch norms.
        dtype: `"float32"`, `"bfloat16"`, `"float16"`, or None for that of the teacher's layers.
    """
    if not fold and dtype is None:
        return None
    try:
        copy = InferenceCopy(teacher, dtype, fold)
    except Exception as error:  # whatever a layer of others does when it is called once more
        if dtype is not None:
            raise
        # Folding is a matter of speed: what it cannot take is left as it is.
        _logger.warning("The teacher %r is used as given, not folded: %s", teacher.name, error)
        return None
    if fold:
        _logger.info("Teacher %r: %d batch norms folded.", teacher.name, copy.num_folded)
    return copy if copy.num_folded or dtype is not None else None


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
        nodes = _sort_nodes(model)
        folds, folded_nodes = find_folds(model, nodes) if self._fold else ({}, set())
        self.num_folded += len(folded_nodes)
        tensors = {
            id(x): keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x._keras_history[0].name)
            for x in model.inputs
        }
        own: dict = {}  # what is folded belongs to this graph alone

        def find(x):
            return tensors.get(id(x), x) if keras.utils.is_keras_tensor(x) else x

        for node in nodes:
            arguments = (node.arguments.args, node.arguments.kwargs)
            args, kwargs = keras.tree.map_structure(find, arguments)
            if id(node) in folded_nodes:
                outputs = args[0]
            else:
                layer = node.operation
                fold = folds.get(id(layer))
                copies = self._copies if fold is None else own
                if id(layer) not in copies:
                    copies[id(layer)] = self._copy(node, fold)
                outputs = copies[id(layer)](*args, **kwargs)
            flat = keras.tree.flatten(outputs)
            tensors |= {id(x): y for x, y in zip(node.outputs, flat, strict=True)}
        inputs, outputs = _structure(model)
        inputs, outputs = (keras.tree.map_structure(find, x) for x in (inputs, outputs))
        rebuilt = keras.Model(inputs, outputs, name=model.name)
        rebuilt.dtype_policy = model.dtype_policy
        return rebuilt

    def _copy(self, node, fold):
        """Return what is called in place of a node's operation."""
        operation = node.operation
        if not isinstance(operation, layers.Layer) or node.arguments.kwargs.get("training"):
            return operation
        if is_functional(operation):
            return self._rebuild(operation)
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
        if all(_is_vector(x) for x in node.outputs):
            return "float32"
        # Its statistics would suffer.
        is_norm = isinstance(layer, layers.BatchNormalization) and self._dtype != "float32"
        return f"mixed_{self._dtype}" if is_norm else self._dtype


def _structure(model):
    """Inputs and outputs of a functional model, structured as it takes and gives them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _sort_nodes(model):
    """The calls that make the outputs of a functional model from its inputs, in order."""
    inputs = {id(x) for x in model.inputs}

    def makers(tensors):
        for x in tensors:
            if id(x) not in inputs:
                operation, node_index, _ = x._keras_history
                yield operation._inbound_nodes[node_index]

    ordered, done = [], set()
    waiting = list(makers(model.outputs))
    while waiting:  # no recursion: some networks are deeper than Python's stack
        node = waiting[-1]
        missing = [x for x in makers(node.input_tensors) if id(x) not in done]
        if id(node) in done or not missing:
            waiting.pop()
            if id(node) not in done:
                done.add(id(node))
                ordered.append(node)
        else:
            waiting.extend(missing)
    return ordered


def _is_vector(x):
    """Whether a tensor is (B, C), (B, 1, 1, C) and the like."""
    sizes = tuple(x.shape[1:])
    return None not in sizes and max(sizes, default=1) == math.prod(sizes)
