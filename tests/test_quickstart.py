"""The quickstart: its smoke form from end to end, its data, its flags and its table."""

import csv
import os
import pathlib
import subprocess
import sys

import draw_method
import keras
import numpy as np
import pytest
import quickstart
from absl import flags
from absl.testing import flagsaver
from backends import BACKEND
from matplotlib.image import imread
from scenes import digits as digit_scenes

REPOSITORY = pathlib.Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"

KINDS = ["teacher", "student, labels only", "student, DKD", "student, SD-DKD 1,2"]


def run_python(*arguments):
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Standard output and output folder of one smoke run."""
    folder = tmp_path_factory.mktemp("quickstart") / "made" / "by_the_program"
    options = ("--smoke", "--method=dkd", "--scales=1,2", f"--output_dir={folder}")
    finished = run_python(EXAMPLES / "quickstart.py", *options)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, folder


def test_prints_table_files_and_time(smoke):
    printed, folder = smoke
    table = printed[printed.index("model  ") :].splitlines()
    assert [line[:28].strip() for line in table[1:5]] == KINDS
    parameters = [int(line[28:38].replace(",", "")) for line in table[1:5]]
    assert parameters[0] > parameters[1] == parameters[2] == parameters[3]
    assert all(0.0 <= float(line.split()[-1]) <= 100.0 for line in table[1:5])
    for name in ("student.keras", "runs.csv", "cells.png"):
        assert str(folder / name) in printed
    assert f"with the {quickstart.keras.backend.backend()} backend" in printed


def test_writes_all_runs(smoke):
    with open(smoke[1] / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == KINDS
    for row in rows:
        assert 0.0 <= float(row["validation_accuracy"]) <= 100.0
        assert 0.0 <= float(row["test_accuracy"]) <= 100.0
        assert float(row["training_seconds"]) > 0.0


def test_writes_figure(smoke):
    image = imread(smoke[1] / "cells.png")
    assert image.shape[:2] == (1040, 1400)
    assert image[..., :3].std() > 0.1


def test_student_loads_without_the_library(smoke):
    program = """
import sys
sys.modules["keras_sdd"] = None  # whoever imports it fails
import keras, numpy
student = keras.saving.load_model(sys.argv[1])
print(student.predict(numpy.zeros((3, 32, 32, 1), "float32"), verbose=0).shape)
"""
    finished = run_python("-c", program, smoke[1] / "student.keras")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip().endswith("(3, 10)")


def test_splits_share_no_digit():
    splits = digit_scenes.split_digits()
    assert list(splits) == ["train", "validation", "test"]
    images = [image.tobytes() for part, _ in splits.values() for image in part]
    assert len(images) == len(set(images)) == 1797
    for part, labels in splits.values():
        assert len(part) == len(labels)
        assert set(labels) == set(range(10))


def test_scenes_show_their_label_most_often(monkeypatch):
    monkeypatch.setattr(digit_scenes, "NOISE", 0.0)
    images, labels = digit_scenes.split_digits()["validation"]
    classes = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    scenes, scene_labels = digit_scenes.compose_scenes(images, labels, 50, seed=3)
    assert scenes.shape == (50, 32, 32, 1) and scenes.dtype == "float32"
    for scene, label in zip(scenes[..., 0], scene_labels, strict=True):
        places = [scene[i : i + 8, j : j + 8] for i in range(0, 32, 8) for j in range(0, 32, 8)]
        shown = [classes[place.tobytes()] for place in places if place.any()]
        expected = np.ones(6, int)
        expected[0] = 3
        assert sorted(np.unique(shown, return_counts=True)[1], reverse=True) == list(expected)
        assert shown.count(label) == 3


def test_scenes_follow_the_seed():
    digits = digit_scenes.split_digits()["train"]
    first, same, other = (digit_scenes.compose_scenes(*digits, 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], same[0])
    np.testing.assert_array_equal(first[1], same[1])
    assert np.abs(first[0] - other[0]).max() > 0.5


def test_table_gives_mean_and_sample_deviation(capsys):
    rows = [
        {"model": "student, KD", "parameters": 1234, "test_accuracy": accuracy}
        for accuracy in (80.0, 82.0, 87.0)
    ]
    quickstart.print_table(rows)
    assert "83.00 +- 3.61" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--method=fitnet", "kd|dkd|nkd"),
        ("--scales=", "different positive integers"),
        ("--scales=0,2", "different positive integers"),
        ("--scales=1,-2", "different positive integers"),
        ("--scales=1,2.5", "different positive integers"),
        ("--scales=1,two", "different positive integers"),
        ("--scales=1,2,2", "different positive integers"),
        ("--epochs=0", "positive integer"),
        ("--epochs=1.5", "invalid literal for int()"),
        ("--seeds=0", "positive integer"),
    ],
)
def test_refuses_bad_flags(flag, message):
    name = flag[2 : flag.index("=")]
    with flagsaver.flagsaver(), pytest.raises(flags.IllegalFlagValueError) as error:
        quickstart.FLAGS(["quickstart", flag])
    assert f"--{name}" in str(error.value) and message in str(error.value)


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_program_ends_on_bad_arguments():
    finished = run_python(EXAMPLES / "quickstart.py", "kd")
    assert finished.returncode != 0
    assert "Expected flags only" in finished.stderr + finished.stdout
    assert "Traceback" not in finished.stderr


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_picture_of_the_method_shows_a_scene_of_both_kinds_of_cells(tmp_path):
    """Of a teacher that sees class 1 in the left half of white scenes, and class 0 on the right."""

    class Halves(keras.layers.Layer):
        def call(self, images):
            pooled = keras.ops.average_pool(images, 4, 4)
            seen = keras.ops.arange(8) < 4
            return pooled * keras.ops.cast(seen, "float32")[:, None]

    inputs = keras.Input((32, 32, 1))
    x = keras.layers.GlobalAveragePooling2D()(Halves()(inputs))
    head = keras.layers.Dense(10)
    teacher = keras.Model(inputs, head(x))
    kernel = np.zeros((1, 10), "float32")
    kernel[0, 1] = 4.0
    head.set_weights([kernel, np.eye(10, dtype="float32")[0]])  # class 0 where nothing is white
    scenes, labels = np.ones((3, 32, 32, 1), "float32"), np.array([0, 1, 2])
    found = draw_method.read_scene(teacher, scenes, labels)
    assert found[1] == 1  # the one that the teacher gets right
    np.testing.assert_array_equal(found[4][:5], [1, 1, 0, 1, 0])
    np.testing.assert_array_equal(found[5][:5], [False, False, True, False, True])
    draw_method.draw_method(found, tmp_path / "method.png")
    assert imread(tmp_path / "method.png").shape == (385, 1430, 4)
