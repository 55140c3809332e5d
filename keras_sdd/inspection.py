"""What classifiers say of the cells of their maps: one pass over a data set, scale by scale."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sdd._checks import check_scales, describe
from keras_sdd.calibration import CalibrationBins, log_softmax
from keras_sdd.frozen_teacher import FrozenTeacher, check_pair
from keras_sdd.graphs import leave_no_trace
from keras_sdd.losses.labels import class_indices
from keras_sdd.networks import Network, with_size_of
from keras_sdd.typing import Dataset

_BATCH_SIZE = 64  # of arrays


@dataclasses.dataclass(frozen=True)
class CellStatistics:
    """What a network says of the cells of one scale, averaged over cells and images.

    Parts and accuracies are from 0 to 1, the other figures in nats; NaN for what there is not.

    Attributes:
        network: `"teacher"` or `"student"`.
        scale: m.
        cells: of an image, m * m.
        complementary_label: part of the cells that are right where the network's global prediction
            is wrong, or wrong where it is right; of a teacher what `consistency="label"` gives.
        complementary_global: part of the cells of another class than the global prediction, as in
            `consistency="global"`; the others agree with it.
        accuracy: of the cells, against the image's label.
        calibration_error: the cells' expected calibration error.
        negative_log_likelihood: of the image's label in the cells.
        entropy: of the cells' probabilities.
        cell_agreement: part of the pairs of cells of an image that predict the same class.
        vote_accuracy: of the class that most cells predict; of several the likelier one.
        mean_accuracy: of the mean of the cells' probabilities.
        divergence: KL(teacher || student) of cells, at temperature 1; of a student alone.
        teacher_agreement: part of the cells that predict what the teacher's do; likewise.
        reliability: `CalibrationBins` of the cells, 15.
    """

    network: str
    scale: int
    cells: int
    complementary_label: float
    complementary_global: float
    accuracy: float
    calibration_error: float
    negative_log_likelihood: float
    entropy: float
    cell_agreement: float
    vote_accuracy: float
    mean_accuracy: float
    divergence: float = math.nan
    teacher_agreement: float = math.nan
    reliability: CalibrationBins = dataclasses.field(default_factory=CalibrationBins, repr=False)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `inspect_cells` found; printed, it is a table.

    Attributes:
        num_images: how many were seen.
        teacher: dict of scale to `CellStatistics`.
        student: the same of the student; empty without one.
    """

    num_images: int
    teacher: dict[int, CellStatistics]
    student: dict[int, CellStatistics]

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict of plain numbers for every network and scale."""
        found = [*self.teacher.values(), *self.student.values()]
        names = [x.name for x in dataclasses.fields(CellStatistics) if x.name != "reliability"]
        return [{name: getattr(x, name) for name in names} for x in found]

    def __str__(self) -> str:
        rows = self.rows()
        columns = {name: x for name, x in _COLUMNS.items() if self.student or name not in _OF_BOTH}
        lines = [[title for title, _ in columns.values()]]
        lines += [[_format(row[name], y) for name, (_, y) in columns.items()] for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        ]
        return "\n".join([f"{self.num_images:,} images; % unless said", *table])


# Name: title in the table, and format.
_COLUMNS = {
    "network": ("network", "{}"),
    "scale": ("scale", "{}"),
    "cells": ("cells", "{}"),
    "complementary_label": ("compl. (label)", "{:.1%}"),
    "complementary_global": ("compl. (global)", "{:.1%}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "vote_accuracy": ("votes", "{:.1%}"),
    "mean_accuracy": ("mean", "{:.1%}"),
    "cell_agreement": ("cells agree", "{:.1%}"),
    "calibration_error": ("ECE", "{:.1%}"),
    "negative_log_likelihood": ("NLL, nats", "{:.3f}"),
    "entropy": ("entropy, nats", "{:.3f}"),
    "divergence": ("KL, nats", "{:.3f}"),
    "teacher_agreement": ("as teacher", "{:.1%}"),
}
_OF_BOTH = ("divergence", "teacher_agreement")


def _format(value, form):
    return "-" if value != value else form.format(value).removesuffix("%")


def inspect_cells(
    teacher: keras.Model,
    dataset: Dataset,
    scales: Sequence[int] = (1, 2, 4),
    student: keras.Model | None = None,
    verbose: int = 1,
) -> Inspection:
    """Measure what a teacher, and a student, say of the regions of images, in one pass.

    Nothing is trained. Sums are kept, not cells, so that a data set of any size can be read.

    Args:
        teacher: a classifier as `SDDDistiller` takes it.
        dataset: arrays `(x, y)`, or a finite iterable of batches (images, labels), as a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or a PyTorch `DataLoader`. Labels (B,),
            (B, 1), or one-hot or soft (B, K), whose likeliest class counts, may be `"labels"` in a
            dict. Sample weights are not used.
        scales: which, different positive integers; cells are those of `keras_sdd.pool_cells`.
        student: another classifier of the same images and classes, or None.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        An `Inspection`.

    Raises:
        ValueError: if regions of a network have no logits, the two networks do not fit, or the data
            set has no labels, or labels that are no classes.

    Examples:
        >>> teacher = keras_sdd.models.build("small/cnn_8_16_32")
        >>> images, labels = np.ones((10, 32, 32, 3), "float32"), np.arange(10)
        >>> found = keras_sdd.inspect_cells(teacher, (images, labels), scales=(1, 2), verbose=0)
        >>> found.num_images, {m: x.cells for m, x in found.teacher.items()}
        (10, {1: 1, 2: 4})
        >>> found.teacher[1].accuracy  # images that look alike, of ten classes
        0.1
    """
    scales = check_scales(scales)
    if student is not None:
        check_pair(teacher, student)
    networks = {"teacher": _read(teacher, student or teacher, scales)}
    if student is not None:
        networks["student"] = _read(student, teacher, scales)
    count, batches = _list_batches(dataset)
    sums: dict = {(name, m): _Sums() for name in networks for m in scales}
    num_images = seen = 0
    bar = keras.utils.Progbar(count, verbose=verbose, unit_name="batch")
    for seen, batch in enumerate(batches, 1):
        images, labels = _split(batch, networks["teacher"].outputs["cells"].shape[-1])
        num_images += len(labels)
        _add_batch(sums, labels, {name: x.predict(images) for name, x in networks.items()}, scales)
        bar.update(seen)
    if not num_images:
        raise ValueError(f"The data set has no images. Received: dataset={describe(dataset)}")
    if count is None:
        bar.update(seen, finalize=True)
    found = {name: {m: sums[name, m].describe(name, m) for m in scales} for name in networks}
    return Inspection(num_images, found["teacher"], found.get("student", {}))


def _read(model, other, scales):
    """The network of the cells (B, 1 + N, K), the global one first, in inference mode."""
    with leave_no_trace(model, other):
        network = Network(with_size_of(model, other), frozen=True)
        cells = network.cells((1, *(m for m in scales if m != 1)))
        return FrozenTeacher(network.select({"cells": cells}))


def _list_batches(dataset):
    """The number of batches, None if unknown, and the batches."""
    if isinstance(dataset, tuple) and len(dataset) == 2:
        return _cut(dataset)
    is_keras = isinstance(dataset, keras.utils.PyDataset)
    if hasattr(dataset, "shape") or not (is_keras or hasattr(dataset, "__iter__")):
        raise ValueError(
            "Expected arrays (x, y), or batches of (images, labels). Received: dataset="
            f"{describe(dataset)}"
        )
    try:
        count = dataset.num_batches if is_keras else len(dataset)
        is_endless = count is None
    except TypeError as error:  # of a generator, or a tf.data.Dataset
        count, is_endless = None, "infinite" in str(error)
    if is_endless:
        raise ValueError(
            "The data set must end; leave its repetition out, or take a part of it, as a list or "
            f"by dataset.take. Received: dataset={describe(dataset)}"
        )
    if is_keras:
        return count, (dataset[i] for i in range(dataset.num_batches))
    return count, (dataset.as_numpy_iterator() if hasattr(dataset, "element_spec") else dataset)


def _cut(arrays):
    """The same of arrays (x, y)."""
    arrays = keras.tree.map_structure(lambda x: x if hasattr(x, "shape") else np.asarray(x), arrays)
    shapes: list = [tuple(x.shape) for x in keras.tree.flatten(arrays)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"Expected as many labels as images. Received: dataset of shapes {shapes}")
    starts = range(0, len(keras.tree.flatten(arrays)[0]), _BATCH_SIZE)
    return len(starts), (
        keras.tree.map_structure(lambda x, i=i: x[i : i + _BATCH_SIZE], arrays) for i in starts
    )


def _split(batch, num_classes):
    """Images and class indices (B,) of a batch, in NumPy."""
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    labels = labels.get("labels") if isinstance(labels, dict) else labels
    if labels is None:
        raise ValueError(
            'Cells are held against labels: give batches of (images, labels), or {"labels": ...} '
            f"behind the images. Received: a batch of {describe(batch)}"
        )
    labels = np.asarray(labels)
    is_number = labels.dtype.kind in "biuf"
    indices = class_indices(keras.ops.convert_to_tensor(labels), num_classes) if is_number else -1
    indices = keras.ops.convert_to_numpy(indices)
    wrong = np.reshape((indices < 0) | (indices >= num_classes), -1)
    if wrong.any():
        raise ValueError(
            f"Labels must be classes in [0, {num_classes}), or one-hot or soft rows that sum to 1; "
            f"leave images without one out. Received: {labels[np.argmax(wrong)]!r} among them"
        )
    return keras.tree.map_structure(np.asarray, images), indices


def _add_batch(sums, labels, outputs, scales):
    """Add what the networks give for a batch, (B, 1 + N, K) each, to the sums."""
    log_p = {name: log_softmax(x["cells"]) for name, x in outputs.items()}
    whole = {name: np.argmax(x[:, 0], axis=-1) for name, x in log_p.items()}
    start = 1
    for m in scales:
        own = slice(0, 1) if m == 1 else slice(start, start := start + m * m)
        teacher = log_p["teacher"][:, own]
        sums["teacher", m].add(labels, whole["teacher"], teacher)
        if "student" in log_p:
            sums["student", m].add(labels, whole["student"], log_p["student"][:, own], teacher)


class _Sums:
    """Sums over images of what one network says of the cells of one scale."""

    def __init__(self):
        self.totals: collections.Counter = collections.Counter()
        self.images = 0
        self.bins = CalibrationBins()

    def add(self, labels, whole, log_p, teacher=None):
        """Add a batch: labels and global predictions (B,), log-probabilities (B, N, K)."""
        p, predicted = np.exp(log_p), np.argmax(log_p, axis=-1)
        correct = predicted == labels[:, None]
        self.bins.add(np.ravel(np.max(p, axis=-1)), np.ravel(correct))
        mean_p = np.mean(p, axis=1)
        of_label = np.take_along_axis(log_p, labels[:, None, None], axis=-1)
        values = {
            "complementary_label": correct != (whole == labels)[:, None],
            "complementary_global": predicted != whole[:, None],
            "accuracy": correct,
            "negative_log_likelihood": -of_label,
            "entropy": -np.sum(p * log_p, axis=-1),
            "cell_agreement": _compare_pairs(predicted),
            "vote_accuracy": _vote(predicted, mean_p) == labels,
            "mean_accuracy": np.argmax(mean_p, axis=-1) == labels,
        }
        if teacher is not None:
            values["divergence"] = np.sum(np.exp(teacher) * (teacher - log_p), axis=-1)
            values["teacher_agreement"] = predicted == np.argmax(teacher, axis=-1)
        self.images += len(labels)
        self.totals.update({name: len(labels) * np.mean(x) for name, x in values.items()})

    def describe(self, network, scale):
        """The `CellStatistics` of all that was added."""
        means = {name: float(total / self.images) for name, total in self.totals.items()}
        return CellStatistics(
            network,
            scale,
            scale**2,
            calibration_error=self.bins.error,
            reliability=self.bins,
            **means,
        )


def _compare_pairs(predicted):
    """The part of the pairs of cells with the same of the classes (B, N); NaN for one cell."""
    count = predicted.shape[1]
    if count == 1:
        return math.nan
    alike = np.mean(predicted[:, :, None] == predicted[:, None, :])  # each with itself, too
    return (count * alike - 1) / (count - 1)


def _vote(predicted, mean_p):
    """The class (B,) that most cells predict, of (B, N); of several the likelier in the mean."""
    votes = 0.5 * mean_p  # at most half a vote
    np.add.at(votes, (np.arange(len(votes))[:, None], predicted), 1.0)
    return np.argmax(votes, axis=-1)
