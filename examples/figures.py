"""Draw what a student of an SD method has learned otherwise than one of the plain method.

    python examples/figures.py --plain=RUN_OF_KD --decoupled=RUN_OF_SD_KD

The folders are of two finished runs that differ in the method alone. Their networks are those of
the last epoch. Writes into --output_dir four figures, as Figures 3 to 6 of the SDD paper, and the
numbers in them, which it prints, too:

correlations.png   how far the students are from the teacher's correlations of the classes' logits
features.png       embeddings of teacher and students in a plane, and how far classes lie apart
rescued.png        images that the SD student alone gets right, and how many are lost
cells.png          what teacher and SD student predict for the cells of ambiguous images
figures.json       the numbers

The images are those that the runs held out of the training images; the test images are read only
with --split=test, which is meant for the very end of a study.
"""

import dataclasses
import json
import logging as standard_logging
import math
import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags, logging
from drawings import run_pairs
from drawings.numbers import (
    NUM_NEIGHBORS,
    average_pairs,
    choose_ambiguous,
    compare_students,
    correlate_classes,
    count_classes,
    find_probabilities,
    measure_separability,
    project,
)
from drawings.students import draw_cells, draw_correlations, draw_features, draw_rescued
from training import command_line, machine

SPLITS = ("validation", "test")
NUM_EMBEDDED = 2000
NUM_RESCUED = 10
NUM_AMBIGUOUS = 4
_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker")
_GARMENTS += ("Bag", "Ankle boot")
# Data set to the names of its classes; the classes of others have numbers.
_CLASS_NAMES = {"fashion_mnist": _GARMENTS, "scenes/garments.npz": _GARMENTS}


@dataclasses.dataclass(frozen=True)
class Study:
    """What the figures are made of.

    Attributes:
        folders: of the runs.
        students: names of the plain and of the SD student.
        images: the data set of N raw images.
        labels: (N,).
        chosen: indices of the images whose embeddings are kept.
        outputs: dict of `"teacher"` and the students' names to `run_pairs.Outputs`.
        cell_options: `run_pairs.Run.cell_options`.
        names: of the classes.
        words: which images these are.
    """

    folders: tuple[str, str]
    students: tuple[str, str]
    images: Any
    labels: np.ndarray
    chosen: np.ndarray
    outputs: dict[str, run_pairs.Outputs]
    cell_options: dict
    names: tuple[str, ...]
    words: str


def read_study(plain, decoupled, teacher=None, split=SPLITS[0]):
    """Read two runs, and the images, once.

    Args:
        plain, decoupled: folders of the runs of a method and of its SD form.
        teacher: its file, where it is not that of the runs' configs any more.
        split: of the images, one of `SPLITS`.

    Raises:
        SetupError: for what the person at the keyboard can put right.
    """
    runs = run_pairs.read_run(plain, "plain"), run_pairs.read_run(decoupled, "decoupled")
    run_pairs.check_pair(*runs)
    config, options = runs[1].config, runs[1].cell_options
    run_pairs.check_split(config, split)
    machine.setup_devices(config)
    images = run_pairs.load_images(config, split)
    count = images.num_images
    if count <= NUM_NEIGHBORS:
        raise command_line.SetupError(
            f"The figures need more than {NUM_NEIGHBORS} images. Received: {count} {split} images"
        )
    networks = run_pairs.load_networks(*runs, images.element_spec[0].shape[1:], teacher)
    students = runs[0].name, runs[1].name
    networks = dict(zip(("teacher", *students), networks, strict=True))
    chosen = np.arange(count)
    if count > NUM_EMBEDDED:  # at random, as those of a class may lie together
        chosen = np.sort(np.random.default_rng(0).choice(count, NUM_EMBEDDED, replace=False))
    with_cells = {"teacher": options, students[1]: options}
    labels, outputs = run_pairs.predict(networks, config, images, chosen, with_cells)
    names = name_classes(config, outputs["teacher"].logits.shape[1])
    pair = [config[role].split("/")[-1] for role in ("teacher", "student")]
    words = f"{count:,} {split} images of {config.dataset}, "
    words += "{} to {}".format(*pair)
    folders = str(plain), str(decoupled)
    return Study(folders, students, images, labels, chosen, outputs, options, names, words)


def name_classes(config, count):
    """Return the names of the classes, or their numbers."""
    known = _CLASS_NAMES.get(config.dataset, ())
    return known if len(known) == count else tuple(map(str, range(count)))


def make_correlations(study, path):
    """Draw Figure 3, and return the mean differences of the students' correlations."""
    correlations = {x: correlate_classes(y.logits) for x, y in study.outputs.items()}
    differences = {x: np.abs(correlations["teacher"] - correlations[x]) for x in study.students}
    means = {x: average_pairs(differences[x]) for x in study.students}
    draw_correlations(differences, means, study.names, study.words, path)
    return means


def make_features(study, path):
    """Draw Figure 4, and return the networks' numbers of separability."""
    labels = study.labels[study.chosen]
    embeddings = {x: y.embedding for x, y in study.outputs.items()}
    numbers = {x: measure_separability(y, labels) for x, y in embeddings.items()}
    points = {x: project(y) for x, y in embeddings.items()}
    words = study.words if len(labels) == len(study.labels) else f"{len(labels):,} of {study.words}"
    draw_features(points, labels, numbers, study.names, words, path)
    return numbers | {"num_images": len(labels)}


