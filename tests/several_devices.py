"""Training runs that are to come out the same on one device and on two.

`python several_devices.py compare FOLDER devices` runs them on all devices there are, `fail` has
one of the trainers end early; both for `test_distribution.py`.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from small_classifiers import build_cnn, copy_weights, draw_data, spread_predictions
from terms.table import TERMS
from terms_of_users import Remembering

from keras_sdd import SDDDistiller, cache_teacher, distribution, optimizers
from keras_sdd.losses import CrossEntropy

REPOSITORY = pathlib.Path(__file__).parents[1]
BACKEND = keras.backend.backend()
RANKS = (0, 1)
# JAX evaluates batches that divide evenly; elsewhere the last one is odd.
TRAIN, TEST = 24, 16 if BACKEND == "jax" else 21
TRAINED, TESTED = slice(TRAIN), slice(TRAIN, None)
X, Y = draw_data(TRAIN + TEST)
CLIPNORM = 0.7  # of gradients between 0.5 and 1.1


# Of a batch of 8 both halves are the same, as then are their statistics.
HALVES = np.arange(TRAIN) - np.arange(TRAIN) % 8 + np.arange(TRAIN) % 4


# More of them on one device than on the other, and a batch in which one device has no label.
MISSING = np.isin(np.arange(TRAIN + TEST), [0, 1, 2, 6, 9, *range(16, 20), 23])


def make_data(part, batch_size=8, images=X, labels=Y, with_ids=False):
    targets = {"labels": labels, "ids": np.arange(len(labels))} if with_ids else labels
    cut = keras.tree.map_structure(lambda x: x[part], (images, targets))
    return tf.data.Dataset.from_tensor_slices(cut).batch(batch_size)


def fit(devices, model, images=X, cache=None, trained=TRAINED, labels=Y):
    """Train and return what was logged; gradients are clipped in some of the steps."""
    optimizer = optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-3, global_clipnorm=CLIPNORM)
    model.compile(optimizer, CrossEntropy(), metrics=["accuracy"], jit_compile=BACKEND == "jax")
    devices.prepare(model)
    with_ids = bool(cache) or any(x.needs_ids for x in getattr(model, "terms", ()))
    train = make_data(trained, images=images, labels=labels, with_ids=with_ids)
    if cache:
        with devices.main_first():
            train = cache_teacher(model, train, cache, verbose=0)
    train = devices.shard(train, drop_remainder=True)
    test = devices.shard(make_data(TESTED))
    options = {"validation_data": test, "shuffle": False, "verbose": 0}
    return model.fit(train, epochs=2, **options).history


def set_seed(seed, devices):
    """Seed the generators; but for JAX, the main process's weights count."""
    keras.utils.set_random_seed(seed + (0 if BACKEND == "jax" else devices.rank))


def distil(
    devices, policy="float32", images=X, cache=None, trained=TRAINED, make_terms=list, labels=Y,
    **options,
):  # fmt: skip
    """Distil for two epochs; the teacher is in float32."""
    set_seed(3, devices)
    teacher = spread_predictions(build_cnn(8, "teacher"))
    keras.config.set_dtype_policy(policy)
    student = build_cnn(4, "student", **options)
    keras.config.set_dtype_policy("float32")
    distiller = SDDDistiller(
        teacher, student, warmup_steps=6, feature_losses=make_terms(), ignore_class=-1
    )
    before = copy_weights(teacher)
    result = pack(fit(devices, distiller, images, cache, trained, labels), student)
    for term in distiller.terms[1:]:
        names = [f"{term.name} {v.path.split('/', 1)[-1]}" for v in term.weights]
        result |= dict(zip(names, copy_weights(term), strict=True))
    if not devices.rank:
        for weights, expected in zip(copy_weights(teacher), before, strict=True):
            np.testing.assert_array_equal(weights, expected)
    return result


def train_with_labels(devices):
    set_seed(5, devices)
    model = build_cnn(4, batch_norm=False)
    return pack(fit(devices, model), model)


def pack(history, model):
    weights = {f"weights{i}": values for i, values in enumerate(copy_weights(model))}
    return {f"logged {name}": np.array(values) for name, values in history.items()} | weights


def make_terms():
    """The terms of the table that take every sample by itself, with weights that train steadily."""
    made = [case.build() for name, case in TERMS.items() if name != "SDD"]
    for term in made:
        term.weight = min(term.get_config()["weight"], 1.0)
    return [term for term in made if not term.relates_samples]


