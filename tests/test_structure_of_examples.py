"""The folders of the examples: who may know whom."""

import importlib.machinery
import pathlib
import sys

import pytest
from backends import BACKEND
from test_structure import imported

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
# What the modules of a folder may import from other folders. Programs may import any folder.
MAY_IMPORT = {
    "training": set(),
    "scenes": set(),
    "exports": set(),
    "libraries": set(),
    "reports": {"training"},
    "drawings": {"reports", "training"},
    "studies": {"reports", "training"},
    "images": {"drawings", "training"},
    "benchmarks": {"training"},
}
# The trainers of one kind are the other program, with a check before it; the picture of the method
# has the quickstart's teacher.
MAY_IMPORT_PROGRAMS = {
    "train_teacher": {"train"},
    "distill": {"train"},
    "draw_method": {"quickstart"},
}
TUTORIALS = {"tutorials"}  # each stands alone
PROGRAMS = {path.stem for path in EXAMPLES.glob("*.py")} - {"repository"} - TUTORIALS
FILES = [
    path
    for path in sorted(EXAMPLES.rglob("*.py"))
    if path.relative_to(EXAMPLES).with_suffix("").parts[0] not in TUTORIALS
]


def list_imports(path):
    """Return the folders and the programs that a file imports."""
    tops = {name.split(".")[0] for name in imported(path)}
    return tops & MAY_IMPORT.keys(), tops & PROGRAMS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(EXAMPLES)))
def test_imports_go_one_way(path):
    folders, programs = list_imports(path)
    folder = path.relative_to(EXAMPLES).parts[0]
    if folder in MAY_IMPORT:
        assert folders <= MAY_IMPORT[folder] | {folder} and not programs
    else:
        assert programs <= MAY_IMPORT_PROGRAMS.get(path.stem, set())


def test_every_folder_has_its_rule():
    folders = {path.name for path in EXAMPLES.iterdir() if (path / "__init__.py").is_file()}
    assert folders - TUTORIALS == set(MAY_IMPORT)


def test_one_line_puts_the_repository_on_the_path():
    assert [path.name for path in FILES if "sys.path" in path.read_text()] == ["repository.py"]
    for folder in MAY_IMPORT:
        assert "repository" in set(imported(EXAMPLES / folder / "__init__.py")), folder


def test_no_folder_or_program_hides_an_installed_package():
    kept = [path for path in sys.path if path and pathlib.Path(path).resolve() != EXAMPLES]
    for name in {*MAY_IMPORT, *PROGRAMS, "repository"}:
        found = importlib.machinery.PathFinder.find_spec(name, kept)
        # A folder that a program wrote, as studies/, is no package.
        assert name not in sys.stdlib_module_names
        assert found is None or found.origin is None, name
