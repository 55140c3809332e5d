"""The state of a run, of which it goes on after a kill.

state/epoch_K/ has all that epoch K + 1 needs. A killed run goes on from the last one, which gives
the weights of an unbroken run, as the data of an epoch depend on its number alone. A state is put
in place in one piece, with the best network so far in it, after its epochs were logged; the
networks beside are copies of it, made anew when a run goes on. A folder in which this does not hold
was damaged from outside, and is refused.
`keras.callbacks.BackupAndRestore` is not used: it writes weights and epoch one after the other, so
that a kill between them repeats an epoch, and with a `save_freq` in batches it takes the weights of
mid-epoch to the first batch of that epoch.
"""

import os
import pathlib
import re
import shutil
import zipfile

import keras

from training.folder_lock import FolderError

REMEDY = "Put the file back from a copy, or remove the folder to run it again from the start"
_STATE, _WEIGHTS = re.compile(r"epoch_(\d+)"), "training.weights.h5"


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
        raise FolderError(f"{path} is damaged: {reason} {REMEDY}.") from error


def remove_state(workdir):
    """Remove the state of a finished run."""
    shutil.rmtree(workdir / "state", ignore_errors=True)


def check_network(path):
    """Raise a FolderError if a `.keras` file is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            fault = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        fault = error
    if fault:
        raise FolderError(f"{path} is missing or damaged: {fault}. {REMEDY}.")
