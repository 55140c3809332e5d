"""The Keras programs that `benchmark.py` times, each in a process of its own.

`build(name, options)` returns a function that takes a number of steps and returns the seconds from
the first batch on hand to all results ready. Steps of training are those of `fit`: that is what
users run, and `train_on_batch` is not the same (on JAX it unpacks and packs the whole state every
time). `fit` hands out steps without waiting for their results, and only the end of the burst waits;
therefore a burst is timed as a whole. The terms are those of the trainers, from the same rows.
"""

import itertools
import time
import types

import keras
import numpy as np
from ml_collections import config_dict
from training import machine, networks, records, term_rows

import keras_sdd
from configs import cifar100, methods, recipes

_NUM_SAMPLES = 50_000  # training images of CIFAR-100, all of which memories hold
# Program: method, settings of its own, options of the distiller.
_VARIANTS = {
    "sd_kd_12": ("sd_kd", {"scales": (1, 2)}, {}),
    "sd_kd_cached": ("sd_kd", {}, {}),
    "sd_kd_bfloat16": ("sd_kd", {}, {"teacher_dtype": "bfloat16"}),
}


class _FirstBatch(keras.callbacks.Callback):
    """Notes when the first batch is on hand.

    It has no `on_train_batch_end`: Keras would wait for the results of every step to call it.
    """

    time = None

    def on_train_batch_begin(self, batch, logs=None):
        self.time = self.time or time.perf_counter()

    on_predict_batch_begin = on_train_batch_begin


def build(name, options):
    """Build a program.

    Args:
        name: a method or a sum of such, a program of `methods.PROGRAMS`, or "data:NAME",
            which reads batches of a data set.
        options: the flags of `benchmark.py`.

    Returns:
        Function from a number of steps to seconds.

    Raises:
        FileNotFoundError: if the data set is not prepared.
        LookupError: for methods that do not add up.
        ValueError: for a term that the pair does not fit.
    """
    if name.startswith("data:"):
        return _build_pipeline(name.removeprefix("data:"), options)
    teacher, student = build_pair(options)
    if name in ("teacher", "folded_teacher"):
        return _build_forward(teacher, options, fold=name == "folded_teacher")
    images, labels = batch = make_batch(options)
    if name == "supervised":
        model = student
    elif name == "keras_kd":
        model = _build_keras_distiller(teacher, student)
    elif name == "simkd":
        model = _build_simkd(teacher, student)
    else:
        config = make_config(name, options)
        model = networks.build_distiller(
            config, teacher, student, _count_steps(config), _NUM_SAMPLES
        )
        batch = images, _make_targets(name, config, model, images, labels)
    _compile(
        model,
        # As the recipe of the paper's authors has it.
        optimizer=keras_sdd.optimizers.SGD(
            0.05, momentum=0.9, weight_decay=5e-4, global_clipnorm=40.0
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return lambda steps: _time(model.fit, batch, steps, shuffle=False)


def build_pair(options):
    """Build teacher and student, with random weights."""
    keras.utils.set_random_seed(0)
    shape = (options.image_size, options.image_size, 3)
    return [
        keras_sdd.models.build(f"cifar100/{name}", options.num_classes, shape)
        for name in options.pair
    ]


def make_config(name, options):
    """Return the config of a program: the terms of the trainers' rows for CIFAR-100.

    The pair's own settings hold where configs/cifar100.py has the pair; the scales are the flag's.
    """
    method, changes, further = _VARIANTS.get(name, (name, {}, {}))
    pair = cifar100.PAIRS.get(",".join(options.pair), {"beta": 8.0})
    settings = methods.READINGS["official"] | cifar100.SETTINGS | pair
    settings |= {"scales": tuple(map(int, options.scales))} | changes
    values = {
        "method": method,
        "batch_size": options.batch_size,
        "labelled_examples": None,
        "fold_teacher": True,
        "teacher_dtype": None,
    }
    rows = recipes.add_methods(method, settings)
    return config_dict.ConfigDict(values | rows | further)


def _count_steps(config):
    return _NUM_SAMPLES // config.batch_size


def _make_targets(name, config, model, images, labels):
    """Labels, and what else the terms ask for."""
    if name == "sd_kd_cached":
        return {"labels": labels} | model.compute_teacher_targets(images)
    if not term_rows.need_ids(config):
        return labels
    random = np.random.default_rng(1)
    ids = random.choice(_NUM_SAMPLES, len(labels), replace=False)
    return {"labels": labels, "ids": ids.astype("int32")}


def _build_keras_distiller(teacher, student):
    # Its default loss is another one, which is not KD.
    loss = keras.distillation.LogitsDistillation(temperature=4.0, loss=keras.losses.KLDivergence())
    return keras.distillation.Distiller(teacher, student, loss, student_loss_weight=0.1)


def _build_simkd(teacher, student):
    student = keras_sdd.reuse_classifier(teacher, student)
    terms = [keras_sdd.terms.SimKD()]
    return keras_sdd.Distiller(teacher, student, terms, student_loss_weight=0.0)


def _build_forward(teacher, options, fold):
    if fold:
        teacher = keras_sdd.fold_batch_norm(teacher)
    _compile(teacher)
    images, _ = make_batch(options)
    return lambda steps: _time(teacher.predict, (images,), steps)


def _build_pipeline(name, options):
    """Batches of a training set as its recipe augments them; epochs follow each other."""
    dataset = keras_sdd.data.load(
        name, "train", options.batch_size, data_dir=options.data_dir, drop_remainder=True
    )
    batches = iter(dataset.repeat())

    def read(steps):
        started = time.perf_counter()
        for _ in itertools.islice(batches, steps):
            pass
        return time.perf_counter() - started

    return read


def make_batch(options):
    """Make a random batch: images, labels."""
    random = np.random.default_rng(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    labels = random.integers(options.num_classes, size=options.batch_size)
    return random.standard_normal(shape, "float32"), labels


def _compile(model, **options):
    """Compile as the trainers of the examples do."""
    config = types.SimpleNamespace(jit_compile="auto")
    chosen = machine.choose_jit_compile(config)
    model.compile(jit_compile=chosen, **options)


def _time(method, batch, steps, **options):
    """Return the seconds that `fit` or `predict` takes for a batch that comes `steps` times."""
    first_batch = _FirstBatch()
    data = _repeat(batch, steps)
    # The logs of fit and the outputs of predict are numbers: who has them has waited for them.
    method(**data, verbose=0, callbacks=[first_batch], **options)
    return time.perf_counter() - first_batch.time


def _repeat(batch, steps):
    """Return the arguments of `fit` or `predict` for a batch that comes `steps` times."""
    if keras.backend.backend() != "tensorflow":
        data = keras.tree.map_structure(lambda array: np.concatenate([array] * steps), batch)
        return dict(zip("xy", data, strict=False)) | {"batch_size": len(batch[0])}
    import tensorflow as tf

    # The thread that tunes a pipeline sleeps 10 ms, 20 ms, 40 ms..., and its end waits for that.
    tuning = tf.data.Options()
    tuning.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensors(batch if len(batch) > 1 else batch[0])
    return {"x": dataset.repeat(steps).with_options(tuning)}


def describe_versions():
    """Return what the program runs on."""
    return records.describe_versions(machine.describe_device())


def measure_gpu_memory():
    """Return the peak of the memory in use on the GPU in bytes, or None without one."""
    if keras.backend.backend() == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None
