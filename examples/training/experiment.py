"""What the examples share: data, networks and training, all from a config."""

import contextlib
import os
import pathlib
import sys
import tempfile
import zipfile

import keras

import keras_sdd
from configs import recipes
from keras_sdd import converters, data, models, optimizers, schedules
from training import folder_lock, machine, measures, records, term_rows
from training.command_line import SetupError

_TORCH_SUFFIXES = (".pth", ".pt")
_CHOSEN_ON = {"validation": "validation images", "authors": "test images"}


def load_data(config):
    """Return the data sets for training and for choosing the best epoch.

    No image of the test set is among them, unless the config's protocol is the authors'.
    """
    options = {"augment": config.augment, "num_examples": config.num_examples}
    options["labelled_examples"] = config.get("labelled_examples")
    try:
        options["with_ids"] = has_cache(config) or term_rows.need_ids(config)
        if recipes.pick("protocol", config.protocol, recipes.PROTOCOLS) == "authors":
            return load_split(config, "train", **options), load_test_data(config)
        held = {name: config[name] for name in ("validation_examples", "validation_seed")}
        return load_split(config, "train", **options, **held), load_split(
            config, "validation", **held
        )
    except LookupError as error:
        raise SetupError(error) from error


def load_test_data(config):
    """Return the data set of the test images."""
    return load_split(config, "test", num_examples=config.num_examples if config.smoke else None)


def load_split(config, split, **options):
    """Return a split of the data set of a config; `options` are of `keras_sdd.data.load`."""
    batch_size = config.batch_size if split == "train" else config.eval_batch_size
    names = ("seed", "num_classes", "image_size", "data_dir")
    # A config has the key only where networks hold their own normalization.
    raw = {"dtype": "uint8"} if config.get("raw_images") else {}
    try:
        options = raw | options | {name: config[name] for name in names}
        return data.load(config.dataset, split, batch_size, **options)
    except (OSError, ImportError, ValueError) as error:
        raise SetupError(error) from error


def build_network(config, name, image_shape):
    """Build a network of the zoo for the config's classes and images of `image_shape`.

    A `name` that is a `.keras` file gives the network in it, with new weights.
    """
    if name.endswith(".keras"):
        return keras.models.clone_model(load_network(name, config, name, image_shape))
    classes = config.num_classes or data.find_spec(config.dataset)["num_classes"]
    return models.build(name, classes, image_shape)


def load_network(path, config, name, image_shape):
    """Load a trained network from a `.keras` file, or a PyTorch checkpoint of the zoo's `name`.

    Raises:
        SetupError: if the file is missing or of another kind.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".keras", *_TORCH_SUFFIXES):
        raise SetupError(f"A network must be a .keras, .pth or .pt file. Received: {str(path)!r}")
    if not path.is_file():
        raise SetupError(f"There is no such file. Received: {str(path)!r}")
    if path.suffix == ".keras":
        try:
            return keras.saving.load_model(path, compile=False)
        except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise SetupError(f"{path} is not a network that Keras can read: {error}") from error
    return converters.load_torch_state_dict(build_network(config, name, image_shape), path)


def load_teacher(config, image_shape):
    """Load the teacher; only the smoke form does without a file, with random weights."""
    if config.smoke and not config.teacher_checkpoint:
        return build_network(config, config.teacher, image_shape)
    if not config.teacher_checkpoint or not os.path.isfile(config.teacher_checkpoint):
        file, arg = config.cell.split(":")
        file = "cifar100" if file == "ablations" else file
        raise SetupError(
            f"Distillation needs a trained {config.teacher}. Pass its .keras or .pth file as "
            "--config.teacher_checkpoint, or train it: python examples/train_teacher.py "
            f"--config=configs/{file}.py:{config.teacher.split('/')[1]}. "
            f"Received: teacher_checkpoint={config.teacher_checkpoint!r}"
        )
    return load_network(config.teacher_checkpoint, config, config.teacher, image_shape)


def build_distiller(config, teacher, student, steps_per_epoch, num_samples):
    """Build the distiller, whose terms are those of the config's rows."""
    return keras_sdd.Distiller(
        teacher,
        student,
        term_rows.build_terms(config, steps_per_epoch, num_samples),
        student_loss_weight=config.student_loss_weight,
        fold_teacher=config.fold_teacher,
        teacher_dtype=config.teacher_dtype or None,
        ignore_class=-1 if config.labelled_examples else None,
    )


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


def train(config, workdir, devices, build_model, callbacks=()):
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
                    return _train(config, workdir, devices, build_model, callbacks)
    except records.FolderError as error:
        raise SetupError(error) from error
    if devices.is_main:
        print(f"{workdir} holds a finished run; remove it to run it again.")
    return result


def _train(config, workdir, devices, build_model, further):
    keras.utils.set_random_seed(config.seed)
    train_data, chosen_on = load_data(config)
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
        if has_cache(config):
            train_data = attach_cache(config, model, train_data, devices)
    except (LookupError, ValueError) as error:
        raise SetupError(error) from error
    callbacks, verbose = [data.FollowEpochs(train_data)], 0
    if devices.is_main:
        callbacks += [*start_records(config, workdir, devices), *further]
        verbose = 1 if sys.stdout.isatty() else 2  # a log file cannot redraw a line
    else:  # saving takes all processes
        elsewhere = tempfile.TemporaryDirectory()
        callbacks.append(records.SaveRun(elsewhere.name, config.save_epochs))
    records.restore_state(model, workdir)
    initial_epoch = records.count_finished_epochs(workdir)
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
    records.remove_state(workdir)
    return result


def measure(config, workdir, teacher):
    """Return what the networks of a run come to on the test images; see `measures.measure_run`."""
    jit_compile, folder = machine.choose_jit_compile(config), config.get("teacher_cache")
    try:
        return measures.measure_run(workdir, load_test_data(config), jit_compile, teacher, folder)
    except ValueError as error:
        raise SetupError(error) from error


def has_cache(config):
    """Whether the teacher's cells are computed once and kept."""
    return config.method != "ce" and bool(config.teacher_cache)


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
