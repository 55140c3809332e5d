"""The recipes of CONTRIBUTING.md are cut from the code as it stands."""

import pathlib
import re

import pytest
from backends import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")

REPOSITORY = pathlib.Path(__file__).parents[1]
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()


def list_changes():
    """Pairs (file, line) of all diffs."""
    file = None
    for block in re.findall(r"^```diff\n(.*?)^```$", TEXT, flags=re.M | re.S):
        for line in block.splitlines():
            if line.startswith("+++ b/"):
                file = line.removeprefix("+++ b/")
            elif line != "+":
                yield file, line.removeprefix("+")


@pytest.mark.parametrize("file", sorted({file for file, _ in list_changes()}))
def test_lines_of_the_recipes_are_in_the_files(file):
    lines = (REPOSITORY / file).read_text().splitlines()
    missing = [line for name, line in list_changes() if name == file and line not in lines]
    assert not missing


def test_recipes_are_there():
    titles = ("A loss between logits", "A term that compares features", "A model", "A data set")
    assert all(f"## {title}\n" in TEXT for title in titles)
    assert len(list(list_changes())) > 20
