"""PyTorch: what a classifier does after a map, one call after the other.

Each call has to take what the one before it gave, as it is, flattened or pooled. Numbers say
whether it does, so that nothing hangs on names, and nothing that is computed between submodules is
overlooked.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from keras_sdd._backend.torch_modules import find_grid, is_vector

LINEAR = (nn.Linear, nn.Conv2d)
MOST_BEFORE = 8  # tokens before those of the patches
_PASSING = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten)


class InTheWay(Exception):
    """What is no map, no pooling of one, or not known to lead from one call to the next."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What leads from a map to the logits: `run`, of a `call` or between two; and its value."""

    run: Callable
    value: Any
    name: str
    call: Any = None
    is_linear: bool = False


def list_after(start, opens, closed):
    """The calls after `start`, none within another.

    Args:
        start: a call.
        opens: function that says of a call whether those within it are meant.
        closed: name of a submodule that is not opened, or None.
    """
    found: list = []

    def add(call):
        if call.children and call.name != closed and opens(call):
            for child in call.children:
                add(child)
        else:
            found.append(call)

    here = start
    while here.parent is not None:
        for call in here.parent.children:
            if call.start > here.end:
                add(call)
        here = here.parent
    return found


def follow(start, calls, logits, image_size):
    """The `Step`s from a map to the logits.

    A call that does not go on from the last value is passed over, as a branch of its own.
    """
    steps = [Step(lambda x: x, start.output, start.name)]
    first = None

    def go(wanted, name):
        nonlocal first
        between = _find_between(steps[-1].value, wanted, image_size)
        if between is None:
            first = first or (
                f"what {name} takes is not what {steps[-1].name!r} gives, nor a pooling of that"
            )
            return False
        steps.extend(between)
        return True

    for call in calls:
        if call.is_of_one_tensor and call.input is not None and go(call.input, repr(call.name)):
            steps.append(Step(call.as_function(), call.output, call.name, call))
    if not go(logits, "the logits"):
        raise InTheWay(first)
    return steps[1:]


def _find_between(value, wanted, image_size):
    """What makes `wanted` of `value`, as a list of no or one `Step`; None if nothing known does."""
    if are_close(value, wanted):
        return []
    for name, run in _list_ways(value, wanted, image_size):
        if are_close(run(value), wanted):
            return [Step(run, wanted, name, is_linear=name == "flatten" and is_vector(value))]
    return None


def _list_ways(value, wanted, image_size):
    """Ways from a value to another one that may need no submodule: (name, function)."""
    shape = tuple(wanted.shape[1:])
    count = wanted[0].numel()
    if value[0].numel() == count:
        yield "flatten", lambda x: x.reshape(x.shape[0], *shape)
        if value.dim() == wanted.dim() == 4:
            yield "permute", lambda x: x.permute(0, 2, 3, 1)
            yield "permute", lambda x: x.permute(0, 3, 1, 2)
    if is_vector(value) or not is_vector(wanted) or value.dim() not in (3, 4):
        return
    for axes in list_axes(value, count):
        yield "average", lambda x, a=axes: x.mean(a).reshape(-1, *shape)
        yield "maximum", lambda x, a=axes: x.amax(a).reshape(-1, *shape)
    if value.dim() == 3 and value.shape[2] == count:
        yield "token", lambda x: x[:, 0].reshape(-1, *shape)
        for first in range(1, min(MOST_BEFORE, value.shape[1] - 1) + 1):
            if find_grid(value.shape[1] - first, image_size):
                yield "patches", lambda x, n=first: x[:, n:].mean(1).reshape(-1, *shape)


def list_axes(maps, count):
    """The axes of positions of a map that may be: those beside an axis of `count` channels."""
    ways: list = [(2, (1,))] if maps.dim() == 3 else [(1, (2, 3)), (3, (1, 2))]
    return [axes for channels, axes in ways if maps.shape[channels] == count]


def are_close(actual, wanted, tolerance=3e-6):
    """Whether two tensors are alike but for rounding, by the largest entry.

    Twice the same sums differ by little, and a norm that is passed over may change little more.
    """
    if actual.shape != wanted.shape or not wanted.is_floating_point():
        return False
    if wanted.dtype not in (torch.float32, torch.float64):
        tolerance = 1e-2
    return bool((actual - wanted).abs().max() <= tolerance * wanted.abs().max())


def check_pooling(start, pooling):
    """Raise InTheWay if what makes a vector of a map is more than a pooling."""
    for step in pooling:
        for part in step.call.module.modules() if step.call else ():
            if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1):
                raise InTheWay(
                    f"{step.name!r} convolves the last map, {tuple(start.output.shape)} of "
                    f"{start.name!r}, to one position; give larger images by input_shape"
                )


def flattens_map(value, steps):
    """Whether steps that begin with a map make its positions entries of a vector."""
    values = [value, *(x.value for x in steps)]
    return any(
        x[0].numel() == y[0].numel() and is_vector(y) and not is_vector(x)
        for x, y in itertools.pairwise(values)
    )


def is_linear(step):
    """Whether a step after the pooling is linear, or nothing at all in inference."""
    return step.is_linear if step.call is None else is_linear_module(step.call.module)


def is_nothing(step):
    """Whether it is nothing at all in inference, but for the shape of vectors."""
    if step.call is None:
        return step.name == "flatten"
    return isinstance(step.call.module, _PASSING)


def is_linear_module(module):
    """Whether a module on vectors is linear, or nothing at all in inference."""
    kind = next((x for x in (*LINEAR, *_PASSING) if isinstance(module, x)), None)
    if kind is None or type(module).forward is not kind.forward:
        return False
    return not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1) == module.stride
