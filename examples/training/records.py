"""What a run leaves in its folder.

config.json, versions.json   what runs, on what
log.csv, tensorboard/        every epoch; TensorBoard's only if it is installed
best.keras, last.keras       the student, or the network trained with labels only
state/epoch_K/               what a killed run goes on from, see state.py; gone when it is finished
result.json                  written last: a run that has it is finished
lock                         held by the process that writes, which it names
"""

import csv
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import time

import keras

from training import config_keys
from training.folder_lock import FolderError
from training.state import REMEDY, SaveRun, count_finished_epochs

# Keys of a config that say where data lie and what is kept, not what runs.
PLACES = ("data_dir", "teacher_cache", "save_epochs")
_PACKAGES = ("keras", "numpy", "tensorflow", "jax", "torch", "tensorflow-datasets")


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
            raise FolderError(f"A run without its config. {REMEDY}. Missing: {config_path}")
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
        raise FolderError(f"A result that is not of the config beside it. {REMEDY}: {result_path}")
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
        raise FolderError(f"{path} is damaged: {error}. {REMEDY}.") from error


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
            f"so that its best one is not known. {REMEDY}."
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
        raise FolderError(f"{path} is damaged: {error}. {REMEDY}.") from error
    if not isinstance(values, dict):
        raise FolderError(f"{path} is damaged: it holds no JSON object. {REMEDY}.")
    return values


def write_json(path, values):
    """Write a JSON file in one piece."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def write_text(path, text):
    """Write a file so that it is there as a whole or as it was."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)
