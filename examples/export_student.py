"""Write a trained student for devices, and see what the files compute, weigh and take.

    KERAS_BACKEND=tensorflow python examples/export_student.py --student=student.keras \\
        --formats=litert,onnx --int8 --images=images.npz --output=exported

Keras writes all formats on TensorFlow, and a `.keras` file loads on any backend, so this program
runs on TensorFlow whichever backend trained. `images.npz` holds `images`, as the student takes
them, and `labels` if there are any: with them every file is run and held against the student.
--int8 writes a LiteRT file with weights and activations of 8 bits too, whose ranges are those of
the first images, or of `representative`, training images, if the file has them.
"""

import contextlib
import io
import json
import logging
import pathlib
import sys
import warnings
import zipfile

import keras
import numpy as np
from absl import app, flags
from exports import runtimes
from reports import tables
from training import command_line, measures

import keras_sdd  # noqa: F401, its networks load then

_CALIBRATED = 200  # images that the ranges of the activations are taken of
_TIMED = 30
_BATCH = 32
_ARRAYS = ("images", "labels", "representative")
INT8 = "litert_int8"


def export_student(path, folder, formats, int8=False, data=None):
    """Export a student and measure the files.

    Args:
        path: of the student, a `.keras` file.
        folder: of the files, which are called as the student.
        formats: of `runtimes.FORMATS`.
        int8: whether to write a LiteRT file of 8 bits too.
        data: dict of `images` float32 (N, ...) and perhaps `labels` (N,) and `representative`
            float32 (M, ...), of which the ranges for 8 bits are taken; or None.

    Returns:
        A list of dicts, the student's own first: `format`, `file`, `megabytes`, and with images
        `milliseconds` of one image on this CPU, `difference`, the largest one to the student's
        outputs, `same_class` in percent, and with labels `accuracy` in percent.
    """
    student = keras.saving.load_model(path, compile=False)
    student(student.input)  # for ONNX, Keras wants a model that was called
    folder.mkdir(parents=True, exist_ok=True)
    files = {"keras": pathlib.Path(path)}
    for name in formats:
        files[name] = folder / (pathlib.Path(path).stem + runtimes.FORMATS[name][0])
        _export(student, files[name], name)
    if int8:
        files[INT8] = folder / f"{pathlib.Path(path).stem}_int8.tflite"
        ranges_of = data.get("representative", data["images"])
        _export(student, files[INT8], "litert", **_quantize(ranges_of))
    expected = runtimes.open_keras(str(path))(data["images"]) if data else None
    return [_describe(name, file, data, expected) for name, file in files.items()]


def _export(student, path, kind, **options):
    """Export without what the converters print."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        student.export(str(path), format=kind, verbose=False, **options)


def _quantize(images):
    """Options of the LiteRT converter for 8 bits; inputs and outputs stay float32."""
    import tensorflow as tf

    def represent():
        for image in images[:_CALIBRATED]:
            yield [image[None]]

    return {"optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": represent}


def _describe(name, path, data, expected):
    row = {"format": name, "file": str(path), "megabytes": _measure_size(path) / 2**20}
    if data is None:
        return row
    kind = {"keras": runtimes.open_keras, INT8: runtimes.open_litert}.get(name)
    run = (kind or runtimes.FORMATS[name][1])(str(path))
    images = data["images"]
    batches = [run(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    outputs = np.concatenate(batches)
    row["milliseconds"] = measures.time_median(lambda: run(images[:1]), _TIMED)
    row["difference"] = float(np.abs(outputs - expected).max())
    row["same_class"] = 100.0 * float(np.mean(outputs.argmax(-1) == expected.argmax(-1)))
    if "labels" in data:
        row["accuracy"] = 100.0 * float(np.mean(outputs.argmax(-1) == data["labels"]))
    return row


def _measure_size(path):
    """Bytes of a file, or of a folder; weights of OpenVINO lie beside its file."""
    if path.is_dir():
        return sum(x.stat().st_size for x in path.rglob("*") if x.is_file())
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    return sum(x.stat().st_size for x in (path, *beside))


def read_data(path):
    """Return the arrays of an `.npz` file.

    Raises:
        ValueError: if it has no `images`, or other than a label for each.
    """
    try:
        with np.load(path) as file:
            data = {name: file[name] for name in _ARRAYS if name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read; write it with np.savez. {error}") from error
    if "images" not in data or len(data.get("labels", data["images"])) != len(data["images"]):
        raise ValueError(
            f"{path} must hold `images`, and `labels` only if there is one for each: "
            "np.savez(FILE, images=images, labels=labels). Received: "
            f"{', '.join(f'{name} {x.shape}' for name, x in data.items()) or 'neither'}"
        )
    pixels = data.keys() - {"labels"}
    return data | {name: data[name].astype("float32") for name in pixels}


def format_rows(rows):
    """Return the rows as a table in Markdown."""
    digits = {"megabytes": 2, "milliseconds": 2, "same_class": 1, "accuracy": 2}
    heads = [name for name in rows[0] if name != "file"]
    lines = [[*heads, "file"]]
    for row in rows:
        fields = [
            f"{row[x]:.{digits[x]}f}"
            if x in digits
            else f"{row[x]:.2g}"
            if x == "difference"
            else row[x]
            for x in heads
        ]
        lines.append([*fields, row["file"]])
    return tables.format_table(lines)


def check_flags(values):
    """Raise what the person at the keyboard can put right."""
    if keras.backend.backend() != "tensorflow":
        raise command_line.SetupError(
            "Keras writes these files on TensorFlow; a .keras file of any backend loads there. Set "
            f"KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}"
        )
    unknown = [x for x in values.formats if x not in runtimes.FORMATS]
    if unknown:
        known = ", ".join(runtimes.FORMATS)
        raise command_line.SetupError(f"Formats are {known}. Received: {', '.join(unknown)}")
    if values.int8 and not values.images:
        raise command_line.SetupError(
            "8 bits need --images=FILE.npz, of which the ranges are taken; some of the training "
            "images will do."
        )
    if not values.student.endswith(".keras") or not pathlib.Path(values.student).is_file():
        raise command_line.SetupError(
            f"Pass the student as a .keras file. Received: --student={values.student}"
        )


def main(argv):
    """Export, print the table, and write it to export.json."""
    values = flags.FLAGS
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    command_line.quieten()
    logging.getLogger("tf2onnx").setLevel("ERROR")
    try:
        check_flags(values)
        data = read_data(values.images) if values.images else None
        folder = pathlib.Path(values.output)
        rows = export_student(values.student, folder, values.formats, values.int8, data)
    except (command_line.SetupError, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
    except ImportError as error:
        needed = ", ".join(runtimes.FORMATS[x][2] for x in values.formats)
        sys.exit(f"error: {error}\nInstall the extra: pip install '.[export]', or {needed}.")
    print(format_rows(rows))
    (folder / "export.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("student", None, "The student, a .keras file.", required=True)
    flags.DEFINE_list("formats", "litert", f"Of {', '.join(runtimes.FORMATS)}.")
    flags.DEFINE_bool("int8", False, "Write a LiteRT file of 8 bits too.")
    flags.DEFINE_string("images", None, "An .npz file with `images` and perhaps `labels`.")
    flags.DEFINE_string("output", "exported", "Folder of the files.")
    app.run(main)
