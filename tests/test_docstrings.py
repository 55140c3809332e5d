"""Every public name has an example in its docstring, and every example runs.

An example stands in the section `Examples:`, which mkdocstrings renders, in the form of doctest. It
finds `keras`, `keras_sdd` and NumPy as `np`, an empty folder to write to, and a seed that is set.
Outputs are those of all backends: shapes, names, rounded numbers.
"""

import contextlib
import doctest
import inspect
import re
import sys

import keras
import numpy as np
import pytest
from backends import BACKEND

import keras_sdd

SPECIAL = ("__init__", "__call__")
# What a backend cannot have.
ONLY_ON = {
    "keras_sdd.teachers.from_jax": ("jax", "tensorflow"),
    "keras_sdd.teachers.from_torch": ("torch",),
}


def list_public():
    """Name -> function or class, of the package and of its public modules."""
    modules = [keras_sdd, *(getattr(keras_sdd, name) for name in keras_sdd.__all__)]
    modules = [x for x in modules if inspect.ismodule(x)]
    found = {f"{x.__name__}.{name}": getattr(x, name) for x in modules for name in x.__all__}
    own = {name: x for name, x in found.items() if inspect.isclass(x) or inspect.isfunction(x)}
    return {name: x for name, x in own.items() if x.__module__.startswith("keras_sdd.")}


PUBLIC = list_public()


@pytest.mark.parametrize("name", PUBLIC)
def test_example(name, tmp_path, monkeypatch):
    docstring = inspect.getdoc(PUBLIC[name]) or ""
    assert "\nExamples:\n" in docstring, f"the docstring of {name} has no example"
    globs = {"__name__": "__main__", "keras": keras, "keras_sdd": keras_sdd, "np": np}
    example = doctest.DocTestParser().get_doctest(docstring, globs, name, None, None)
    assert any(x.want for x in example.examples), f"the example of {name} shows no result"
    if BACKEND not in ONLY_ON.get(name, (BACKEND,)):
        pytest.skip("not for this backend")
    monkeypatch.chdir(tmp_path)
    told = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    with train_alone(name, monkeypatch):
        runner.run(example, out=told.append)
    assert not runner.failures, "".join(told)


@contextlib.contextmanager
def train_alone(name, monkeypatch):
    """What the example of `initialize` needs and leaves: a launcher's variables, and devices."""
    if name != "keras_sdd.distribution.initialize":
        yield
        return
    launched = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "localhost"}
    launched["MASTER_PORT"] = 0
    for key, value in launched.items() if BACKEND == "torch" else ():
        monkeypatch.setenv(key, str(value))
    try:
        yield
    finally:
        if BACKEND == "jax":
            keras.distribution.set_distribution(None)
        elif BACKEND == "tensorflow":
            sys.modules["tensorflow"].distribute.experimental_set_strategy(None)
        else:
            import atexit

            from torch import distributed

            atexit.unregister(distributed.destroy_process_group)
            distributed.destroy_process_group()


def list_signatures():
    """Name -> what has a signature: functions, methods and properties of the public names."""
    found = {}
    for name, x in PUBLIC.items():
        if not inspect.isclass(x):
            found[name] = x
            continue
        own = [c for c in x.__mro__ if c.__module__.startswith("keras_sdd")]
        members = {key: value for c in reversed(own) for key, value in vars(c).items()}
        for key, value in members.items():
            value = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if inspect.isfunction(value) and (key in SPECIAL or not key.startswith("_")):
                found[f"{name}.{key}"] = value
    return found


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_signatures_are_annotated():
    bare = []
    for name, function in list_signatures().items():
        signature = inspect.signature(function)
        parameters = [x for key, x in signature.parameters.items() if key not in ("self", "cls")]
        bare += [f"{name}: {x.name}" for x in parameters if x.annotation is x.empty]
        bare += [f"{name}: ->"] * (signature.return_annotation is signature.empty)
    assert not bare, "without annotations: " + ", ".join(bare)


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_arguments_are_described():
    """All of them, one a line: mkdocstrings reads no other form."""
    wrong = []
    for name, function in list_signatures().items():
        public = PUBLIC.get(name.removesuffix(".__init__"))
        docstring = inspect.cleandoc((public or function).__doc__ or "")
        # Of a dataclass, its attributes.
        section = re.search("^(?:Args|Attributes):\n((?: .*\n|\n)*)", f"{docstring}\n", re.M)
        if section is None and public is None:
            continue  # what overrides something is described there
        described = re.findall(r"^    \*{0,2}(\w[^:`]*):", section[1] if section else "", re.M)
        parameters = [x for x in inspect.signature(function).parameters if x not in ("self", "cls")]
        if described != parameters:
            wrong.append(f"{name}: {described}, not {parameters}")
    assert not wrong, "; ".join(wrong)
