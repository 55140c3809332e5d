"""PyTorch: where a classifier pools a map, and what it makes of the pooled vector."""

import dataclasses
import functools

import torch
from torch import nn

from keras_sdd._backend import torch_functions
from keras_sdd._backend.torch_modules import (
    Capture,
    Parts,
    find_grid,
    find_logits,
    frozen,
    is_vector,
    list_state,
    move_like,
    record,
)
from keras_sdd._backend.torch_steps import (
    LINEAR,
    MOST_BEFORE,
    InTheWay,
    Step,
    are_close,
    check_pooling,
    flattens_map,
    follow,
    is_linear,
    is_linear_module,
    is_nothing,
    list_after,
    list_axes,
)

_LIMIT = 30  # maps that are tried, from the last one back


def find_parts(module, shape, features=(), classifier=None):
    """Find the `Parts` of a module.

    Args:
        module: a classifier of images.
        shape: of an image, (C, H, W).
        features: names of submodules that give maps, of which the last one is pooled; empty to
            find that.
        classifier: name of the submodule that ends in the logits, to be taken as one; or None.

    Raises:
        ValueError: if they cannot be found, with what is in the way.
    """
    images = move_like(module, torch.randn((2, *shape), generator=_generate(0)))
    others = move_like(module, torch.rand((3, *shape), generator=_generate(1)))
    before = [x.clone() for _, x in list_state(module)]
    with frozen(module):
        try:
            output, calls = record(module, images)
        except Exception as error:  # whatever it says of images that it is not made for
            raise ValueError(
                f"{type(module).__name__} fails for images of input_shape, in PyTorch's layout "
                f"{shape}: {error}"
            ) from error
        again = find_logits(module(images))
    logits = find_logits(output)
    _check_module(module, before, output, again, calls)
    reasons = []
    with frozen(module):
        expected = find_logits(module(others))
        for find in _list_searches(module, images, calls, logits, features, classifier):
            try:
                found = find()
            except InTheWay as error:
                reasons.append(str(error))
                continue
            if _is_composed(found, others, expected):
                return found
    _refuse(module, reasons, calls)


def _list_searches(module, images, calls, logits, features, classifier):
    """Functions that find the `Parts`, the likeliest first."""
    for start in _list_maps(calls, features):
        yield functools.partial(_divide, module, images, calls, start, logits, features, classifier)
    yield functools.partial(_cut, module, images, features)


def _generate(seed):
    return torch.Generator().manual_seed(seed)


def _check_module(module, before, output, again, calls):
    """Raise a ValueError if a module is no classifier, or no function of its input."""
    kind, logits = type(module).__name__, find_logits(output)
    for (name, now), value in zip(list_state(module), before, strict=True):
        if not torch.equal(now, value):
            now.data.copy_(value)
            raise ValueError(
                f"{kind} changes its {name!r} in inference mode; a teacher stays as it is. Let it "
                "look at self.training before it does"
            )
    if logits is None or logits.dim() != 2 or logits.shape[0] != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"A teacher gives logits (B, K), by themselves or as output.logits. Received: {kind}, "
            f"which gives a {type(output).__name__} {tuple(getattr(logits, 'shape', ()))}"
        )
    if not torch.equal(logits, again):
        raise ValueError(
            f"{kind} gives different logits for the same images in inference mode: something "
            "random does not look at self.training, torch.nn.functional.dropout for one"
        )
    if logits.min() >= 0 and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), 1e-3):
        last = max((x for x in calls if x.name), key=lambda x: x.end, default=None)
        raise ValueError(
            f"{kind} gives probabilities, and logits are wanted: put torch.nn.Identity() in the "
            f"place of its softmax. Received: {getattr(last, 'name', None)!r} as the last submodule"
        )


def _list_maps(calls, features):
    """The calls whose output may be what is pooled, the likeliest first."""
    last = {x.name: x for x in calls}  # of a submodule that is called again the last call
    outputs = [x for x in reversed(calls) if x is last[x.name] and x.output is not None and x.name]
    if features:
        return [x for x in outputs if x.name == features[-1]]
    maps = [x for x in outputs if x.output.dim() in (3, 4) and not is_vector(x.output)]
    return [x for x in maps if x.output.is_floating_point() and x.output.shape[0] == 2][:_LIMIT]


def _divide(module, images, calls, start, logits, features, classifier):
    """The `Parts` of which `start` gives the map."""
    if start.output.dim() not in (3, 4) or is_vector(start.output):
        raise InTheWay(f"{start.name!r} gives {tuple(start.output.shape)}, which is no map")
    if start.output.amax() == start.output.amin():
        raise InTheWay(f"{start.name!r} gives the same number everywhere")
    body = Capture(module, tuple(dict.fromkeys((*features[:-1], start.name))))
    reasons = []
    for opens in _list_views(calls):
        try:
            after = list_after(start, opens, classifier)
            steps = follow(start, after, logits, images.shape[2:])
            index = next(i for i, step in enumerate(steps) if is_vector(step.value))
            pooling, rest = steps[: index + 1], steps[index + 1 :]
            check_pooling(start, pooling)
            return _make_parts(module, body, images, pooling, rest, start.name)
        except InTheWay as error:
            reasons.append(error)
    raise reasons[0]


