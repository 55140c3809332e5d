"""The tutorials: each runs to its end on every backend, learns something, and is a notebook too."""

import pathlib
import re
import runpy
import tempfile

import numpy as np
import pytest
from backends import BACKEND

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "tutorials"
FILES = sorted(FOLDER.glob("*.py"))
on_one_backend = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a tutorial where it may write, and give its variables."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(FOLDER / f"{name}.py"))


def test_own_model(run, tmp_path):
    ran = run("own_model")
    assert ran["test_accuracy"] > 0.5  # by chance 0.1
    assert max(ran["accuracies"][1], ran["accuracies"][4]) > 0.5
    assert len(list(tmp_path.rglob("student.keras"))) == 1


def test_own_loss(run):
    ran = run("own_loss")
    # The Jensen-Shannon divergence of (p, q, q) and three times 1/3, position by position.
    p = np.exp([10.0, 0.0, 0.0]) / np.exp([10.0, 0.0, 0.0]).sum()
    middle = (p + 1 / 3) / 2
    expected = (np.sum(p * np.log(p / middle)) + np.sum(np.log(1 / 3 / middle)) / 3) / 2
    np.testing.assert_allclose(ran["per_cell"], np.full((1, 3), expected), rtol=1e-5)
    np.testing.assert_allclose(ran["per_image"], [5 / 3 * expected], rtol=1e-5)
    for name in ("student_loss", "distillation_loss", "embedding_distance_loss"):
        assert ran["logs"][name][-1] < ran["logs"][name][0]
    assert ran["accuracy"] > 0.5


def test_features(run):
    ran = run("features")
    assert len(ran["accuracies"]) == 4 and min(ran["accuracies"].values()) > 0.4
    assert ran["test_accuracy"] > 0.5


def test_few_labels(run):
    accuracies = run("few_labels")["accuracies"]
    assert accuracies["all images, with a teacher"] > 0.5
    assert accuracies["all images, no labels"] > 0.5
    assert accuracies["all images, with a teacher"] > accuracies["labels of 30 images"]


def test_cached_teacher(run):
    ran = run("cached_teacher")
    assert ran["accuracy"] > 0.5
    assert "are of another image" in str(ran["refusal"])


def test_torch_teacher(run):
    ran = run("torch_teacher")
    assert ran["right"].mean() > 0.8 and ran["accuracy"] > 0.5
    assert (type(ran["teacher"]).__name__ == "StoredTeacher") == (BACKEND != "torch")


@on_one_backend
def test_all_are_run():
    names = set(re.findall(r'run\("(\w+)"\)', pathlib.Path(__file__).read_text()))
    assert {path.stem for path in FILES} == names


@on_one_backend
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_is_a_page_and_a_notebook(path):
    text = path.read_text()
    assert 60 <= len(text.splitlines()) <= 120
    cells = re.split(r"^# %%(?: \[(markdown)\])?\n", text, flags=re.MULTILINE)
    before, kinds, contents = cells[0], cells[1::2], cells[2::2]
    assert not before and "# %%" not in "".join(contents)
    assert kinds == ["markdown", None] * (len(kinds) // 2)
    assert re.match(r"# # \w.*\n#\n# \w", contents[0])
    assert "seconds" in contents[0]
    for prose, code in zip(contents[::2], contents[1::2], strict=True):
        assert all(line.startswith("#") for line in prose.rstrip("\n").split("\n"))
        compile(code, str(path), "exec")


@on_one_backend
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_needs_installed_packages_alone(path):
    imported = set(re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
    standard = {"pathlib", "tempfile", "time"}
    assert imported <= standard | {"keras", "keras_sdd", "numpy", "sklearn", "torch"}
    assert "torch" not in imported or path.stem == "torch_teacher"
