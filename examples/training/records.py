"""What a run leaves in its folder, and how it goes on from it after a kill.

config.json, versions.json   what runs, on what
log.csv, tensorboard/        every epoch; TensorBoard's only if it is installed
best.keras, last.keras       the student, or the network trained with labels only
state/epoch_K/               all that epoch K + 1 needs; gone when the run is finished
result.json                  written last: a run that has it is finished
lock                         held by the process that writes, which it names

A killed run goes on from the last state, which gives the weights of an unbroken run, as the data of
an epoch depend on its number alone. A state is put in place in one piece, with the best network so
far in it, after its epochs were logged; the networks beside are copies of it, made anew when a run
goes on. A folder in which this does not hold was damaged from outside, and is refused.
`keras.callbacks.BackupAndRestore` is not used: it writes weights and epoch one after the other, so
that a kill between them repeats an epoch, and with a `save_freq` in batches it takes the weights of
mid-epoch to the first batch of that epoch.
"""

import csv
import importlib.metadata
import importlib.util
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import time
import zipfile

import keras

from training import config_keys
from training.folder_lock import FolderError

# Keys of a config that say where data lie and what is kept, not what runs.
PLACES = ("data_dir", "teacher_cache", "save_epochs")
_PACKAGES = ("keras", "numpy", "tensorflow", "jax", "torch", "tensorflow-datasets")
_STATE, _WEIGHTS = re.compile(r"epoch_(\d+)"), "training.weights.h5"
_REMEDY = "Put the file back from a copy, or remove the folder to run it again from the start"


class SaveRun(keras.callbacks.Callback):
    """Save what a killed run goes on from, and its networks, after every few epochs and the last.

    Args:
        workdir: folder of the run.
        every: number of epochs from one state to the next.
        best: the highest accuracy that the run had before, if it goes on.
    """

    def __init__(self, workdir, every=1, best=-1.0):
        super().__init__()
        self.workdir, self.every, self.best = pathlib.Path(workdir), every, best
        self.folder = self.workdir / "state"

    def on_train_begin(self, logs=None):
        epochs = count_finished_epochs(self.workdir)
        if epochs:  # a kill may have come before, or after epochs that are run again
            shutil.copy(self.folder / f"epoch_{epochs}" / "best.keras", self.folder)
            self.keep_networks()

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(exist_ok=True)
        if logs["val_accuracy"] > self.best:
            self.best = logs["val_accuracy"]
            self.student.save(self.folder / "best.keras")
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            self.save(epoch + 1)

    @property
    def student(self):
        return getattr(self.model, "student", self.model)

    def save(self, epochs):
        """Put the state after that many epochs in the place of the one before."""
        unfinished, saved = self.folder / "unfinished", self.folder / f"epoch_{epochs}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        self.model.save_weights(unfinished / _WEIGHTS)
        shutil.copy(self.folder / "best.keras", unfinished)
        os.rename(unfinished, saved)
        for path in self.folder.glob("epoch_*"):
            if path != saved and path.is_dir():
                shutil.rmtree(path)
        self.keep_networks()

    def keep_networks(self):
        """Put the networks of the state in the run's folder."""
        self.student.save(self.folder / "last.keras")
        os.replace(self.folder / "last.keras", self.workdir / "last.keras")
        copied = self.folder / "copy.keras"
        shutil.copy(self.folder / "best.keras", copied)
        os.replace(copied, self.workdir / "best.keras")


class LogTraining(keras.callbacks.Callback):
    """Add the learning rate and the seconds of an epoch to its logs."""

    def on_epoch_begin(self, epoch, logs=None):
        self.learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self.learning_rate
        logs["seconds"] = time.perf_counter() - self.started


def find_result(workdir, config):
    """Return the result of a folder's finished run of this config, or None if it has none.

    Raises:
        FolderError: if it holds a run of another config, naming the keys, or a damaged one.
    """
    config_path, result_path = workdir / "config.json", workdir / "result.json"
    if not config_path.exists():
        if result_path.exists() or count_finished_epochs(workdir):
            raise FolderError(f"A run without its config. {_REMEDY}. Missing: {config_path}")
        return None
    differing = config_keys.find_changes(read_json(config_path), config, PLACES)
    if differing:
        raise FolderError(
            f"{workdir} holds a run of another config; give another --workdir or remove it. "
            f"Keys that differ: {', '.join(differing)}"
        )
    if not result_path.exists():
        return None
    result = read_json(result_path)
    if any(result.get(key) != config[key] for key in ("cell", "reading", "seed", "epochs")):
        raise FolderError(f"A result that is not of the config beside it. {_REMEDY}: {result_path}")
    return result