def run_cases(devices, folder, hosts=False):
    """Train and return what comes out by case; on several hosts those that exchange something."""
    regularizer = keras.regularizers.L2(0.1)
    too_large = X.copy()
    too_large[5] = 1e6  # an infinity in float16, on the second device
    cases = {
        "distilled": distil(devices, batch_norm=False, kernel_regularizer=regularizer),
        "batch norm": distil(devices),
        "same halves": distil(devices, trained=HALVES, make_terms=make_terms, batch_norm=False),
        "memory, missing labels": distil(
            devices,
            make_terms=lambda: [Remembering()],
            batch_norm=False,
            labels=np.where(MISSING, -1, Y),
        ),
    }
    if not hosts:
        cases |= {
            "labels only": train_with_labels(devices),
            "mixed_float16": distil(devices, "mixed_float16", too_large, batch_norm=False),
            "cached": distil(devices, cache=pathlib.Path(folder, "cells"), batch_norm=False),
        }
    return cases


def compare(folder, where):
    """Run the cases on all devices and write what every process comes to."""
    devices = distribution.initialize(timeout=60)
    assert devices.num_devices == 2
    for name, result in run_cases(devices, folder, where == "hosts").items():
        np.savez(pathlib.Path(folder, f"{name} {devices.rank}.npz"), **result)


def build_tiny(name, num_classes, input_shape, *_):
    """Instead of a network of the zoo: one without batch norm."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name=name.replace("/", "_"))


def make_config():
    """Two epochs of three steps."""
    from configs import cifar100

    config = cifar100.get_config("resnet56,resnet20,sd_kd", smoke=True)
    config.update(epochs=2, num_examples=48)
    return config


class Fail(keras.callbacks.Callback):
    """Ends the last process in the second epoch as a power cut would, or lets it hang."""

    def __init__(self, how):
        super().__init__()
        self.how, self.epoch = how, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1):
            os.kill(os.getpid(), signal.SIGKILL) if self.how == "kill" else time.sleep(600)


def fail(workdir, how):
    """Distil as `examples/distill.py --distribute` does, up to the second epoch."""
    from training import experiment, networks

    initialize, fit = distribution.initialize, keras.Model.fit
    networks.models.build = build_tiny

    def start():
        devices = initialize(timeout=5 if how == "hang" else 60)

        def fit_and_fail(*args, callbacks, **options):
            return fit(*args, callbacks=[*callbacks, Fail(how)], **options)

        if devices.rank == devices.num_processes - 1:  # the last process, or the only one
            keras.Model.fit = fit_and_fail
        return devices

    distribution.initialize = start
    experiment.train(make_config(), pathlib.Path(workdir), distribute=True)


def split_cpu():
    """Make two logical devices of the CPU."""
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, 2 * [tf.config.LogicalDeviceConfiguration()])


def run_on_two_devices(*arguments, timeout=300):
    """Run this file on two devices of a machine; return its exit status and output."""
    launcher, settings = [], {}
    if BACKEND == "jax":
        given = os.environ.get("XLA_FLAGS", "")
        settings["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count=2"
    if BACKEND == "torch":
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    (result,) = _run([settings], launcher, arguments, timeout)
    return result


def run_on_two_hosts(*arguments, timeout=300):
    """Run this file in two processes, as on two machines; return exit status and output of each."""
    ports = _find_ports(2)
    workers = [f"localhost:{port}" for port in ports]
    if BACKEND == "tensorflow":
        clusters = [
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
            for rank in RANKS
        ]
        settings = [{"TF_CONFIG": json.dumps(cluster)} for cluster in clusters]
    else:
        common = {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": workers[0],
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        }
        settings = [common | {"KERAS_DISTRIBUTION_PROCESS_ID": str(rank)} for rank in RANKS]
    return _run(settings, [], arguments, timeout)


def _run(settings, launcher, arguments, timeout):
    """Run this file once for each dict of environment variables, all at the same time."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = f"{REPOSITORY / 'examples'}{os.pathsep}{REPOSITORY}"
    command = [sys.executable, *launcher, __file__, *map(str, arguments)]
    processes, end = [], time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        for added in settings:
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                command,
                env=environment | added,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(_kill, process)
            processes.append((process, output))
        results = []
        for process, output in processes:
            status = process.wait(max(end - time.monotonic(), 0.1))
            output.seek(0)
            results.append((status, output.read()))
    return results


def _kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _find_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for x in sockets:
            x.bind(("localhost", 0))
        return [x.getsockname()[1] for x in sockets]


if __name__ == "__main__":
    if BACKEND == "tensorflow" and "TF_CONFIG" not in os.environ:
        split_cpu()
    {"compare": compare, "fail": fail}[sys.argv[1]](*sys.argv[2:])
