"""What the networks make of the test images, which are read here, once, by all of them."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import scipy.stats
from drawings.cells import judge_cells
from repository import ROOT
from training import data_sets, measures

import keras_sdd
from images import runs
from keras_sdd import calibration

EXPORTED = 1000  # test images that exported files are run on
_REPRESENTATIVE = 200  # training images that the ranges for 8 bits are taken of
_DRAWN = 3  # images of each kind that are shown
_LEVEL = 0.95


def measure_networks(files, config, jit_compile):
    """Predict the test images with all networks.

    Args:
        files: name -> path of a network.
        config: of a run on the images.
        jit_compile: of `compile`.

    Returns:
        labels (N,), dict of names to logits (N, K), and of names to their numbers: those of
        `measures.measure_logits`, `interval`, of the accuracy, and `parameters`.
    """
    networks = {name: runs.load(path) for name, path in files.items()}
    predictors = {x: measures.make_predictor(y, jit_compile) for x, y in networks.items()}
    images = data_sets.load_test_data(config)
    labels, logits = measures.predict_all(predictors, images)
    numbers = {}
    for name, network in networks.items():
        measured = measures.measure_logits(labels, logits[name])
        right = int(np.sum(np.argmax(logits[name], axis=-1) == labels))
        measured["interval"] = find_interval(right, len(labels))
        numbers[name] = measured | {"parameters": network.count_params()}
    return labels, logits, numbers


def find_interval(right, number):
    """Return where the accuracy lies with 95 %, in percent, if `right` of `number` are right."""
    test = scipy.stats.binomtest(right, number)
    interval = test.proportion_ci(_LEVEL, method="wilson")
    return 100.0 * interval.low, 100.0 * interval.high


def compare_students(labels, first, second):
    """Compare what two networks (N, K) get right on the same images, by McNemar's exact test.

    Returns:
        dict: `only_first`, `only_second`, images that one alone gets right, and `p`, how often
        chance alone would part them as far.
    """
    right = [np.argmax(x, axis=-1) == labels for x in (first, second)]
    only_first, only_second = (int(np.sum(a & ~b)) for a, b in (right, right[::-1]))
    apart = only_first + only_second
    p = scipy.stats.binomtest(only_first, apart).pvalue if apart else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": float(p)}


def count_confusions(labels, logits):
    """Return how many images (K, K) of each class, row by row, are taken for which."""
    number = logits.shape[1]
    cells = labels * number + np.argmax(logits, axis=-1)
    return np.bincount(cells, minlength=number**2).reshape(number, number)


def find_reliability(labels, logits):
    """Return the `CalibrationBins` of a network's predictions."""
    bins = calibration.CalibrationBins(10)
    confidences = np.exp(np.max(calibration.log_softmax(logits), axis=-1))
    bins.add(confidences, np.argmax(logits, axis=-1) == labels)
    return bins


def look_at_regions(files, arrays, labels, logits, scale):
    """Return what teacher and distilled student see in the cells of a few test images.

    Args:
        files: name -> path of a network.
        arrays: of images.npz.
        labels, logits: of the test images, as of `measure_networks`.
        scale: of the cells.

    Returns:
        A list of dicts: `image` (S, S, 3), `label`, and for each network its `whole`, the class
        that it predicts, and `classes` and `complementary` of its cells, (M * M,).
    """
    random = np.random.default_rng(0)
    right = np.argmax(logits[runs.DISTILLED], axis=-1) == labels
    chosen = [
        x for kind in (right, ~right) for x in random.permutation(np.flatnonzero(kind))[:_DRAWN]
    ]
    images = arrays["x_test"][chosen]
    shown = [{"image": x, "label": int(labels[i])} for x, i in zip(images, chosen, strict=True)]
    for name in (runs.TEACHER, runs.DISTILLED):
        exposed = keras_sdd.expose_spatial_logits(runs.load(files[name]))
        maps = exposed.predict(images.astype("float32"), verbose=0)["spatial_logits"]
        cells = keras_sdd.pool_cells(maps, (scale,))
        whole = keras.ops.convert_to_tensor(logits[name][chosen][:, None], cells.dtype)
        cells = keras.ops.concatenate([whole, cells], axis=1)
        classes, complementary = judge_cells(labels[chosen], cells)
        for i, entry in enumerate(shown):
            entry[name] = {"whole": int(classes[i, 0]), "classes": classes[i, 1:]}
            entry[name]["complementary"] = complementary[i, 1:]
    return shown


def export(student, folder, arrays, num_labelled, formats, int8):
    """Export the student by a program of its own, on TensorFlow, and measure the files.

    Args:
        student: its file.
        folder: of the files.
        arrays: of images.npz.
        num_labelled: training images with a label, the first ones.
        formats: of `examples/export_student.py`.
        int8: whether to write a file of 8 bits too.

    Returns:
        Its rows, the student's own file first, and "", or an empty list and why there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    test = random.permutation(len(arrays["x_test"]))[:EXPORTED]
    train = random.permutation(num_labelled)[:_REPRESENTATIVE]
    images = folder / "images.npz"
    np.savez(
        images,
        images=arrays["x_test"][test],
        labels=arrays["y_test"][test],
        representative=arrays["x_train"][train],
    )
    program = ROOT / "examples" / "export_student.py"
    command = [sys.executable, str(program), f"--student={student}", f"--output={folder}"]
    command += [f"--formats={','.join(formats)}", f"--images={images}", *(["--int8"] * int8)]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    images.unlink()
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        start = next((i for i, x in enumerate(lines) if x.startswith("error: ")), -1)
        return [], "\n".join(lines[start:]).removeprefix("error: ")
    return json.loads((folder / "export.json").read_text()), ""
