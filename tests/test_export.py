"""Exported students: what other programs compute with the files is what `predict` gives."""

import re
import types
import warnings

import export_student
import keras
import numpy as np
import pytest
from backends import BACKEND
from exports import runtimes
from small_classifiers import NUM_CLASSES, build_cnn, draw_data

import keras_sdd

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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the program runs on TensorFlow")
def test_files_are_written_and_measured_those_of_8_bits_too(tmp_path, monkeypatch):
    student, images = build_cnn(4), draw_data(40)[0]
    student.save(tmp_path / "student.keras")
    data = {"images": images, "labels": student.predict(images, verbose=0).argmax(-1)}
    options = (["litert"], True, data | {"representative": images[20:]})
    export, ranges_of = export_student._export, []

    def spy(*args, **how):
        ranges_of.extend(how.get("representative_dataset", list)())
        export(*args, **how)

    monkeypatch.setattr(export_student, "_export", spy)
    found = export_student.export_student(tmp_path / "student.keras", tmp_path / "files", *options)
    rows = {row["format"]: row for row in found}
    assert list(rows) == ["keras", "litert", "litert_int8"]
    assert rows["litert"]["difference"] < 1e-4 < rows["litert_int8"]["difference"]
    assert rows["litert"]["accuracy"] == 100.0 == rows["litert"]["same_class"]
    assert rows["litert_int8"]["same_class"] > 80.0
    path = tmp_path / "files/student_int8.tflite"
    assert path.stat().st_size == pytest.approx(rows["litert_int8"]["megabytes"] * 2**20)
    # Ranges are those of other images than what is measured, where there are any.
    np.testing.assert_array_equal(np.concatenate([x for (x,) in ranges_of]), images[20:])
    (first, *_) = next(export_student._quantize(images)["representative_dataset"]())
    np.testing.assert_array_equal(first, images[:1])


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


@pytest.mark.parametrize("kind", ["neither", "labels", "text"])
def test_images_that_are_none_are_told(kind, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **({"x": X} if kind == "neither" else {"images": X, "labels": [1]}))
    if kind == "text":
        path.write_text("a text")
    message = "data.npz cannot be read" if kind == "text" else "data.npz must hold `images`"
    with pytest.raises(ValueError, match=message):
        export_student.read_data(path)
