"""A finished run of a plain method beside one of its SD form, and what their networks say."""

import dataclasses
import json
import pathlib
from typing import Any

import keras
import numpy as np
from ml_collections import config_dict
from reports import results
from training import command_line, config_keys, data_sets, machine, networks

from drawings.cells import judge_cells
from keras_sdd import Network, data
from keras_sdd.cache import digest_weights
from keras_sdd.networks import with_size_of

FILES = ("config.json", "result.json", "last.keras")
# Keys of a config that the two runs may differ in: what the methods are, and where and how fast
# they ran. Their teachers are compared by their weights.
_FREE = {"cell", "method", "terms", "student_loss_weight", "table", "teacher_checkpoint"}
_FREE |= {"paper_accuracy", "paper_top5_accuracy", "teacher_dtype"}
_FREE |= results.FREE - {"seed", "protocol"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, its config, and `teacher`, a digest of its teacher's weights."""

    folder: pathlib.Path
    config: config_dict.ConfigDict
    teacher: str

    @property
    def name(self):
        """The method as papers write it, `"SD-KD"`."""
        return self.config.method.upper().replace("_", "-")

    @property
    def cell_options(self):
        """`scales`, 1 first, `pooling` and `consistency` of the cells of an SD form."""
        row = next(x for x in self.config.terms.values() if x.get("scales") and x.get("loss"))
        return {
            "scales": (1, *(m for m in row.scales if m != 1)),
            "pooling": row.pooling,
            "consistency": row.get("consistency", "label"),
        }


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a network says of N images.

    Attributes:
        logits: (N, K), without a last softmax.
        embedding: (n, C) of the chosen images.
        classes: (N, M), what the cells predict, the whole image first; None where not asked for.
        complementary: (N, M), whether cells are; likewise.
    """

    logits: np.ndarray
    embedding: np.ndarray
    classes: Any = None
    complementary: Any = None


def read_run(folder, flag):
    """Read the folder of a finished run.

    Raises:
        SetupError: if files are missing or damaged, naming the flag that gave the folder.
    """
    folder = pathlib.Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not folder.is_dir() or "config.json" in missing:
        fault = "must be the folder of a run, as examples/distill.py writes it"
    elif "result.json" in missing:
        fault = "is not finished; the command that started it goes on with it"
    else:
        fault = "has lost files; remove it and run it again"
    if missing:
        raise command_line.SetupError(
            f"--{flag} {fault}. Received: {str(folder)!r}, without {', '.join(missing)}"
        )
    try:
        config, result = (json.loads((folder / name).read_text()) for name in FILES[:2])
        return Run(folder, config_dict.ConfigDict(config), result.get("teacher", ""))
    except (ValueError, AttributeError, TypeError) as error:
        raise command_line.SetupError(
            f"--{flag}: config.json or result.json is damaged; run it again. "
            f"Received: {str(folder)!r}, {error}"
        ) from error


def check_pair(plain, decoupled):
    """Raise a SetupError if two runs differ in more than the method, or are no pair of methods."""
    methods = [run.config.get("method", "ce").split("+") for run in (plain, decoupled)]
    stripped = [x.removeprefix("sd_") for x in methods[1]]
    if methods[0] == methods[1] or stripped != methods[0]:
        raise command_line.SetupError(
            "--plain must be a run of a method without scales, as kd, and --decoupled one of its "
            f"SD form, sd_kd. Received: {plain.config.get('method')} in {plain.folder} and "
            f"{decoupled.config.get('method')} in {decoupled.folder}"
        )
    scales = decoupled.cell_options["scales"]
    if scales == (1,):
        raise command_line.SetupError(
            "The whole image is the only cell of --decoupled; give a run with more scales. "
            f"Received: scales={scales} in {decoupled.folder}"
        )
    written = plain.config.to_dict()
    keys = config_keys.find_changes(written, decoupled.config, ())
    keys = [key for key in keys if key.split(".")[0] not in _FREE]
    found = [
        [config_keys.flatten(run.config).get(key) for run in (plain, decoupled)] for key in keys
    ]
    if plain.teacher and decoupled.teacher and plain.teacher != decoupled.teacher:
        keys, found = [*keys, "the teacher's weights"], [*found, (plain.teacher, decoupled.teacher)]
    if keys:
        differing = "; ".join(f"{x}: {a} and {b}" for x, (a, b) in zip(keys, found, strict=True))
        raise command_line.SetupError(
            "--plain and --decoupled must be runs of one teacher, student, data set and seed; give "
            "the run that differs in nothing but the method, or train it. "
            f"What differs: {differing}"
        )


def check_split(config, split):
    """Raise a SetupError if a run was trained on the images of `split`."""
    if split == "validation" and config.get("protocol") == "authors":
        raise command_line.SetupError(
            "These runs held no images out (protocol=authors): the validation images are training "
            "images to them. Pass --split=test, or train with --config.protocol=validation."
        )


def load_networks(plain, decoupled, image_shape, checkpoint=None):
    """Return the teacher and both students, as they were after the last epoch.

    Args:
        plain, decoupled: the `Run`s.
        image_shape: (H, W, C).
        checkpoint: the teacher's file, where it is not that of the config any more.

    Raises:
        SetupError: if a file is missing or holds another teacher than that of the runs.
    """
    config = config_dict.ConfigDict(decoupled.config.to_dict())
    if checkpoint:
        config.teacher_checkpoint = checkpoint
    if config.teacher_checkpoint and not pathlib.Path(config.teacher_checkpoint).is_file():
        raise command_line.SetupError(
            "There is no such file of the teacher; give its place now as --teacher. "
            f"Received: {config.teacher_checkpoint!r}{'' if checkpoint else ' in the config'}"
        )
    keras.utils.set_random_seed(config.seed)  # the smoke form's teacher is drawn
    teacher = networks.load_teacher(config, image_shape)
    known, found = decoupled.teacher or plain.teacher, digest_weights(teacher)
    if known and not found.startswith(known):
        raise command_line.SetupError(
            "This is not the teacher of the runs, its weights differ; give the file that they "
            f"learned from as --teacher. Received: {config.teacher_checkpoint!r}"
        )
    students = [
        networks.load_network(run.folder / "last.keras", config, config.student, image_shape)
        for run in (plain, decoupled)
    ]
    return teacher, *students


def load_images(config, split):
    """Return the raw images of a split, uint8, in the order of every pass, and their labels."""
    return data_sets.load_images(config, split, dtype="uint8")


def predict(networks, config, images, chosen, cell_options):
    """Read a data set once, and return what networks say of it.

    Args:
        networks: dict of names to classifiers.
        config: of a run.
        images: as `load_images` gives them.
        chosen: sorted indices of the images whose embeddings are kept.
        cell_options: dict of names to `Run.cell_options`, of the networks whose cells are wanted.

    Returns:
        labels (N,), and a dict of the names to `Outputs`.
    """
    readers = {
        name: _make_reader(model, networks, config, cell_options.get(name))
        for name, model in networks.items()
    }
    normalize = data.normalization(config.dataset)
    labels, kept, start = [], {name: [] for name in networks}, 0
    for batch, batch_labels in images.as_numpy_iterator():
        normalized = keras.ops.convert_to_numpy(normalize(batch))
        stop = start + len(batch)
        own = chosen[(chosen >= start) & (chosen < stop)] - start
        for name, read in readers.items():
            outputs = read(normalized)
            part = {"logits": outputs["logits"], "embedding": outputs["embedding"][own]}
            if "cells" in outputs:  # those of a whole data set are many
                judged = judge_cells(
                    batch_labels, outputs["cells"], cell_options[name]["consistency"]
                )
                part |= dict(zip(("classes", "complementary"), judged, strict=True))
            kept[name].append(part)
        labels.append(batch_labels)
        start = stop
    joined = {
        name: Outputs(**{key: np.concatenate([x[key] for x in parts]) for key in parts[0]})
        for name, parts in kept.items()
    }
    return np.concatenate(labels), joined


def _make_reader(model, networks, config, cell_options):
    """Return the function from a batch of images to what `Outputs` holds of it."""
    for other in networks.values():
        model = with_size_of(model, other)
    try:  # what the library refuses, it explains
        network = Network(model, frozen=True)
        outputs = {"logits": network.logits, "embedding": network.embedding}
        if cell_options:
            outputs["cells"] = network.cells(cell_options["scales"], cell_options["pooling"])
    except ValueError as error:
        raise command_line.SetupError(error) from error
    selected = network.select(outputs)
    selected = keras.Model(selected.inputs[0], selected.output)  # whatever it was packed in
    selected.compile(jit_compile=machine.choose_jit_compile(config))

    def read(images):
        outputs = selected.predict_on_batch(images)
        return {key: np.asarray(x, "float32") for key, x in outputs.items()}

    return read


def find_images(images, indices):
    """Return the list of the raw images at some indices of a data set, which is read once more."""
    found, start = {}, 0
    for batch, _ in images.as_numpy_iterator():
        found |= {i: batch[i - start] for i in indices if start <= i < start + len(batch)}
        start += len(batch)
    return [found[i] for i in indices]
