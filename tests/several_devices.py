"""Training runs that are to come out the same on one device and on two.

`python several_devices.py compare FOLDER` runs them on all devices there are, `fail` has one of the
trainers end early; both for `test_distribution.py`.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
from classifiers import build_cnn, copy_weights, draw_data, spread_predictions

from keras_sdd import SDDDistiller, distribution, optimizers
from keras_sdd.losses import CrossEntropy

REPOSITORY = pathlib.Path(__file__).parents[1]
BACKEND = keras.backend.backend()
# JAX evaluates batches that divide evenly; elsewhere the last one is odd.
TRAIN, TEST = 24, 16 if BACKEND == "jax" else 21
X, Y = draw_data(TRAIN + TEST)


def make_data(part, batch_size=8):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X[part], Y[part])).batch(batch_size)


def fit(devices, model, epochs=2):
    """Train and return what was logged and the weights."""
    optimizer = optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-3)
    model.compile(optimizer, CrossEntropy(), metrics=["accuracy"], jit_compile=BACKEND == "jax")
    devices.prepare(model)
    train = devices.shard(make_data(slice(TRAIN)), drop_remainder=True)
    test = devices.shard(make_data(slice(TRAIN, None)))
    options = {"validation_data": test, "shuffle": False, "verbose": 0}
    return model.fit(train, epochs=epochs, **options).history


def distil(devices, policy="float32", **options):
    """Distil for two epochs; the teacher is in float32."""
    keras.utils.set_random_seed(3 + devices.rank)  # PyTorch: the main process's weights count
    teacher = spread_predictions(build_cnn(8, "teacher"))
    keras.config.set_dtype_policy(policy)
    student = build_cnn(4, "student", **options)
    keras.config.set_dtype_policy("float32")
    distiller = SDDDistiller(teacher, student, warmup_steps=6)
    before = copy_weights(teacher)
    result = pack(fit(devices, distiller), student)
    if not devices.rank:
        for weights, expected in zip(copy_weights(teacher), before, strict=True):
            np.testing.assert_array_equal(weights, expected)
    return result


def train_with_labels(devices):
    keras.utils.set_random_seed(5 + devices.rank)
    model = build_cnn(4, batch_norm=False)
    return pack(fit(devices, model), model)


def pack(history, model):
    weights = {f"weights{i}": values for i, values in enumerate(copy_weights(model))}
    return {f"logged {name}": np.array(values) for name, values in history.items()} | weights


def run_cases(devices):
    regularizer = keras.regularizers.L2(0.1)
    return {
        "distilled": distil(devices, batch_norm=False, kernel_regularizer=regularizer),
        "labels only": train_with_labels(devices),
        "batch norm": distil(devices),
        "mixed_float16": distil(devices, "mixed_float16", batch_norm=False),
    }


def compare(folder):
    """Run the cases on all devices and write what every process comes to."""
    devices = distribution.initialize(timeout=60)
    assert devices.num_devices == 2
    for name, result in run_cases(devices).items():
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
    sys.path[:0] = [str(REPOSITORY / "examples"), str(REPOSITORY)]
    import distill

    initialize, experiment = distribution.initialize, distill.experiment
    distribution.initialize = lambda: initialize(timeout=5 if how == "hang" else 60)
    experiment.models.build = build_tiny
    if int(os.environ.get("RANK", "1")):  # the last process of two, or the only one
        fit = keras.Model.fit
        keras.Model.fit = lambda *args, callbacks, **options: fit(
            *args, callbacks=[*callbacks, Fail(how)], **options
        )
    distill.distill(make_config(), pathlib.Path(workdir), distribute=True)


def split_cpu():
    """Make two logical devices of the CPU."""
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, 2 * [tf.config.LogicalDeviceConfiguration()])


def run_on_two_devices(*arguments, timeout=300):
    """Run this file on two devices; return its exit status and output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, __file__, *map(str, arguments)]
    if BACKEND == "jax":
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    if BACKEND == "torch":
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, output


if __name__ == "__main__":
    if BACKEND == "tensorflow":
        split_cpu()
    {"compare": compare, "fail": fail}[sys.argv[1]](*sys.argv[2:])
