"""The directions of imports: who may know whom."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_sdd"
FILES = sorted(PACKAGE.rglob("*.py"))
BACKENDS = {"tensorflow", "jax", "torch", "tensorflow_datasets"}
# What the files of a folder, or a module, may import from keras_sdd.
MAY_IMPORT = {
    "_checks": set(),
    "_backend": {"_backend"},
    "losses": {"_checks", "losses"},
    "pooling": {"_checks"},
    "heads": {"_checks", "pooling", "heads"},
    "folding": {"heads", "models"},
    "teachers": {"folding", "heads", "losses"},
    "cache": {"_checks", "data"},
    "models": {"_backend", "_checks", "models"},
    "data": {"_checks", "data"},
    "optimizers": {"_checks"},
    "schedules": {"_checks"},
    "converters": {"_checks"},
    "distribution": {"_backend", "_checks", "data"},
}


def imported(path):
    """Names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "keras_sdd":
                yield from (f"keras_sdd.{alias.name}" for alias in node.names)


def owner(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    modules = {name.split(".")[1] for name in imported(path) if name.startswith("keras_sdd.")}
    assert modules <= MAY_IMPORT.get(owner(path), modules)
    assert not any(name.startswith(("examples", "configs", "tests")) for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_backend_folder_imports_a_backend(path):
    if owner(path) in ("_backend", "data", "converters"):
        return
    assert not {name.split(".")[0] for name in imported(path)} & BACKENDS


def test_private_keras_is_left_alone():
    for path in FILES:
        assert not any(name.startswith("keras.src") for name in imported(path)), path
