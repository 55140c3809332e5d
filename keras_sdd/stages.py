"""Where the stages of a network end: the layers that feature distillation compares."""

import re
from typing import Any

import keras

from keras_sdd.graphs import (
    find_bottlenecks,
    find_calls,
    find_node,
    is_functional,
    is_kind,
    is_vector,
)

# Of each family of the zoo: its stem, the ends of its stages, and those before their activation.
# Where a pattern has two numbers they are stage and block, and the last block ends the stage.
_FAMILIES: tuple = (
    # ResNet, ShuffleNetV1
    ("bn1_relu", [r"layer(\d+)_(\d+)_relu"], [r"layer(\d+)_(\d+)_add"]),
    # ShuffleNetV2, in which no layer has both halves of a unit before their activation
    ("bn1_relu", [r"layer(\d+)_(\d+)_shuffle_merge"], []),
    # WRN: the next block normalizes and activates
    (
        "conv1",
        [r"block(\d+)_layer_(\d+)_add"],
        ["block2_layer_0_bn1", "block3_layer_0_bn1", "bn1"],
    ),
    # VGG
    (r"block(0)_(\d+)_relu", [r"block([1-9])_(\d+)_relu"], [r"block([1-9])_(\d+)"]),
    # MobileNetV2, whose stages end without an activation
    (
        "conv1_1_relu",
        [f"blocks_{x}" for x in ("1_1_conv_add", "2_2_conv_add", "4_2_conv_add", "6_0_conv_7")],
        [],
    ),
    # MobileNetV1
    (None, [f"model_{i}_4_relu" for i in (3, 5, 11, 13)], [f"model_{i}_4" for i in (3, 5, 11, 13)]),
)


def stages(model: keras.Model) -> dict[str, Any]:
    """The layers of a network of the zoo that feature distillation compares.

    They are those that public code, of which the papers' figures come, calls by the same words.

    Args:
        model: as `keras_sdd.models.build` makes it, also as a layer of another model.

    Returns:
        dict of `"feats"`, the names of the layers that end the stem and the stages;
        `"preact_feats"`, the same before their activation, empty where no layer gives that; and
        `"pooled_feat"`, the name of the pooling. Inside another model they are paths.

    Raises:
        ValueError: if the model is none of the zoo.

    Examples:
        >>> model = keras_sdd.models.build("cifar100/resnet8")
        >>> found = keras_sdd.models.stages(model)
        >>> found["feats"], found["pooled_feat"]
        (['bn1_relu', 'layer1_0_relu', 'layer2_0_relu', 'layer3_0_relu'], 'avgpool')
    """
    found = _find_family(model)
    if found is None:
        raise ValueError(
            "The stages of a network are known by the names of its layers, for those that "
            "keras_sdd.models.build makes; for any other model see keras_sdd.Network(model).stages."
            f" Received: {model.name!r}"
        )
    stem, ends, before, pooling = found
    return {
        "feats": stem + ends,
        "preact_feats": stem + before if before else [],
        "pooled_feat": pooling,
    }


def find_stages(model, channels_first=False):
    """Paths of the layers that end the stages, without the stem, and of those before activation.

    Of networks of the zoo by name, of KerasHub's backbones their pyramid outputs, of any other
    model the last layers of each map size that everything runs through. What comes before the
    activation is, outside the zoo, the input of a layer that is an activation.
    """
    found = _find_family(model)
    if found is not None:
        _, ends, before, _ = found
        return ends, before or ends
    ends = _find_pyramid(model) or _find_sizes(model, channels_first)
    calls = {path: node for path, node, _ in find_calls(model)}
    return ends, [_before_activation(path, calls) for path in ends]


def find_last_map(model):
    """The path of the layer that gives the map (B, H, W, C) to be pooled, or None.

    It is the last map that everything runs through: where a network normalizes and activates after
    its last stage, what comes of that.
    """
    outputs = {path: node.outputs[0] for path, node in find_bottlenecks(model)}
    maps = [path for path, x in outputs.items() if len(x.shape) == 4 and not is_vector(x)]
    return maps[-1] if maps else None


def _find_family(model):
    """Stem, ends, ends before activation and pooling, if the names of the layers are the zoo's."""
    paths = [path for path, *_ in find_calls(model)]
    for place in dict.fromkeys(path.rpartition("/")[0] for path in paths):
        start = len(place) + 1 if place else 0
        names = [path[start:] for path in paths if path.rpartition("/")[0] == place]
        for stem, ends, before in _FAMILIES:
            patterns = [[stem] if stem else [], ends, before, ["avgpool"]]
            groups = [_match(x, names) for x in patterns]
            if None not in groups:
                prefix = f"{place}/" if place else ""
                *groups, (pooling,) = [[prefix + name for name in group] for group in groups]
                return *groups, pooling
    return None


def _match(patterns, names):
    """The names that patterns stand for; None if one has none."""
    found = []
    for pattern in patterns:
        matches = [x for x in (re.fullmatch(pattern, name) for name in names) if x]
        last: dict = {}
        for x in matches:
            stage, block = map(int, x.groups() or (0, 0))
            if stage not in last or block > last[stage][0]:
                last[stage] = (block, x.string)
        if not last:
            return None
        found += [name for _, (_, name) in sorted(last.items())]
    return found


def _find_pyramid(model):
    """Paths of the layers that a backbone names as the levels of its pyramid, fine to coarse."""
    calls = [(path, node) for path, node, _ in find_calls(model)]
    for operation in (model, *(node.operation for _, node in calls)):
        levels = getattr(operation, "pyramid_outputs", None) if is_functional(operation) else None
        if levels:
            makers = {id(find_node(x)) for x in levels.values() if len(x.shape) == 4}
            return [path for path, node in calls if id(node) in makers]
    return []


def _find_sizes(model, channels_first):
    ends = {}
    for path, node in find_bottlenecks(model):
        x, pads = node.outputs[0], is_kind(node.operation, "ZeroPadding2D")
        if len(x.shape) == 4 and not is_vector(x) and not pads:
            ends[tuple(x.shape[2:] if channels_first else x.shape[1:3])] = path
    return list(ends.values())


def _before_activation(path, calls):
    """The path of what an activation is computed of; of other layers the path itself."""
    node = calls[path]
    if not is_kind(node.operation, "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU"):
        return path
    maker = find_node(node.input_tensors[0])
    place = path.rpartition("/")[0]
    before = f"{place}/{maker.operation.name}" if place else maker.operation.name
    return before if before in calls else path