def make_rescued(study, path):
    """Draw Figure 5, and return the numbers of images that one student alone gets right."""
    logits = [study.outputs[x].logits for x in study.students]
    numbers, rescued = compare_students(study.labels, *logits)
    shown = rescued[:NUM_RESCUED]
    captions = [[f"true class: {study.names[study.labels[i]]}"] for i in shown]
    for student, values in zip(study.students, logits, strict=True):
        classes = np.argmax(values[shown], axis=1)
        probabilities = find_probabilities(values[shown], classes)
        for lines, label, probability in zip(captions, classes, probabilities, strict=True):
            lines.append(f"{student}: {study.names[label]}, {probability:.0%}")
    plain, decoupled = study.students
    title = (
        f"{numbers['rescued']:,} images that {decoupled} alone gets right, against "
        f"{numbers['lost']:,} that {plain} alone gets right"
    )
    words = (
        f"McNemar's exact test: p = {numbers['p']:.2g}. {study.words}.\nShown: those where "
        f"{decoupled} gives the true class the most probability beyond {plain}, and what both "
        "predict"
    )
    images = run_pairs.find_images(study.images, shown)
    draw_rescued(images, captions, title, words, path)
    return numbers


def make_cells(study, path):
    """Draw Figure 6, and return the part of the teacher's cells that are complementary."""
    teacher = study.outputs["teacher"]
    judged = teacher.classes, teacher.complementary
    shown = choose_ambiguous(study.labels, *judged, NUM_AMBIGUOUS)
    captions = [_describe_cells(study, i) for i in shown]
    cells = {
        x: (study.outputs[x].classes[shown], study.outputs[x].complementary[shown])
        for x in ("teacher", study.students[1])
    }
    images = run_pairs.find_images(study.images, shown)
    options = study.cell_options["scales"], study.cell_options["consistency"]
    share = float(np.mean(teacher.complementary[:, 1:]))
    words = (
        f"Those with the most complementary cells of the teacher, of {study.words}.\nFirst those "
        f"that it gets right as a whole, then wrong ones; {share:.0%} of its cells in all images "
        "are complementary"
    )
    draw_cells(images, captions, cells, *options, words, path)
    return {"complementary": share}


def _describe_cells(study, index):
    # Within the cells there is room for numbers alone.
    names = [f"class {x}" if x == str(i) else f"{i} {x}" for i, x in enumerate(study.names)]
    classes = study.outputs["teacher"].classes[index]
    counted = count_classes(classes[1:])
    lines = [f"true: {names[study.labels[index]]}", f"teacher: {names[classes[0]]}", "its cells:"]
    lines += [f"  {names[label]}: {count}" for label, count in counted[:4]]
    rest = sum(count for _, count in counted[4:])
    return "\n".join(lines + ([f"  others: {rest}"] if rest else []))


FIGURES = {
    "correlations": make_correlations,
    "features": make_features,
    "rescued": make_rescued,
    "cells": make_cells,
}


def make_figures(study, output_dir):
    """Write the figures and the numbers in them, and return these."""
    folder = pathlib.Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    right = {x: np.mean(y.logits.argmax(1) == study.labels) for x, y in study.outputs.items()}
    numbers: dict = {
        "images": study.words,
        "runs": dict(zip(study.students, study.folders, strict=True)),
    }
    numbers["accuracy"] = {x: 100.0 * float(y) for x, y in right.items()}
    numbers |= {name: make(study, folder / f"{name}.png") for name, make in FIGURES.items()}
    (folder / "figures.json").write_text(json.dumps(_without_nan(numbers), indent=2) + "\n")
    return numbers


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(x) for key, x in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def print_numbers(numbers, students):
    """Print what the figures show."""
    accuracy, features = numbers["accuracy"], numbers["features"]
    print(f"{numbers['images']}; networks of the last epoch")
    print(f"{'':<10}{'accuracy':>10}{'correlations':>14}{'silhouette':>12}{'5-NN':>12}")
    for name in ("teacher", *students):
        difference = numbers["correlations"].get(name)
        print(
            f"{name:<10}{accuracy[name]:>8.2f} %"
            f"{'-' if difference is None else f'{difference:.4f}':>14}"
            f"{features[name]['silhouette']:>12.3f}{features[name]['knn_accuracy']:>10.2f} %"
        )
    plain, decoupled = students
    rescued = numbers["rescued"]
    print(
        f"{decoupled} alone is right for {rescued['rescued']} images, {plain} alone for "
        f"{rescued['lost']}: p = {rescued['p']:.2g}\n"
        f"{numbers['cells']['complementary']:.1%} of the teacher's cells are complementary"
    )


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_string("plain", None, "Folder of a finished run of a method, as kd.")
    flags.DEFINE_string("decoupled", None, "Folder of a run of its SD form, as sd_kd.")
    flags.DEFINE_string("teacher", None, "The teacher's file, if it has moved since.")
    flags.DEFINE_enum("split", SPLITS[0], SPLITS, "Which images.")
    flags.DEFINE_string("output_dir", "results/figures", "Folder of the results.")
    flags.mark_flags_as_required(["plain", "decoupled"])


def main(argv):
    """Read, draw, print."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    # Several networks, each traced once: TensorFlow takes that for one traced in vain.
    standard_logging.getLogger("tensorflow").setLevel("ERROR")
    values = flags.FLAGS
    try:
        study = read_study(values.plain, values.decoupled, values.teacher, values.split)
    except command_line.SetupError as error:
        sys.exit(f"error: {error}")
    print_numbers(make_figures(study, values.output_dir), study.students)
    print(values.output_dir)


if __name__ == "__main__":
    define_flags()
    app.run(main)
