"""What a finished run is measured by, on the test images, which are read here and once."""

import contextlib
import os
import pathlib
import statistics
import time
import zipfile

import keras
import numpy as np

import keras_sdd
from keras_sdd import calibration
from keras_sdd.cache import digest_weights

_TIMED_BATCH = 16
_REPEATS = 7


def measure_run(workdir, test_data, jit_compile, teacher=None, folder=None):
    """Return what the networks of a run come to on the test images, which are read here and once.

    Args:
        workdir: folder of the run, with `last.keras` and `best.keras`.
        test_data: batches of images and labels.
        jit_compile: of `compile`.
        teacher: the run's, or None.
        folder: where the classes that the teacher predicts are kept for other runs, or None.

    Returns:
        dict of numbers, those of the two networks named as `last_accuracy` and `best_accuracy`,
        and of `teacher`, which tells teachers of other weights apart.
    """
    paths = {when: workdir / f"{when}.keras" for when in ("last", "best")}
    networks = {x: keras.saving.load_model(paths[x], compile=False) for x in paths}
    name = digest_weights(teacher)[:12] if teacher is not None else ""
    kept = _KeptClasses(folder, name)
    if teacher is not None and kept.classes is None:
        networks["teacher"] = keras.models.clone_model(teacher)  # of this process alone
        networks["teacher"].set_weights(teacher.get_weights())
    predictors = {x: make_predictor(networks[x], jit_compile) for x in networks}
    labels, logits = predict_all(predictors, test_data)
    if teacher is not None:
        kept.keep(labels, logits.get("teacher"))
    measured = {"teacher": name}
    for when in paths:
        numbers = measure_logits(labels, logits[when], kept.classes)
        measured |= {f"{when}_{x}": value for x, value in numbers.items()}
    shape = test_data.element_spec[0].shape[1:]
    return measured | {"milliseconds_per_image": time_on_cpu(paths["last"], shape, jit_compile)}


class _KeptClasses:
    """What a teacher predicts for the test images, beside its cached cells: it never changes."""

    def __init__(self, folder, name):
        self.path = pathlib.Path(folder, f"test-{name}.npz") if folder and name else None
        self.classes = self.labels = None
        if self.path and self.path.is_file():
            # Damaged, it is made again.
            with contextlib.suppress(EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile):
                with open(self.path, "rb") as stream, np.load(stream) as file:
                    self.labels, self.classes = file["labels"], file["classes"]

    def keep(self, labels, logits):
        """Take the teacher's logits; without them, check that the images are those of before.

        Raises:
            ValueError: if they are others.
        """
        if logits is None:
            if not np.array_equal(labels, self.labels):
                raise ValueError(
                    "What the teacher predicts was kept for other test images. Remove this file, "
                    f"and run the same command again. Received: {self.path}"
                )
            return
        self.classes = np.argmax(logits, axis=-1)
        if self.path:
            unfinished = self.path.with_suffix(".unfinished.npz")
            np.savez(unfinished, classes=self.classes, labels=labels)
            os.replace(unfinished, self.path)


def predict_all(networks, dataset):
    """Read a data set once, and predict with several networks.

    Args:
        networks: dict of names to functions of images (B, ...) to logits (B, K).
        dataset: of batches (images, labels).

    Returns:
        labels (N,), and a dict of the names to logits (N, K).
    """
    labels, logits = [], {name: [] for name in networks}
    for images, batch_labels in dataset.as_numpy_iterator():
        labels.append(batch_labels)
        for name, predict in networks.items():
            logits[name].append(predict(images))
    return np.concatenate(labels), {name: np.concatenate(x) for name, x in logits.items()}


def measure_logits(labels, logits, teacher_classes=None):
    """Sum up what a network predicts.

    Args:
        labels: integers (N,).
        logits: floats (N, K).
        teacher_classes: what the teacher predicts, integers (N,), or None if there is none.

    Returns:
        dict of `accuracy`, `top5_accuracy` and `teacher_agreement` in percent, `nll`, the mean
        negative log-likelihood, and `ece`, the expected calibration error in percent.
    """
    better = np.sum(logits > np.take_along_axis(logits, labels[:, None], 1), axis=1)
    classes = np.argmax(logits, axis=-1)
    measured = {
        "accuracy": np.mean(classes == labels),
        "top5_accuracy": np.mean(better < 5),
        "ece": calibration.expected_calibration_error(labels, logits),
    }
    if teacher_classes is not None:
        measured["teacher_agreement"] = np.mean(classes == teacher_classes)
    measured = {name: 100.0 * float(value) for name, value in measured.items()}
    return measured | {"nll": calibration.negative_log_likelihood(labels, logits)}


def make_predictor(network, jit_compile):
    """Return the function from images (B, ...) to the class logits (B, K) of a network.

    A final softmax is left out.
    """
    read = keras_sdd.Network(network, frozen=True)
    selected = read.select({"logits": read.logits})
    logits = keras.Model(selected.inputs[0], selected.output["logits"])
    logits.compile(jit_compile=jit_compile)
    return logits.predict_on_batch


def time_on_cpu(path, image_shape, jit_compile):
    """Return the milliseconds that a saved network takes for an image, in batches of 16 on the CPU.

    The median of a few; on a machine that does other things it says little.
    """
    with keras.device("cpu:0"):
        predict = make_predictor(keras.saving.load_model(path, compile=False), jit_compile)
        images = np.zeros((_TIMED_BATCH, *image_shape), "float32")
        return time_median(lambda: predict(images), _REPEATS) / _TIMED_BATCH


def time_median(run, repeats):
    """Return the milliseconds of a call, the median of some after a first one."""
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1000.0 * statistics.median(seconds)
