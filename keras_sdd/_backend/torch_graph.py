"""PyTorch: a frozen network as a graph of tensor operations, without what layers add to them.

Keras's layers cost more than a small convolution on a GPU, and its channels-last convolutions copy
their input twice. The graph is traced once for each shape of the input and reads the variables
themselves, so it follows them when they change.
"""

import logging
import weakref

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

_MAX_SHAPES = 8
_graphs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_logger = logging.getLogger("keras_sdd")
_aten = torch.ops.aten


def run(network, x):
    """Return `network(x, training=False)` without a gradient."""
    with torch.no_grad():
        if not isinstance(x, torch.Tensor) or x.is_meta or torch.compiler.is_compiling():
            return network(x, training=False)
        graphs = _graphs.setdefault(network, {})
        key = (x.shape, x.dtype, x.device)
        if key not in graphs and len(graphs) < _MAX_SHAPES:
            graphs[key] = _trace(network, x)
        return (graphs.get(key) or _Layers(network))(x)


class _Layers:
    """The network itself, called as a graph is."""

    def __init__(self, network):
        self.network = network

    def __call__(self, x):
        return self.network(x, training=False)


def _trace(network, x):
    """Return the graph of a network for inputs like `x`, or None if it would not do the same."""
    expected = network(x, training=False)
    call = torch.func.functionalize(_Layers(network), remove="mutations")
    try:
        traced = make_fx(call)(x)
        _simplify(traced)
        actual = traced(x)
    except Exception as error:  # whatever a layer does that tracing does not take
        _logger.warning("The teacher runs layer by layer: it could not be traced (%s).", error)
        return None
    if not all(map(_are_close, tree_leaves(actual), tree_leaves(expected))):
        _logger.warning("The teacher runs layer by layer: it is not a pure function of its input.")
        return None
    return traced


def _are_close(actual, expected):
    largest = expected.nan_to_num(0.0, 0.0, 0.0).abs().max().item()  # of images that may hold NaN
    tolerance = (1e-4 if expected.dtype == torch.float32 else 3e-2) * largest
    return torch.allclose(actual, expected, rtol=0.0, atol=tolerance, equal_nan=True)


def _simplify(traced):
    """Leave out copies, and give biases to the convolutions that they follow."""
    graph = traced.graph
    for node in list(graph.nodes):
        if node.target == _aten.clone.default:  # nothing is changed in place
            node.replace_all_uses_with(node.args[0])
        elif node.target in (_aten.view.default, _aten._unsafe_view.default):  # they wanted copies
            node.target = _aten.reshape.default
    for node in list(graph.nodes):
        if node.target == _aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            _fuse_bias(node, *node.args)
    graph.eliminate_dead_code()
    traced.recompile()


def _fuse_bias(add, outputs, bias):
    """Replace `add` if it adds a variable (C,), reshaped, to the channels of a convolution."""
    nodes = isinstance(outputs, torch.fx.Node) and isinstance(bias, torch.fx.Node)
    if not nodes or outputs.target != _aten.permute.default or len(outputs.users) > 1:
        return
    convolution = outputs.args[0]
    if convolution.target != _aten.convolution.default or len(convolution.users) > 1:
        return
    if bias.target != _aten.reshape.default or bias.args[0].op != "get_attr":
        return
    channels = convolution.meta["val"].shape[1]
    last = tuple(bias.meta["val"].shape)[-1] == channels == bias.meta["val"].numel()
    order = list(outputs.args[1])
    if last and order[-1] == 1 and convolution.args[2] is None:
        # The variable is read before the convolution now.
        convolution.prepend(bias.args[0])
        convolution.update_arg(2, bias.args[0])
        add.replace_all_uses_with(outputs)
