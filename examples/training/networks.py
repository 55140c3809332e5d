"""The networks of an experiment: built, read from files, and joined to a distiller."""

import os
import pathlib
import zipfile

import keras

import keras_sdd
from keras_sdd import converters, data, models
from training import term_rows
from training.command_line import SetupError

_TORCH_SUFFIXES = (".pth", ".pt")


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
