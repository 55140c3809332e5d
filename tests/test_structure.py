"""The directions of imports: who may know whom."""

import ast
import pathlib

import pytest
from backends import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_sdd"
FILES = sorted(PACKAGE.rglob("*.py"))
BACKENDS = {"tensorflow", "jax", "torch", "tensorflow_datasets"}
# What the files of a folder, or a module, may import from keras_sdd beside `typing`.
MAY_IMPORT = {
    "typing": set(),
    "_checks": set(),
    "_devices": set(),
    "_backend": {"_backend"},
    "losses": {"_checks", "losses"},
    "pooling": {"_checks"},
    "graphs": set(),
    "normalization": {"_backend", "graphs"},
    "regions": {"graphs", "pooling"},
    "head_search": {"graphs", "regions"},
    "heads": {"graphs", "head_search", "normalization", "pooling", "regions"},
    "stages": {"graphs"},
    "networks": {"_checks", "graphs", "heads", "stages"},
    "folds": {"graphs", "normalization"},
    "folding": {"folds", "graphs", "regions"},
    "frozen_teacher": {"_backend", "folding", "graphs", "heads", "losses", "networks"},
    "terms": {"_backend", "_checks", "losses", "networks", "normalization", "pooling", "terms"},
    "calibration": {"_checks"},
    "inspection": {"_checks", "calibration", "graphs", "losses", "networks", "frozen_teacher"},
    "callbacks": set(),
    "first_batch": {"_backend"},
    "metrics": {"losses"},
    "student_state": {"_backend"},
    "supervision": {"losses"},
    # It knows the parts that it is made of, none of a method.
    "distiller": {
        *("_backend", "_checks", "_devices", "callbacks", "first_batch", "graphs", "heads"),
        *("losses", "metrics", "networks", "student_state", "supervision", "frozen_teacher"),
        "terms",
    },
    "sdd": {"_checks", "distiller", "losses", "terms"},
    "simkd": {"graphs", "networks", "normalization"},
    "store_files": set(),
    "cell_store": {"store_files"},
    "cell_formats": {"_checks"},
    "stored_teacher": {"_checks", "cell_formats", "cell_store", "data", "heads", "store_files"},
    "cache": {"_checks", "cell_store", "data", "distiller", "stored_teacher"},
    "outputs": {
        *("_checks", "cache", "cell_formats", "cell_store", "data", "pooling", "stored_teacher"),
    },
    "models": {"_checks", "models", "normalization", "stages"},
    "data": {"_checks", "data"},
    "teachers": {"_backend", "_checks", "graphs", "heads", "regions", "teachers"},
    "optimizers": {"_checks"},
    "schedules": {"_checks"},
    "converters": {"_checks"},
    "distribution": {"_backend", "_checks", "_devices", "data"},
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
    assert modules - {"typing"} <= MAY_IMPORT.get(owner(path), modules)
    assert not any(name.startswith(("examples", "configs", "tests")) for name in imported(path))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_backend_folder_imports_a_backend(path):
    if owner(path) in ("_backend", "data", "converters"):
        return
    assert not {name.split(".")[0] for name in imported(path)} & BACKENDS


def test_private_keras_is_left_alone():
    for path in FILES:
        assert not any(name.startswith("keras.src") for name in imported(path)), path


def test_every_part_has_its_rule():
    parts = {owner(path) for path in FILES} - {"__init__"}
    assert parts == set(MAY_IMPORT)


def test_the_distiller_knows_terms_by_their_base_alone():
    names = set(imported(PACKAGE / "distiller.py"))
    assert {x for x in names if x.startswith("keras_sdd.terms")} == {"keras_sdd.terms.base"}


def test_a_distiller_needs_no_input_pipeline():
    needed, waiting = set(), ["sdd"]
    while waiting:
        part = waiting.pop()
        if part not in needed:
            needed.add(part)
            waiting.extend(MAY_IMPORT[part])
    assert not needed & {
        *("data", "cache", "cell_store", "outputs", "stored_teacher", "models", "distribution"),
    }
