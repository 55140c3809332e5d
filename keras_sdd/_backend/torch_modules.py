"""PyTorch: modules of others as frozen functions, and records of what they call."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch


@contextlib.contextmanager
def frozen(module):
    """Run a module in inference mode without a gradient, and leave its modes as they were."""
    training = [part for part in module.modules() if part.training]
    for part in training:  # not by eval(), which some modules give a meaning of their own
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


def list_state(module):
    """Parameters and buffers, (name, tensor) pairs, each tensor once."""
    return [*module.named_parameters(), *module.named_buffers()]


def move_like(module, x):
    """A tensor on the device and in the precision of a module."""
    like = next((v for _, v in list_state(module) if v.is_floating_point()), x)
    return x.to(like.device, like.dtype)


def is_vector(x):
    """Whether a tensor is (B, C), (B, C, 1, 1) and the like."""
    return max(x.shape[1:], default=1) == math.prod(x.shape[1:])


def find_logits(output):
    """The tensor of logits in what a classifier returns, or None."""
    if isinstance(output, dict):
        output = output.get("logits")
    logits = getattr(output, "logits", output)
    return logits if isinstance(logits, torch.Tensor) else None


@dataclasses.dataclass(eq=False)
class Call:
    """The call of a submodule in a forward pass.

    Attributes:
        name: of the submodule, `""` for the module itself.
        module: the submodule.
        arguments, options: what it was called with.
        input, output: the tensors that went in first and came out, copied; None if there is none.
        parent, children: the calls around it and within it.
        start, end: when it was called and when it was done.
    """

    name: str
    module: Any
    arguments: tuple
    options: dict
    input: Any
    parent: Any
    start: int
    end: int = 0
    output: Any = None
    children: list = dataclasses.field(default_factory=list)

    def as_function(self):
        """The submodule as it was called, of another tensor; it keeps nothing of the record."""
        module, others, options = self.module, self.arguments[1:], self.options
        return lambda x: module(x, *others, **options)

    @property
    def is_of_one_tensor(self):
        others = [*self.arguments[1:], *self.options.values()]
        first = self.arguments[:1]
        return (
            bool(first)
            and isinstance(first[0], torch.Tensor)
            and isinstance(self.output, torch.Tensor)
            and not any(isinstance(x, torch.Tensor) for x in others)
        )


def record(module, images):
    """Run a module once; return what it gave and all `Call`s, in the order of their ends."""
    stack: list = []
    done: list = []
    names = {id(part): name for name, part in module.named_modules()}
    clock = iter(range(10**9))

    def enter(part, arguments, options):
        tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
        given = tensors[0].clone() if tensors else None
        parent = stack[-1] if stack else None
        call = Call(names[id(part)], part, arguments, options, given, parent, next(clock))
        if parent is not None:
            parent.children.append(call)
        stack.append(call)

    def leave(part, arguments, options, output):
        call = stack.pop()
        call.end = next(clock)
        call.output = output.clone() if isinstance(output, torch.Tensor) else None
        done.append(call)

    handles = []
    for part in module.modules():
        handles.append(part.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(part.register_forward_hook(leave, with_kwargs=True))
    try:
        output = module(images)
    finally:
        for handle in handles:
            handle.remove()
    return output, done


@dataclasses.dataclass(frozen=True)
class Capture:
    """Images to the outputs of submodules, by running the whole module.

    What comes after the last of them is little, and left out of a traced graph.
    """

    module: Any
    names: tuple[str, ...]

    def __call__(self, images):
        found = {}

        def keep(name):
            return lambda part, arguments, output: found.update({name: output.clone()})

        parts = [(name, self.module.get_submodule(name)) for name in self.names]
        handles = [part.register_forward_hook(keep(name)) for name, part in parts]
        try:
            self.module(images)
        finally:
            for handle in handles:
                handle.remove()
        return [found[name] for name in self.names]


@dataclasses.dataclass(frozen=True)
class Parts:
    """A classifier as body, pooling and what follows, each computed by the module itself.

    Attributes:
        module: the whole.
        body: images (B, C, H, W) to a list of maps, of which the last one is pooled.
        maps: those of a batch.
        layouts: of the maps: `"channels_first"`, `"channels_last"`, `"tokens"`.
        kind: of the pooling: `"average"`, `"maximum"`, `"token"` (the first) or `"own"`.
        pool: such a map to vectors, where the kind is `"own"`.
        takes_any_size: whether it does that of maps of any size.
        num_before: how many tokens come before those that are pooled.
        vector: what is pooled of that batch, as the module has it.
        classify: such vectors to logits (B, K); None where they are the logits.
        logits: those of that batch.
        is_linear: whether `classify` is one linear layer.
        names: of the last map, the pooling and the classifier.
    """

    module: Any
    body: Callable
    maps: list
    layouts: tuple[str, ...]
    kind: str
    pool: Callable
    takes_any_size: bool
    num_before: int
    vector: Any
    classify: Callable | None
    logits: Any
    is_linear: bool
    names: tuple[str, str, str]


def find_grid(count, image_size):
    """Height and width of a map of so many tokens, of the shape of the images; None if none is."""
    height = round(math.sqrt(count * image_size[0] / image_size[1]))
    if height < 1 or count % height:
        return None
    width = count // height
    return (height, width) if abs(width - height * image_size[1] / image_size[0]) < 1 else None
