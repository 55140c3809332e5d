"""Measure what a teacher, and a student, say of the regions of images: is there more than KD sees?

    python examples/inspect_teacher.py --config=configs/cifar100.py:vgg13 --checkpoint=vgg13.keras

With a pair in --config and --student=FILE.keras, a student is held against its teacher.

Prints a table, a line for each scale, and writes it as cells.csv with a figure, cells.png, of how
many cells are complementary, how often they are right, how far their confidence can be trusted and
how sure they are, on the images that the config holds out of the training images: those that the
teacher was trained on, --split=train, flatter it. The test images are read only with --split=test.
If the file --pairs of examples/forecast.py is there, a forecast of what SDD will give comes after
the table, with how far such forecasts held so far.
"""

import csv
import pathlib

import repository
from absl import flags
from drawings.palette import COLOURS
from matplotlib.figure import Figure
from reports import forecasts
from training import command_line, data_sets, machine, networks

import keras_sdd

# What --split may be; the first one if it is not given.
SPLITS = ("validation", "train", "test")
STYLES = {"teacher": {"linestyle": "-"}, "student": {"linestyle": "--", "markerfacecolor": "none"}}


def load_teacher(config, checkpoint, image_shape):
    """Return the network in a file, or the teacher of a config of a pair."""
    if checkpoint:
        name = config.get("teacher", config.student)
        return networks.load_network(checkpoint, config, name, image_shape)
    if "teacher" not in config:
        raise command_line.SetupError("Pass the file of the teacher as --checkpoint.")
    return networks.load_teacher(config, image_shape)


def inspect_teacher(config, checkpoint, student, scales, split):
    """Return the `Inspection` of the networks in two files, that of the student may be None."""
    machine.setup_devices(config)
    images = data_sets.load_images(config, split)
    shape = images.element_spec[0].shape[1:]
    teacher = load_teacher(config, checkpoint, shape)
    if student:
        student = networks.load_network(student, config, config.student, shape)
    try:
        return keras_sdd.inspect_cells(teacher, images, scales, student or None)
    except ValueError as error:  # what the library refuses, it explains
        raise command_line.SetupError(error) from error


def write_csv(path, rows):
    """Write one row per network and scale; what there is not is left empty."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "" if x != x else x for name, x in row.items()})


def draw(inspection, path):
    """Draw how parts, accuracies, calibration and entropy change with the scale."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    finest = inspection.teacher[max(inspection.teacher)]
    cells = f"teacher's {finest.scale} x {finest.scale} cells"
    complementary = {"by label": "complementary_label", "by class": "complementary_global"}
    draw_lines(axes[0, 0], inspection, complementary, 100)
    axes[0, 0].set_title(
        f"{finest.complementary_label:.0%} of the {cells} are right where the image is wrong,\n"
        f"or wrong where it is right; {finest.complementary_global:.0%} show another class"
    )
    axes[0, 0].set_ylabel("complementary cells, %")
    accuracies = {"cells": "accuracy", "vote": "vote_accuracy", "mean of cells": "mean_accuracy"}
    draw_lines(axes[0, 1], inspection, accuracies, 100)
    axes[0, 1].set_title(
        f"{finest.accuracy:.0%} of the {cells} predict the image's label,\n"
        f"their vote is right for {finest.vote_accuracy:.0%} of the images"
    )
    axes[0, 1].set_ylabel("accuracy, %")
    draw_reliability(axes[1, 0], inspection)
    confidence = finest.reliability.confidences.sum() / finest.reliability.counts.sum()
    axes[1, 0].set_title(
        f"The {cells} say they are {confidence:.0%} sure and are right in {finest.accuracy:.0%}\n"
        "(below the grey line: too sure)"
    )
    draw_lines(axes[1, 1], inspection, {"cells": "entropy"}, 1)
    axes[1, 1].set_title(f"The {cells} have {finest.entropy:.2f} nats of doubt")
    axes[1, 1].set_ylabel("entropy of a cell, nats")
    figure.suptitle(f"Cells of {inspection.num_images:,} images", fontweight="bold")
    figure.savefig(path, dpi=100)


def list_networks(inspection):
    """Yield name and statistics of the networks."""
    yield "teacher", inspection.teacher
    if inspection.student:
        yield "student", inspection.student


def draw_lines(axes, inspection, figures, factor):
    """Draw figures, by their words in the legend, over the scales, from coarse to fine."""
    for network, statistics in list_networks(inspection):
        scales = sorted(statistics)
        for (label, name), colour in zip(figures.items(), COLOURS, strict=False):
            values = [factor * getattr(statistics[m], name) for m in scales]
            label = f"{network}, {label}"
            axes.plot(values, marker="o", color=colour, label=label, **STYLES[network])
    axes.set_xticks(range(len(scales)), [f"{m} x {m}" for m in scales])
    axes.set(xlabel="scale", ylim=(0, None))
    finish(axes)


def draw_reliability(axes, inspection):
    """Draw how often cells are right over how sure they are, bin by bin."""
    axes.plot([0, 100], [0, 100], color="0.7", linewidth=1)
    for network, statistics in list_networks(inspection):
        for index, m in enumerate(sorted(statistics)):
            bins = statistics[m].reliability
            filled = bins.counts > 0
            confidence, right = (
                100 * x[filled] / bins.counts[filled] for x in (bins.confidences, bins.correct)
            )
            colour = COLOURS[index % len(COLOURS)]
            label = f"{network}, {m} x {m}: error {100 * bins.error:.1f} %"
            options = {"marker": "o", "color": colour, "label": label} | STYLES[network]
            axes.plot(confidence, right, **options)
    axes.set(xlabel="confidence, %", ylabel="cells that are right, %", ylim=(0, 100))
    finish(axes)


def finish(axes):
    """Add legend and grid."""
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", handlelength=3)


def main(config):
    """Measure, print and write."""
    values = flags.FLAGS
    scales = [int(x) if x.isdigit() else x for x in values.scales]
    path = pathlib.Path(values.pairs)
    try:
        pairs = forecasts.read_rows(path) if path.exists() else []
        trust = forecasts.summarize(pairs) if pairs else {}
    except (OSError, ValueError) as error:
        raise command_line.SetupError(f"--pairs: {error}") from error
    inspection = inspect_teacher(config, values.checkpoint, values.student, scales, values.split)
    folder = pathlib.Path(values.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "cells.csv", inspection.rows())
    draw(inspection, folder / "cells.png")
    print(f"{config.cell}, {values.split} images:\n{inspection}\n{folder}")
    if pairs:
        print(forecasts.describe(pairs, trust, inspection))
    else:
        print(f"No forecast: {path} is not there; examples/forecast.py --collect=STUDIES makes it.")


if __name__ == "__main__":
    command_line.define_flags()
    flags.DEFINE_string(
        "checkpoint", None, "The teacher's .keras file or PyTorch checkpoint; or give "
        "--config.teacher_checkpoint."
    )  # fmt: skip
    flags.DEFINE_string("student", None, "The same of a student, to be held against the teacher.")
    flags.DEFINE_list("scales", "1,2,4", "Scales of the cells.")
    flags.DEFINE_enum("split", SPLITS[0], SPLITS, "Which images.")
    path = repository.ROOT / "docs" / "studies" / "pairs.csv"
    flags.DEFINE_string("pairs", str(path), "What forecasts are made from, of forecast.py.")
    flags.DEFINE_string("output_dir", "results/inspect_teacher", "Folder of the results.")
    command_line.launch(main)
