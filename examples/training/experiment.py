"""A training run from its config to its result: labels only, or distillation."""

import contextlib
import functools
import sys
import tempfile

import keras

import keras_sdd
from keras_sdd import data, optimizers, schedules
from training import data_sets, folder_lock, machine, measures, networks, records, state
from training.command_line import SetupError

_CHOSEN_ON = {"validation": "validation images", "authors": "test images"}


def build_optimizer(config, steps_per_epoch):
    """Build the recipe's optimizer; a `global_clipnorm` of 0 is none."""
    learning_rate = schedules.step_learning_rate(
        config.learning_rate, config.milestones, steps_per_epoch, config.learning_rate_factor
    )
    return optimizers.SGD(
        learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        global_clipnorm=config.global_clipnorm or None,
    )


def make_metrics(network):
    """Return the metrics that the logs of runs hold."""
    top = min(5, network.output_shape[-1])
    return [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras.metrics.SparseTopKCategoricalAccuracy(k=top, name="top5_accuracy"),
    ]


def train(config, workdir, distribute=False):
    """Train what a config says, with labels only or by a teacher, and return the result.

    Args:
        config: of the experiment.
        workdir: folder of the run.
        distribute: whether to train on all devices.

    Returns, raises:
        As `run`.
    """
    devices = machine.setup_devices(config, distribute)
    build_model = _build_student if config.method == "ce" else _build_distiller
    return run(config, workdir, devices, functools.partial(build_model, config))


def _build_student(config, image_shape, *_):
    student = networks.build_network(config, config.student, image_shape)
    return student, student


def _build_distiller(config, image_shape, *counts):
    teacher = networks.load_teacher(config, image_shape)
    # Whatever the teacher took from the generators, a seed has one student to start from.
    keras.utils.set_random_seed(config.seed)
    student = networks.build_network(config, config.student, image_shape)
    return networks.build_distiller(config, teacher, student, *counts), student


def run(config, workdir, devices, build_model, callbacks=()):
    """Train a model, or go on with its run in `workdir`, and return the result.

    All processes do the same, and the main one writes. The number of devices may differ from that
    of the run so far: a batch is that of all devices together.

    Args:
        config: of the experiment.
        workdir: folder of the run.
        devices: as `setup_devices` returned them.
        build_model: function from the shape of an image, and the steps and images of an epoch,
            to the model to fit and the network to keep.
        callbacks: of Keras, further ones, of the main process alone.

    Returns:
        What result.json holds; None in processes that are not the main one.

    Raises:
        SetupError: for what the person at the keyboard can put right, as a folder in use.
    """
    try:
        result = records.find_result(workdir, config)
        if result is None:
            held = (
                folder_lock.lock_workdir(workdir) if devices.is_main else contextlib.nullcontext()
            )
            with held:
                result = records.find_result(workdir, config)  # of a run that has just ended
                if result is None:
                    return _run(config, workdir, devices, build_model, callbacks)
    except records.FolderError as error:
        raise SetupError(error) from error
    if devices.is_main:
        print(f"{workdir} holds a finished run; remove it to run it again.")
    return result


def _run(config, workdir, devices, build_model, further):
    keras.utils.set_random_seed(config.seed)
    train_data, chosen_on = data_sets.load_data(config)
    steps = len(train_data)
    try:  # what the library refuses, it explains
        chosen_on = devices.shard(chosen_on)
        image_shape = train_data.element_spec[0].shape[1:]
        model, network = build_model(image_shape, steps, train_data.num_images)
        model.compile(
            build_optimizer(config, steps),
            loss=keras_sdd.losses.CrossEntropy(),
            metrics=make_metrics(network),
            jit_compile=machine.choose_jit_compile(config),
            steps_per_execution=config.steps_per_execution,
        )
        if data_sets.has_cache(config):
            train_data = attach_cache(config, model, train_data, devices)
    except (LookupError, ValueError) as error:
        raise SetupError(error) from error
    callbacks, verbose = [data.FollowEpochs(train_data)], 0
    if devices.is_main:
        callbacks += [*start_records(config, workdir, devices), *further]
        verbose = 1 if sys.stdout.isatty() else 2  # a log file cannot redraw a line
    else:  # saving takes all processes
        elsewhere = tempfile.TemporaryDirectory()
        callbacks.append(state.SaveRun(elsewhere.name, config.save_epochs))
    state.restore_state(model, workdir)
    initial_epoch = state.count_finished_epochs(workdir)
    devices.prepare(model)  # from here on, nobody is far ahead of the others
    model.fit(
        devices.shard(train_data, drop_remainder=True),
        validation_data=chosen_on,
        epochs=config.epochs,
        initial_epoch=initial_epoch,
        callbacks=callbacks,
        shuffle=False,  # the data set has its own order
        verbose=verbose,
    )
    devices.leave()
    measured = measure(config, workdir, getattr(model, "teacher", None)) if config.test else {}
    if not devices.is_main:
        return None
    result = records.write_result(workdir, config, network.count_params(), measured)
    state.remove_state(workdir)
    return result


def measure(config, workdir, teacher):
    """Return what the networks of a run come to on the test images; see `measures.measure_run`."""
    images, folder = data_sets.load_test_data(config), config.get("teacher_cache")
    jit_compile = machine.choose_jit_compile(config)
    try:
        return measures.measure_run(workdir, images, jit_compile, teacher, folder)
    except ValueError as error:
        raise SetupError(error) from error


def attach_cache(config, distiller, train_data, devices):
    """Return the training data with the teacher's cells, computed at the first use of the folder.

    Raises:
        SetupError: if several processes would have to compute them together.
    """
    if devices.num_processes > 1 and keras.backend.backend() != "torch":
        raise SetupError(
            "The processes of several hosts cannot make a cache; train without one, or on one "
            f"host. Received: teacher_cache={config.teacher_cache!r}"
        )
    with devices.main_first():
        return keras_sdd.cache_teacher(
            distiller, train_data, config.teacher_cache, verbose=int(devices.is_main)
        )


def start_records(config, workdir, devices):
    """Write what runs on what, and return the callbacks that write the rest."""
    records.write_setup(workdir, config, f"{devices.num_devices} x {machine.describe_device()}")
    return records.make_callbacks(workdir, records.rewind_log(workdir), config.save_epochs)


def report(result, workdir):
    """Print what a run came to; nothing if the run is another process's."""
    if result is None:
        return
    if "last_accuracy" not in result:
        print(f"{result['cell']}: {result['last_validation_accuracy']:.2f} % of validation images")
        return
    paper = None if result["smoke"] else result["paper_accuracy"]
    print(
        f"{result['cell']} ({result['reading']}, seed {result['seed']}): test accuracy "
        f"{result['last_accuracy']:.2f} % after the last epoch, {result['best_accuracy']:.2f} % "
        f"after epoch {result['best_epoch']}, the best on the {_CHOSEN_ON[result['protocol']]}"
        f"{f'; {paper:.2f} % in the paper' if paper is not None else ''}\n{workdir}"
    )
