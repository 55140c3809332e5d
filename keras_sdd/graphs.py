"""Tools on functional graphs: what computes what, and models of other tensors of a graph."""

import contextlib
import math

import keras


def is_kind(operation, *kinds):
    """Whether an operation is of one of `kinds`, by name, and does what Keras itself defines."""
    names = {cls.__name__ for cls in type(operation).__mro__}
    return type(operation).call.__module__.startswith("keras.src.") and bool(names & set(kinds))


def is_functional(operation):
    """Whether an operation is a built model whose graph says all that its `call` does."""
    return is_kind(operation, "Model") and bool(getattr(operation, "outputs", None))


def is_vector(tensor):
    """Whether a tensor is (B, C), (B, 1, 1, C) and the like."""
    sizes = tuple(tensor.shape[1:])
    return None not in sizes and max(sizes, default=1) == math.prod(sizes)


def structure(model):
    """Inputs and outputs of a functional model, structured as it takes and gives them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def resolve(tensor, calls=()):
    """Follow a tensor out of and into nested models to the layer that makes it.

    Args:
        tensor: of a graph.
        calls: the (nested model, its node) pairs around it, outermost first, as `lift` takes them.

    Returns:
        What the tensor is called there, and the calls around that.
    """
    while True:
        if calls and any(x is tensor for x in calls[-1][0].inputs):  # leave a nested model
            nested, node = calls[-1]
            calls = calls[:-1]
            tensor = node.input_tensors[[x is tensor for x in nested.inputs].index(True)]
            continue
        node = find_node(tensor)
        if node.is_input or not is_functional(node.operation):
            return tensor, calls
        calls = (*calls, (node.operation, node))  # enter one
        tensor = node.operation.outputs[tensor._keras_history.tensor_index]


def find_makers(tensor):
    """The operations that a tensor comes out of: nested models, outermost first, then a layer."""
    operation, _, index = tensor._keras_history
    inner = find_makers(operation.outputs[index]) if is_functional(operation) else []
    return [operation, *inner]


def sort_nodes(inputs, outputs):
    """The calls that make `outputs` from `inputs`, both lists of tensors of a graph, in order."""
    given = {id(x) for x in inputs}
    ordered, done = [], set()
    waiting = [find_node(x) for x in outputs if id(x) not in given]
    while waiting:  # no recursion: some networks are deeper than Python's stack
        node = waiting[-1]
        makers = [find_node(x) for x in node.input_tensors if id(x) not in given]
        missing = [x for x in makers if id(x) not in done]
        if id(node) in done or not missing:
            waiting.pop()
            if id(node) not in done:
                done.add(id(node))
                ordered.append(node)
        else:
            waiting.extend(missing)
    return ordered


def find_calls(model, path="", calls=()):
    """Yield every call in a functional model and in those nested in it: (path, node, calls).

    The path is the layer's name after those of the models around it, as in `"backbone/conv1"`;
    `calls` are those of the models around it, for `lift`.
    """
    for node in sort_nodes(model.inputs, model.outputs):
        here = path + node.operation.name
        yield here, node, calls
        if is_functional(node.operation):
            yield from find_calls(node.operation, f"{here}/", (*calls, (node.operation, node)))


def find_bottlenecks(model, path=""):
    """The calls that all paths from inputs to outputs run through, first to last: (path, node)."""
    nodes = sort_nodes(model.inputs, model.outputs)
    found, open_ends = [], {id(x) for x in model.outputs}
    for node in reversed(nodes):
        made = {id(x) for x in node.outputs}
        if open_ends <= made:
            here = path + node.operation.name
            found.append((here, node))
            if is_functional(node.operation):
                found.extend(reversed(find_bottlenecks(node.operation, f"{here}/")))
        open_ends = (open_ends - made) | {id(x) for x in node.input_tensors}
    return found[::-1]


def replay(nodes, tensors, call):
    """Make calls again on other tensors.

    Args:
        nodes: the calls, in order.
        tensors: dict from the id of a tensor to what stands for it; what comes out is added.
        call: function of a node and its arguments, replaced, that returns the node's outputs.
    """

    def find(x):
        return tensors.get(id(x), x) if keras.utils.is_keras_tensor(x) else x

    for node in nodes:
        arguments = (node.arguments.args, node.arguments.kwargs)
        outputs = call(node, *keras.tree.map_structure(find, arguments))
        flat = keras.tree.flatten(outputs)
        tensors |= {id(x): y for x, y in zip(node.outputs, flat, strict=True)}


@contextlib.contextmanager
def leave_no_trace(*models):
    """Build on the tensors and layers of models, and let those forget it.

    Keras notes every symbolic call in the layers that take part. What is built here runs without
    the notes, and would live as long as the models with them. It cannot be built upon later.
    """
    models = tuple(filter(is_functional, models))
    found = [x.operation for model in models for _, x, _ in find_calls(model)]
    nested = [*models, *filter(is_functional, found)]
    found += [x._keras_history.operation for model in nested for x in model.inputs]
    found += models  # as operations of graphs around them
    notes = [x for y in {id(x): x for x in found}.values() for x in _list_notes(y)]
    counts = [len(x) for x in notes]
    try:
        yield
    finally:
        for calls, count in zip(notes, counts, strict=True):
            del calls[count:]


def _list_notes(operation):
    return operation._inbound_nodes, operation._outbound_nodes


class _Inside(keras.Operation):
    """Stands in the graph around a nested model for a tensor inside it, until `rebuild`."""

    def __init__(self, tensor, shape):
        super().__init__()
        self.tensor, self.shape = tensor, shape

    def call(self, *outputs):
        raise NotImplementedError(f"{self.tensor} must be brought out by `rebuild`.")

    def compute_output_spec(self, *outputs):
        return keras.KerasTensor(self.shape, self.tensor.dtype)


def lift(tensor, calls):
    """Bring a tensor of nested models into the graph of the outermost one, for `rebuild`."""
    for model, node in reversed(calls):
        shape = tensor.shape
        if None in shape[1:]:  # of a model for any size, called on one that is known
            part = rebuild(model, tensor, "features")
            inputs = keras.tree.pack_sequence_as(part.input, node.input_tensors)
            shape = part.compute_output_spec(inputs).shape
        tensor = _Inside(tensor, shape)(*node.outputs)
    return tensor


def rebuild(model, outputs, suffix="exposed"):
    """A model from the inputs of a functional model to other tensors of its graph.

    Every layer is called as often as it was, also in nested models that several outputs are
    lifted out of.
    """
    outputs = _bring_out(model.inputs, outputs)
    rebuilt = keras.Model(structure(model)[0], outputs, name=f"{model.name}_{suffix}")
    rebuilt.dtype_policy = model.dtype_policy  # decides on loss scaling in training
    return rebuilt


def _bring_out(inputs, outputs):
    """Replace what stands for tensors of nested models: those give them as further outputs."""
    nodes = sort_nodes(inputs, keras.tree.flatten(outputs))
    inside: dict = {}  # id of the call of a nested model: the stand-ins for what is in it
    read = {id(x) for x in keras.tree.flatten(outputs)}
    for node in nodes:
        if isinstance(node.operation, _Inside):
            inside.setdefault(id(find_node(node.input_tensors[0])), []).append(node)
        else:
            read |= {id(x) for x in node.input_tensors}
    if not inside:
        return outputs
    tensors: dict = {}

    def call(node, args, kwargs):
        if isinstance(node.operation, _Inside):
            return tensors[id(node.outputs[0])]
        if id(node) in inside:
            return enter(node, args, kwargs)
        changed = any(tensors.get(id(x), x) is not x for x in node.input_tensors)
        return node.operation(*args, **kwargs) if changed else node.outputs

    def enter(node, args, kwargs):
        pairs = zip(node.outputs, node.operation.outputs, strict=True)
        own = {id(x): y for x, y in pairs if id(x) in read}
        stand_ins = {id(x.outputs[0]): x.operation.tensor for x in inside[id(node)]}
        wanted = own | stand_ins
        part = rebuild(node.operation, list(wanted.values()), "features")
        given = [tensors.get(id(x), x) for x in node.input_tensors]
        training = kwargs.get("training", *args[1:2])
        options = {} if training is None else {"training": training}
        results = part(keras.tree.pack_sequence_as(part.input, given), **options)
        tensors.update(zip(wanted, results, strict=True))
        return [tensors.get(id(x), x) for x in node.outputs]

    replay(nodes, tensors, call)
    return keras.tree.map_structure(lambda x: tensors.get(id(x), x), outputs)


def find_node(tensor):
    """The call that a tensor comes out of."""
    operation, index, _ = tensor._keras_history
    return operation._inbound_nodes[index]
