"""What a run leaves in its folder, and how it goes on from it after a kill.

config.json, versions.json   what runs, on what
log.csv, tensorboard/        every epoch; TensorBoard's only if it is installed
best.keras, last.keras       the student, or the network trained with labels only
state/                       all that the next epoch needs; gone when the run is finished
result.json                  written last: a run that has it is finished
lock                         held by the process that writes, whose id it holds

A killed run goes on at the start of the epoch that broke, which gives the weights of an unbroken
run, as the data of an epoch depend on its number alone. Every file that decides this is put in
place in one piece. `keras.callbacks.BackupAndRestore` is not used: it writes weights and epoch one
after the other, so that a kill between them repeats an epoch, and with a `save_freq` in batches it
takes the weights of mid-epoch to the first batch of that epoch.
"""

import contextlib
import csv
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import time

import config_keys
import keras

try:
    import fcntl
except ImportError:  # on Windows, where nobody notices two runs in one folder
    fcntl = None  # type: ignore[assignment]

# Keys of a config that say where data lie, not what runs.
PLACES = ("data_dir", "teacher_cache")
_PACKAGES = ("keras", "numpy", "tensorflow", "jax", "torch", "tensorflow-datasets")
_STATE = re.compile(r"epoch_(\d+)\.weights\.h5")


class SaveState(keras.callbacks.Callback):
    """Keep the state of the last finished epoch, whose number is part of the file's name."""

    def __init__(self, folder):
        super().__init__()
        self.folder = pathlib.Path(folder)

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(exist_ok=True)
        unfinished = self.folder / "unfinished.weights.h5"
        self.model.save_weights(unfinished, overwrite=True)
        saved = self.folder / f"epoch_{epoch + 1}.weights.h5"
        os.replace(unfinished, saved)
        for path in self.folder.iterdir():
            if path != saved:
                path.unlink()


class SaveStudent(keras.callbacks.ModelCheckpoint):
    """`ModelCheckpoint` of the student of a distiller, or of the model itself."""

    def set_model(self, model):
        super().set_model(getattr(model, "student", model))


class LogTraining(keras.callbacks.Callback):
    """Add the learning rate and the seconds of an epoch to its logs."""

    def on_epoch_begin(self, epoch, logs=None):
        self.learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self.learning_rate
        logs["seconds"] = time.perf_counter() - self.started


class FolderError(ValueError):
    """A folder that a run cannot use."""


@contextlib.contextmanager
def lock_workdir(workdir):
    """Make the folder of a run, and hold it as long as the block lasts, or this process.

    Raises:
        FolderError: if another process holds it, naming that.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "lock", "a+") as file:  # not emptied before it is held
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise FolderError(
                "Another run is in this folder; wait for it, end it, or give another --workdir. "
                f"Received: workdir={str(workdir)!r}, in use by {file.read() or 'a process'}"
            ) from error
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in workdir.iterdir()] == ["lock"]:  # nothing came of it
                (workdir / "lock").unlink()
                workdir.rmdir()


def check_workdir(workdir, config):
    """Raise a FolderError if a folder holds a run of another config, naming the keys."""
    if not (workdir / "config.json").exists():
        return
    differing = config_keys.find_changes(read_json(workdir / "config.json"), config, PLACES)
    if differing:
        raise FolderError(
            f"{workdir} holds a run of another config; give another --workdir or remove it. "
            f"Keys that differ: {', '.join(differing)}"
        )


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
    names = [path.name for path in (workdir / "state").glob("epoch_*")]
    return max((int(_STATE.fullmatch(name)[1]) for name in names), default=0)


def restore_state(model, workdir):
    """Put a compiled model into the state of the last finished epoch, if there is one."""
    epochs = count_finished_epochs(workdir)
    if epochs:
        model.optimizer.build(model.trainable_variables)
        model.load_weights(workdir / "state" / f"epoch_{epochs}.weights.h5")


def remove_state(workdir):
    """Remove the state of a finished run."""
    shutil.rmtree(workdir / "state", ignore_errors=True)


def read_log(workdir):
    """Return the finished epochs, one dict of numbers each."""
    path = workdir / "log.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [{key: float(value) for key, value in row.items()} for row in rows]


def rewind_log(workdir):
    """Drop what an epoch that was not finished has logged, and return the others."""
    rows = read_log(workdir)[: count_finished_epochs(workdir)]
    path = workdir / "log.csv"
    if rows:
        lines = path.read_text().splitlines(keepends=True)[: len(rows) + 1]
        write_text(path, "".join(lines))
    else:
        path.unlink(missing_ok=True)
    return rows


def make_callbacks(workdir, rows):
    """Return the callbacks of a run that has finished the epochs `rows`, the state's last."""
    best = max((row["val_accuracy"] for row in rows), default=None)
    monitor = {"monitor": "val_accuracy", "mode": "max", "initial_value_threshold": best}
    callbacks = [
        LogTraining(),
        keras.callbacks.CSVLogger(workdir / "log.csv", append=bool(rows)),
        SaveStudent(workdir / "best.keras", save_best_only=True, **monitor),
        SaveStudent(workdir / "last.keras"),
    ]
    if importlib.util.find_spec("tensorboard"):
        folder = str(workdir / "tensorboard")
        callbacks.append(keras.callbacks.TensorBoard(folder, write_graph=False))
    return [*callbacks, SaveState(workdir / "state")]


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
    """Return what a JSON file holds."""
    return json.loads(path.read_text())


def write_json(path, values):
    """Write a JSON file in one piece."""
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")


def write_text(path, text):
    """Write a file so that it is there as a whole or as it was."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)
