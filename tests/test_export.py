"""Exported students: what other programs compute with the files is what `predict` gives."""

import json
import os
import pathlib
import re
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import pytest
from backends import BACKEND
from classifiers import NUM_CLASSES, build_cnn, draw_data

import keras_sdd

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import export_student  # noqa: E402
import runtimes  # noqa: E402

# What Keras writes on each backend; docs/deployment.md has the whole table.
FORMATS = {
    "tensorflow": ("tf_saved_model", "onnx", "litert", "openvino"),
    "jax": ("tf_saved_model",),
    "torch": ("onnx", "openvino"),
}
X = draw_data(3)[0]


@pytest.mark.parametrize("kind", FORMATS[BACKEND])
def test_a_distiller_exports_its_student(kind, tmp_path):
    student = build_cnn(4, softmax=True)
    distiller = keras_sdd.SDDDistiller(build_cnn(8), student)
    ending, open_file, _ = runtimes.FORMATS[kind]
    path = str(tmp_path / f"student{ending}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converters
        distiller.export(path, format=kind, verbose=False)
        actual = open_file(path)(X)
    assert actual.shape == (len(X), NUM_CLASSES)
    # OpenVINO's files have weights of 16 bits.
    tolerance = 2e-3 if kind == "openvino" else 1e-5
    expected = student.predict(X, verbose=0)
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    assert np.ptp(expected) > 10 * tolerance


def test_the_format_of_keras_is_the_default(monkeypatch):
    asked = {}
    monkeypatch.setattr(keras.Model, "export", lambda model, path, **how: asked.update(how))
    keras_sdd.SDDDistiller(build_cnn(8), build_cnn(4)).export("student")
    assert asked == {"format": "tf_saved_model"}


def run_program(*flags):
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(EXAMPLES / "export_student.py"), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the program runs on TensorFlow")
def test_the_program_writes_and_checks_files_of_8_bits(tmp_path):
    student, images = build_cnn(4), draw_data(40)[0]
    student.save(tmp_path / "student.keras")
    labels = student.predict(images, verbose=0).argmax(-1)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    where = (f"--student={tmp_path}/student.keras", f"--output={tmp_path}/files")
    done = run_program(*where, "--int8", f"--images={tmp_path}/data.npz")
    assert done.returncode == 0, done.stderr
    rows = {x["format"]: x for x in json.loads((tmp_path / "files/export.json").read_text())}
    assert list(rows) == ["keras", "litert", "litert_int8"]
    assert rows["litert"]["difference"] < 1e-4 < rows["litert_int8"]["difference"]
    assert rows["litert"]["accuracy"] == 100.0 == rows["litert"]["same_class"]
    assert rows["litert_int8"]["same_class"] > 80.0
    assert (tmp_path / "files/student_int8.tflite").stat().st_size == pytest.approx(
        rows["litert_int8"]["megabytes"] * 2**20
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the program runs on TensorFlow")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": "none.keras"}, "Pass the student as a .keras file"),
        ({"formats": ["tflite"]}, "Formats are litert, onnx"),
        ({"int8": True}, "8 bits need --images"),
    ],
)
def test_flags_that_cannot_be_are_told(changes, message, tmp_path):
    path = tmp_path / "student.keras"
    build_cnn(4).save(path)
    values = {"student": str(path), "formats": ["onnx"], "int8": False, "images": None} | changes
    with pytest.raises(export_student.command_line.SetupError, match=re.escape(message)):
        export_student.check_flags(types.SimpleNamespace(**values))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the program runs on TensorFlow")
def test_ranges_of_8_bits_are_those_of_training_images(tmp_path):
    student, images = build_cnn(4), draw_data(8)[0]
    student.save(tmp_path / "student.keras")
    data = {"images": images, "representative": 1e-3 * images}  # far too small: all saturates
    differences = []
    for folder, own in (("own", {"images": images}), ("given", data)):
        np.savez(tmp_path / "data.npz", **own)
        read = export_student.read_data(tmp_path / "data.npz")
        where = (tmp_path / "student.keras", tmp_path / folder, [])
        rows = export_student.export_student(*where, int8=True, data=read)
        differences.append(rows[1]["difference"])
    assert differences[1] > 3 * differences[0]


@pytest.mark.parametrize("kind", ["neither", "labels", "text"])
def test_images_that_are_none_are_told(kind, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **({"x": X} if kind == "neither" else {"images": X, "labels": [1]}))
    if kind == "text":
        path.write_text("a text")
    message = "data.npz cannot be read" if kind == "text" else "data.npz must hold `images`"
    with pytest.raises(ValueError, match=message):
        export_student.read_data(path)
