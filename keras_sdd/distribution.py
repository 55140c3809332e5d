"""Training on several devices: one call that sets up the engine the backend has.

    devices = keras_sdd.distribution.initialize()  # first of all
    ...                                            # build and compile any model
    devices.prepare(model)
    model.fit(devices.shard(train, drop_remainder=True), verbose=int(devices.is_main))

Training is data-parallel: every device has the whole model and a part of every batch. The batch
size of the data set is that of all devices together, so the number of devices does not change what
is trained, up to rounding and to two layers: batch norms normalize with the statistics of the
images that one device sees, except on JAX, where they see the whole batch; and dropout draws other
masks.

One process writes the files. With several on TensorFlow or JAX, though, all must save a compiled
model, the others to a folder of no consequence: Keras makes variables when it saves an optimizer.
"""

import contextlib
import dataclasses
import importlib
import os
from collections.abc import Iterator
from types import ModuleType

import keras

from keras_sdd._checks import check_number
from keras_sdd._devices import note_prepared, note_started
from keras_sdd.data.pipeline import keep_part
from keras_sdd.typing import Dataset

__all__ = ["Devices", "initialize"]


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a process knows of the devices that train together; by default it trains alone.

    Attributes:
        num_devices: of all processes.
        num_processes: PyTorch has one for every device, JAX and TensorFlow for every host.
        rank: number of this process, from 0.
        equal_parts: whether every batch must divide evenly, as on JAX.
        splits_batches: whether the engine divides batches among processes, as TensorFlow's does.

    Examples:
        >>> devices = keras_sdd.distribution.Devices()  # what `initialize` gives on one device
        >>> devices.num_devices, devices.rank, devices.is_main
        (1, 0, True)
        >>> with devices.main_first():
        ...     print("the cells are computed here, if they are not there")
        the cells are computed here, if they are not there
    """

    num_devices: int = 1
    num_processes: int = 1
    rank: int = 0
    equal_parts: bool = False
    splits_batches: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints: one process of the run does."""
        return self.rank == 0

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process do a block before the others do, of which they find the results.

        For files that one process writes and all read, as the cells of `keras_sdd.cache_teacher`.

        Raises:
            RuntimeError: with several processes on TensorFlow or JAX, where one cannot compute
                alone.
        """
        if self.num_processes > 1 and keras.backend.backend() != "torch":
            raise RuntimeError(
                "Only on PyTorch can one of several processes compute alone. Received: "
                f"{self.num_processes} processes of {keras.backend.backend()}"
            )
        if not self.is_main:
            _import_engine().wait()
        yield
        if self.is_main and self.num_processes > 1:
            _import_engine().wait()

    def prepare(self, model: keras.Model) -> keras.Model:
        """Make the devices train `model` together; to be called after every `compile`.

        On PyTorch it copies the weights and the optimizer's state of the main process to all, has
        `DistributedDataParallel` average gradients, sums metrics over processes, so that all log
        the same, and averages moving statistics at the end of an epoch. On TensorFlow it does the
        last, sums gradients before they are clipped, and lets Keras's trainer run under several
        workers. On JAX, and with one device, it does nothing. All processes must `fit` and
        `evaluate` the model together.

        Args:
            model: built and compiled Keras model, an `SDDDistiller` or any other.

        Returns:
            The same model.

        Raises:
            ValueError: if the model is not built and compiled.
        """
        if self.num_devices == 1:
            return model
        if getattr(model, "optimizer", None) is None or not model.built:
            raise ValueError(f"Build and compile the model before prepare. Received: {model!r}")
        _import_engine().prepare(model)
        note_prepared(model)
        return model

    def leave(self) -> None:
        """End the training together, once all processes have come here.

        What is loaded or built from then on is each process's own.
        """
        if self.num_devices > 1:
            _import_engine().leave()

    def shard(self, dataset: Dataset, drop_remainder: bool = False) -> Dataset:
        """Return the data set of this process: its part of every batch, in every process as many.

        Every process prepares whole batches and trains with its part, so all need the same data
        in the same order, as `keras_sdd.data.load` gives them.

        Args:
            dataset: `tf.data.Dataset` of batches for all devices together.
            drop_remainder: whether to leave out images of a batch, `num_devices` - 1 at most, that
                cannot be divided evenly; for training. Otherwise parts differ by one image, and
                on JAX an uneven batch is an error.

        Returns:
            A `tf.data.Dataset` of as many batches.

        Raises:
            ValueError: if `dataset` is no `tf.data.Dataset`, or comes from `keras_sdd.data.load`
                and cannot be divided. In iterating, TensorFlow's `InvalidArgumentError` for a
                batch that cannot be divided.
        """
        if self.num_devices == 1:
            return dataset
        num_parts, part = (1, 0) if self.splits_batches else (self.num_processes, self.rank)
        return keep_part(
            dataset, self.num_devices, num_parts, part, drop_remainder, self.equal_parts
        )


def initialize(timeout: float = 600.0) -> Devices:
    """Set up all devices for the model that is built next; to be called before all else.

    TensorFlow: `tf.distribute.MirroredStrategy` over the GPUs of this machine, or its logical CPUs;
    with the environment variable `TF_CONFIG`, `MultiWorkerMirroredStrategy` over the workers that
    it names, each started with its own.
    JAX: `keras.distribution.DataParallel` over all devices; on several hosts, with the environment
    variables of `keras.distribution.initialize` (`KERAS_DISTRIBUTION_JOB_ADDRESSES`,
    `_NUM_PROCESSES`, `_PROCESS_ID`) and the same `keras.utils.set_random_seed` on all. PyTorch:
    the processes that `torchrun` started, one a GPU, or several on the CPU.

    Args:
        timeout: seconds after which TensorFlow and PyTorch stop waiting for another process, and
            raise an error. JAX notices a dead process after about 100 seconds, and one that hangs
            not at all.

    Returns:
        `Devices`.

    Raises:
        RuntimeError: if the script was started in another way than the backend needs, or
            distribution is set up already.

    Examples:
        >>> devices = keras_sdd.distribution.initialize()
        >>> devices.num_devices, devices.is_main
        (1, True)
        >>> model = devices.prepare(keras_sdd.models.build("small/cnn_8_16_32"))
    """
    timeout = check_number("timeout", timeout)
    backend = keras.backend.backend()
    if backend != "torch" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            f"torchrun is for PyTorch alone. With KERAS_BACKEND={backend} one process takes all "
            "devices; start the script with python. Received: WORLD_SIZE="
            f"{os.environ['WORLD_SIZE']}"
        )
    devices = Devices(**_import_engine().start(timeout))
    note_started(devices)
    return devices


def _import_engine() -> ModuleType:
    return importlib.import_module(f"keras_sdd._backend.{keras.backend.backend()}_distribution")
