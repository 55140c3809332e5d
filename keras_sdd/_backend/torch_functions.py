"""PyTorch: modules cut apart by their code, where they compute something between submodules."""

import torch
from torch import fx, nn

from keras_sdd._backend.torch_modules import is_vector

_PASSING = ("flatten", "view", "reshape", "squeeze", "contiguous", "size", "getattr", "getitem")


def cut(module, images, names, is_linear):
    """Trace the code of a module and cut it where it pools.

    Args:
        module: the classifier.
        images: a batch for it.
        names: of submodules that give maps, the last of which is pooled; empty to find that.
        is_linear: function that says whether a submodule is linear, or nothing in inference.

    Returns:
        Body, pooling and what follows, functions of tensors, each with its value; whether the last
        one is linear; and names of the last two. None if the code cannot be traced or cut.
    """
    try:
        traced = fx.symbolic_trace(module)
        values = _Values(traced)
        values.run(images)
    except Exception:  # whatever code does that depends on numbers
        return None
    found = values.found
    cuts = [x for x in _find_cuts(traced.graph) if isinstance(found.get(x), torch.Tensor)]
    inner = [x for x in traced.graph.nodes if x.op == "call_module"]
    maps = [_last(inner, name) for name in names]
    if None in maps:
        return None
    if not names:
        maps = [x for x in cuts if found[x].dim() in (3, 4) and not is_vector(found[x])][-1:]
    if not maps or maps[-1] not in cuts or maps[-1].op == "placeholder":
        return None
    after = cuts[cuts.index(maps[-1]) + 1 :]
    pooled = next((x for x in after if is_vector(found[x]) and x.op != "output"), None)
    if pooled is None or _convolves(traced, maps[-1], pooled):
        return None
    images_node, *others = (x for x in traced.graph.nodes if x.op == "placeholder")
    if any(x.users for x in others):
        return None
    end = next(x for x in traced.graph.nodes if x.op == "output").args[0]
    body = _extract(traced, images_node, maps)
    pool = _extract(traced, maps[-1], [pooled])
    rest = _extract(traced, pooled, [end])
    linear = all(_passes(x, traced, is_linear) for x in _between(traced, pooled, end))
    parts = (
        (body, None),
        (lambda x: pool(x)[0], found[pooled]),
        (lambda x: rest(x)[0], found[end]),
    )
    return parts, linear, (pooled.name, end.name)


class _Values(fx.Interpreter):
    """Runs a graph and keeps what every node gives."""

    def __init__(self, traced):
        super().__init__(traced, garbage_collect_values=False)
        self.found = {}

    def run_node(self, n):
        value = super().run_node(n)
        self.found[n] = value.clone() if isinstance(value, torch.Tensor) else value
        return value


def _last(nodes, name):
    return next((x for x in reversed(nodes) if x.target == name), None)


def _find_cuts(graph):
    """The nodes that everything runs through, in order."""
    nodes = [x for x in graph.nodes if x.op != "get_attr"]
    places = {x: i for i, x in enumerate(nodes)}
    cuts, furthest = [], 0
    for i, node in enumerate(nodes):
        if furthest <= i:
            cuts.append(node)
        furthest = max([furthest, *(places[x] for x in node.users if x in places)])
    return cuts


def _between(traced, start, end):
    nodes = list(traced.graph.nodes)
    return nodes[nodes.index(start) + 1 : nodes.index(end) + 1]


def _convolves(traced, start, end):
    modules = [
        traced.get_submodule(x.target)
        for x in _between(traced, start, end)
        if x.op == "call_module"
    ]
    return any(isinstance(x, nn.Conv2d) and x.kernel_size != (1, 1) for x in modules)


def _passes(node, traced, is_linear):
    """Whether a node is linear, or nothing at all in inference."""
    if node.op == "call_module":
        return is_linear(traced.get_submodule(node.target))
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name in _PASSING or node.target is nn.functional.dropout


def _extract(traced, start, ends):
    """A graph from one node of another graph to a list of others, with the same submodules."""
    graph = fx.Graph()
    copies = {start: graph.placeholder("x")}

    def find(node):
        if node not in copies and node.op == "get_attr":
            copies[node] = graph.node_copy(node)
        return copies[node]

    # `ends` come in the order of the graph, the last one last.
    for node in _between(traced, start, ends[-1]):
        if node.op != "get_attr":
            copies[node] = graph.node_copy(node, find)
    graph.output([copies[x] for x in ends])
    return fx.GraphModule(traced, graph)