def write_setup(workdir, config, device):
    """Make the folder of a run and write its config and versions."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", json.loads(config.to_json()))
    write_json(workdir / "versions.json", describe_versions(device))


def describe_versions(device):
    """Return what a run runs on."""
    import keras_sdd  # in the checkout, without being installed, too

    return {
        "backend": keras.backend.backend(),
        "device": device,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_commit": find_commit(),
        "keras_sdd": keras_sdd.__version__,
        **{name: read_version(name) for name in _PACKAGES},
    }


def read_version(package):
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_commit():
    """Return the commit of the checkout, with `-dirty` if it was changed, or None."""
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe"]
    command += ["--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def count_finished_epochs(workdir):
    """Return the number of epochs that a run has finished."""
    names = (_STATE.fullmatch(path.name) for path in (workdir / "state").glob("epoch_*"))
    return max((int(name[1]) for name in names if name), default=0)


def restore_state(model, workdir):
    """Put a compiled model into the state of the last finished epoch, if there is one.

    Raises:
        FolderError: if a file of it is damaged, or of another model.
    """
    epochs = count_finished_epochs(workdir)
    if not epochs:
        return
    path = workdir / "state" / f"epoch_{epochs}" / _WEIGHTS
    check_network(path.with_name("best.keras"))
    model.optimizer.build(model.trainable_variables)
    try:
        model.load_weights(path)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise FolderError(f"{path} is damaged: {reason} {_REMEDY}.") from error


def remove_state(workdir):
    """Remove the state of a finished run."""
    shutil.rmtree(workdir / "state", ignore_errors=True)


def read_log(workdir, epochs=None):
    """Return the first `epochs` that were logged, or all, one dict of numbers each.

    Raises:
        FolderError: if something else than numbers is there.
    """
    path = workdir / "log.csv"
    if not path.exists():
        return []
    with open(path, errors="replace") as file:
        # What was cut off is left out: half a number is a number, too.
        lines = [line for line in file if line.endswith("\n")]
    try:
        rows = itertools.islice(csv.DictReader(lines), epochs)
        return [{key: float(value) for key, value in row.items()} for row in rows]
    except (csv.Error, TypeError, ValueError) as error:
        raise FolderError(f"{path} is damaged: {error}. {_REMEDY}.") from error


def rewind_log(workdir):
    """Drop what an epoch that was not finished has logged, and return the others.

    Raises:
        FolderError: if some of the others are missing.
    """
    path, finished = workdir / "log.csv", count_finished_epochs(workdir)
    if not finished:
        path.unlink(missing_ok=True)
        return []
    rows = read_log(workdir, finished)
    whole = [row for row in rows if "val_accuracy" in row]
    if [row.get("epoch") for row in whole] != list(range(finished)):
        raise FolderError(
            f"{path} is damaged: it lacks some of the {finished} epochs that the run has finished, "
            f"so that its best one is not known. {_REMEDY}."
        )
    lines = path.read_text().splitlines(keepends=True)[: finished + 1]
    write_text(path, "".join(lines))
    return rows


def make_callbacks(workdir, rows, every=1):
    """Return the callbacks of a run that has finished the epochs `rows`, the state's last.

    Args:
        workdir: folder of the run.
        rows: as of `rewind_log`.
        every: number of epochs from one state to the next.
    """
    callbacks = [
        LogTraining(),
        keras.callbacks.CSVLogger(workdir / "log.csv", append=bool(rows)),
        SaveRun(workdir, every, max((row["val_accuracy"] for row in rows), default=-1.0)),
    ]
    if importlib.util.find_spec("tensorboard"):
        folder = str(workdir / "tensorboard")
        callbacks.append(keras.callbacks.TensorBoard(folder, write_graph=False))
    return callbacks


def check_network(path):
    """Raise a FolderError if a `.keras` file is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            fault = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        fault = error
    if fault:
        raise FolderError(f"{path} is missing or damaged: {fault}. {_REMEDY}.")


def write_result(workdir, config, parameters, measured):
    """Sum a finished run up in result.json and return it.

    Accuracies are in percent: those on the images that the best epoch is chosen on are from the
    log, `measured` those on the test images, as `measures.measure_run` gives them.
    """
    rows = read_log(workdir)
    best = max(rows, key=lambda row: row["val_accuracy"])
    names = ("cell", "table", "method", "reading", "protocol", "smoke", "seed", "epochs")
    result = {name: config[name] for name in names} | measured
    for when, row in (("last", rows[-1]), ("best", best)):
        result[f"{when}_validation_accuracy"] = 100.0 * row["val_accuracy"]
    result |= {
        "best_epoch": int(best["epoch"]) + 1,
        "paper_accuracy": config.paper_accuracy,
        "paper_top5_accuracy": config.paper_top5_accuracy,
        "parameters": parameters,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "backend": keras.backend.backend(),
    }
    write_json(workdir / "result.json", result)
    return result


def read_json(path):
    """Return the dict that a JSON file of a run holds.

    Raises:
        FolderError: if it holds something else.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} is damaged: {error}. {_REMEDY}.") from error
    if not isinstance(values, dict):
        raise FolderError(f"{path} is damaged: it holds no JSON object. {_REMEDY}.")
    return values


def write_json(path, values):
    """Write a JSON file in one piece."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def write_text(path, text):
    """Write a file so that it is there as a whole or as it was."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)
