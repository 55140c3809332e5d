"""A copy of a model for inference, with its batch norms folded into the layers next to them."""

import keras
import numpy as np
from keras import layers, ops

from keras_sdd.folds import find_folds, fold_values
from keras_sdd.graphs import is_functional, is_vector, replay, sort_nodes, structure
from keras_sdd.regions import PositionwiseClassifier

_KNOWN = ("keras.src.layers.", "keras_sdd.")
# They keep more than their config and weights say.
_DERIVED = ("keras.src.layers.preprocessing.", "keras_sdd.teachers.")


def fold_batch_norm(model: keras.Model) -> keras.Model:
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

    Examples:
        >>> model = keras_sdd.models.build("small/cnn_8_16_32")
        >>> folded = keras_sdd.fold_batch_norm(model)
        >>> [sum("BatchNorm" in type(x).__name__ for x in y.layers) for y in (model, folded)]
        [3, 0]
        >>> folded.count_params() < model.count_params(), folded.output.shape == model.output.shape
        (True, True)
    """
    if not is_functional(model):
        raise ValueError(
            "`model` must be a built functional or Sequential model; wrap a subclassed one: "
            f"keras.Model(inputs, model(inputs)). Received: {model!r}"
        )
    copy = InferenceCopy(model, share=False)
    error = 0.0 if copy.is_known else compare(copy.model, model, _draw_inputs(model))
    if error > 1e-3:
        suspects = ", ".join(sorted({type(x).__name__ for x in copy.list_unknown()}))
        raise ValueError(
            "The model cannot be copied: outputs of the copy differ by "
            f"{error:.2g} of the largest, as a layer is more than its config and weights. "
            f"Received: layers that Keras does not know of class {suspects}"
        )
    copy.model.trainable = False
    return copy.model


def compare(copy, model, x):
    """The largest difference of the outputs of two models for `x`, by the largest of them.

    Outputs that are not finite do not count.
    """
    error = 0.0
    outputs = (keras.tree.flatten(m(x, training=False)) for m in (copy, model))
    for pair in zip(*outputs, strict=True):
        actual, wanted = (np.asarray(ops.convert_to_numpy(y), "float64") for y in pair)
        size = np.max(np.abs(wanted))
        if np.isfinite(size) and size > 0:
            error = max(error, np.max(np.abs(np.nan_to_num(actual, nan=np.inf) - wanted)) / size)
    return error


def _draw_inputs(model):
    rng = np.random.default_rng(0)
    shapes = [[32 if size is None else size for size in x.shape[1:]] for x in model.inputs]
    drawn = [ops.convert_to_tensor(rng.uniform(size=(2, *x)).astype("float32")) for x in shapes]
    return keras.tree.pack_sequence_as(structure(model)[0], drawn)


class InferenceCopy:
    """A functional model rebuilt for inference, that follows the original.

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
        is_known: whether all layers that are copied are of Keras or ours.
        is_certain: whether, besides, each has a batch norm folded in: the original by construction.
    """

    def __init__(self, model, dtype=None, fold=True, share=True):
        self._dtype, self._fold, self._share = dtype, fold, share
        self._copies: dict = {}
        self._sources: list = []  # (copy, layer, its Fold or None)
        self.num_folded = 0
        self.model = self._rebuild(model)
        self.refresh()

    def list_unknown(self):
        """The copied layers that are of no class of Keras or of ours, and may be more than seen."""
        copied = [x for _, layer, fold in self._sources for x in _list_parts(layer, fold)]
        return [x for x in copied if not type(x).__module__.startswith(_KNOWN)]

    @property
    def is_known(self):
        return not self.list_unknown()

    @property
    def is_certain(self):
        return self.is_known and all(fold is not None for *_, fold in self._sources)

    @property
    def variables(self):
        """Those of the original that it reads, copied or not."""
        own = {id(v) for copy, *_ in self._sources for v in copy.variables}
        copied = [x for _, layer, fold in self._sources for x in _list_parts(layer, fold)]
        shared = [v for v in self.model.variables if id(v) not in own]
        read = shared + [v for layer in copied for v in layer.variables]
        return list({id(v): v for v in read}.values())

    def compute(self):
        """Values of the copied variables from the original's of now: (variable, tensor) pairs."""
        pairs: list = []
        for copy, layer, fold in self._sources:
            values = [v.value for v in layer.weights]
            if fold is not None:
                values = fold_values(layer, fold, ops, _widen(layer.variable_dtype))
            values = [ops.cast(x, v.dtype) for v, x in zip(copy.weights, values, strict=True)]
            pairs.extend(zip(copy.weights, values, strict=True))
        return pairs

    def refresh(self):
        """Give the copied variables the values that `compute` names, in float64 at first."""
        for copy, layer, fold in self._sources:
            if fold is not None:
                for variable, value in zip(copy.weights, fold_values(layer, fold), strict=True):
                    variable.assign(value.astype(_widen(variable.dtype)))
                continue
            if len(copy.weights) != len(layer.weights):
                raise ValueError(
                    f"The config of layer {layer.name!r} ({type(layer).__name__}) does not make it "
                    f"again. Received: {len(layer.weights)} weights, {len(copy.weights)} in a copy"
                )
            for variable, value in zip(copy.weights, layer.weights, strict=True):
                # A buffer of its own: JAX gives those of a step away.
                variable.assign(ops.copy(ops.cast(value, variable.dtype)))
            _load_state(copy, layer)

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
        module = type(operation).__module__
        known = module.startswith(_KNOWN) and not module.startswith(_DERIVED)
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


def _list_parts(layer, fold):
    return [layer] if fold is None else [x for x in (layer, fold.before, fold.after) if x]


def _widen(dtype):
    return "float64" if dtype == "float64" else "float32"


def _load_state(copy, layer):
    """Let the copy of a layer derive what it keeps beside its weights, as after loading a file."""
    pairs = zip(copy._flatten_layers(), layer._flatten_layers(), strict=True)
    for part, original in pairs:
        if type(part).load_own_variables is not layers.Layer.load_own_variables:
            store: dict = {}
            original.save_own_variables(store)
            part.load_own_variables({name: _to_numpy(x) for name, x in store.items()})


def _to_numpy(x):
    return np.asarray(ops.convert_to_numpy(x))