def _list_views(calls):
    """Ways to look at the calls after a map: which of them are opened.

    Those that end in the classifier at first, so that what it reads is known, then all, in case one
    of them pools between its own submodules, then none, as they may compute more than those.
    """
    linear = [x for x in calls if isinstance(x.module, LINEAR)]
    last = max(linear, key=lambda x: x.end, default=None)

    def has_last(call):
        return last is not None and call.start <= last.start and last.end < call.end

    yield lambda call: has_last(call) or isinstance(call.module, nn.Sequential)
    yield lambda call: True
    yield lambda call: isinstance(call.module, nn.Sequential)


def _cut(module, images, features):
    """The `Parts` by the code of the module."""
    found = torch_functions.cut(module, images, features, is_linear_module)
    if found is None:
        raise InTheWay("its code cannot be traced and cut apart")
    ((body, _), *others), linear, names = found
    pooling, rest = (
        Step(run, value, f"{name}()") for (run, value), name in zip(others, names, strict=True)
    )
    rest = dataclasses.replace(rest, is_linear=linear)
    name = features[-1] if features else "features"
    return _make_parts(module, body, images, [pooling], [rest], name)


def _make_parts(module, body, images, pooling, rest, name):
    """The `Parts` that `Step`s from the map to the logits make."""
    maps = body(images)
    raw, vector = maps[-1], pooling[-1].value
    run = _chain(pooling)
    kind, layout, num_before = _find_kind(run, raw)
    if layout == "tokens" and kind != "token":
        if find_grid(raw.shape[1] - num_before, images.shape[2:]) is None:
            raise InTheWay(f"the tokens {tuple(raw.shape)} are no map of the shape of the images")
    takes_any_size = _takes_any_size(run, raw, layout) and not flattens_map(raw, pooling)
    linear = [x for x in rest if x.call is not None and isinstance(x.call.module, LINEAR)]
    last = (linear or rest or pooling)[-1]
    return Parts(
        module=module,
        body=body,
        maps=maps,
        layouts=(*(_find_layout(x, images.shape[2:], layout) for x in maps[:-1]), layout),
        kind=kind,
        pool=run,
        takes_any_size=takes_any_size,
        num_before=num_before,
        vector=vector,
        classify=None if all(map(is_nothing, rest)) else _chain(rest),
        logits=rest[-1].value if rest else vector,
        is_linear=all(map(is_linear, rest)),
        names=(name, pooling[-1].name, last.name),
    )


def _chain(steps):
    functions = [step.run for step in steps]  # the steps hold a whole forward pass

    def run(x):
        x = x.clone()  # some change their input in place
        for function in functions:
            x = function(x)
        return x

    return run


def _find_layout(x, image_size, otherwise):
    """The layout of a map that is not pooled, told by the shape of the images."""
    if x.dim() == 3:
        return "tokens"
    first, last = (
        abs(width - height * image_size[1] / image_size[0]) < 1
        for height, width in (x.shape[2:], x.shape[1:3])
    )
    if first == last:
        return "channels_first" if otherwise == "tokens" else otherwise
    return "channels_first" if first else "channels_last"


def _find_kind(pool, raw):
    """What a pooling is, told by what it makes of random maps: kind, layout, `num_before`."""
    maps = torch.randn(raw.shape, generator=_generate(2)).to(raw)
    pooled = pool(maps).flatten(1)
    layouts = {(1,): "tokens", (2, 3): "channels_first", (1, 2): "channels_last"}
    for axes in list_axes(raw, pooled.shape[1]):
        ways = [("average", maps.mean(axes), 0), ("maximum", maps.amax(axes), 0)]
        if raw.dim() == 3:
            counts = range(1, min(MOST_BEFORE, raw.shape[1] - 1) + 1)
            ways += [("average", maps[:, n:].mean(1), n) for n in counts]
            ways += [("token", maps[:, 0], 0)]
        for kind, expected, num_before in ways:
            if are_close(pooled, expected):
                return kind, layouts[axes], num_before
    if raw.dim() == 3:
        return "own", "tokens", 0
    sized = [x for x in ("channels_first", "channels_last") if _takes_any_size(pool, raw, x)]
    return "own", sized[0] if sized else "channels_first", 0


def _takes_any_size(pool, raw, layout):
    """Whether a pooling makes vectors of one length of maps of any size."""
    shapes = set()
    for size in (1, 2):
        part = raw[:, : size * size] if layout == "tokens" else raw[:, :, :size, :size]
        part = raw[:, :size, :size] if layout == "channels_last" else part
        try:
            shapes.add(tuple(pool(part).shape[1:]))
        except Exception:  # whatever it says of a size that it is not made for
            return False
    return len(shapes) == 1


def _is_composed(parts, images, logits):
    """Whether the parts give the module's own logits."""
    outputs = parts.pool(parts.body(images)[-1])
    outputs = outputs if parts.classify is None else parts.classify(outputs)
    return are_close(outputs.flatten(1), logits, 1e-5)


def _refuse(module, reasons, calls):
    last = [f"{x.name!r} ({type(x.module).__name__})" for x in calls if x.name and not x.children]
    reason = reasons[0] if reasons else "no submodule gives a map"
    kind = type(module).__name__
    raise ValueError(
        f"Where {kind} pools a map, and what it makes of that, was not found: {reason}. Name the "
        "submodule whose output is pooled, features=..., and the one that makes logits of that, "
        "classifier=...; what is computed between submodules has to become one, such as a "
        "torch.nn.ReLU. Or let keras_sdd.cache_outputs store what the module gives. "
        f"Received: the last submodules {', '.join(last[-6:])}"
    )
