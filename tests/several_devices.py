"""Training runs that are to come out the same on one device and on two.

`python several_devices.py FOLDER` runs them on all devices there are, for `test_distribution.py`.
"""

import os
import pathlib
import sys

import keras
import numpy as np
from classifiers import build_cnn, copy_weights, draw_data, spread_predictions

from keras_sdd import SDDDistiller, distribution, optimizers
from keras_sdd.losses import CrossEntropy

BACKEND = keras.backend.backend()
# JAX evaluates batches that divide evenly; elsewhere the last one is odd.
TRAIN, TEST = 26, 22 if BACKEND == "jax" else 21
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
    """Two epochs of distillation; the teacher is in float32."""
    keras.utils.set_random_seed(3 + devices.rank)  # the main process's weights count
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
        "mixed_bfloat16": distil(devices, "mixed_bfloat16", batch_norm=False),
        "mixed_float16": distil(devices, "mixed_float16", batch_norm=False),
    }


def main(folder):
    if BACKEND == "tensorflow":
        split_cpu()
    devices = distribution.initialize(timeout=60)
    assert devices.num_devices == 2
    for name, result in run_cases(devices).items():
        np.savez(pathlib.Path(folder, f"{name} {devices.rank}.npz"), **result)


def split_cpu():
    """Make two logical devices of the CPU."""
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(device, 2 * [tf.config.LogicalDeviceConfiguration()])


def make_command(*arguments):
    """Return command and environment for a program on two devices."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if BACKEND == "jax":
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *(launcher if BACKEND == "torch" else ()), *map(str, arguments)]
    return command, environment


if __name__ == "__main__":
    main(sys.argv[1])
