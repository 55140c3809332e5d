"""Distil a small classifier of digit scenes, on two CPU cores in a few minutes.

Trains a teacher, then the same small student in three ways: with labels only, with a distillation
loss on the logits of the whole image (KD, DKD or NKD), and with the scale-decoupled form of that
loss. Prints the test accuracies, and writes the best scale-decoupled student, a CSV of all runs
and a figure of what teacher and student see in the regions of a few test images.

    python examples/quickstart.py
    python examples/quickstart.py --method=dkd --scales=1,2 --epochs=20 --seeds=3
"""

import csv
import logging as python_logging
import math
import pathlib
import re
import sys
import time

import keras
import numpy as np
from absl import app, flags, logging
from drawings import cells as cell_drawing
from keras import layers
from matplotlib.figure import Figure
from scenes.digits import NUM_CLASSES, SCENE_SHAPE, compose_scenes, split_digits

import keras_sdd

# The temperature of KD, the learning rate below and the weight 1 of either loss term were chosen
# on validation scenes; DKD and NKD have the values of their papers.
METHODS = {
    "kd": keras_sdd.losses.KD(temperature=4.0),
    "dkd": keras_sdd.losses.DKD(alpha=1.0, beta=8.0, temperature=4.0),
    "nkd": keras_sdd.losses.NKD(gamma=1.5, temperature=1.0),
}
TEACHER_WIDTHS = (16, 32, 64, 64)
STUDENT_WIDTHS = (8, 16, 32)
NUM_SCENES = {"train": 2000, "validation": 1000, "test": 2000}
SMOKE_SCENES = {"train": 128, "validation": 64, "test": 64}
BATCH_SIZE = 64
LEARNING_RATE = 0.04
FIGURE_SCALES = (1, 2, 4)
NUM_DRAWN = 4
# XLA's convolutions for CPUs take about three times as long as TensorFlow's own.
JIT_COMPILE = False if keras.backend.backend() == "tensorflow" else "auto"

FLAGS = flags.FLAGS
flags.DEFINE_enum("method", "kd", list(METHODS), "Distillation loss.", case_sensitive=False)
flags.DEFINE_list("scales", "1,2,4", "Scales of the scale-decoupled form.")
flags.DEFINE_integer("epochs", 15, "Epochs of the teacher and of each student.", lower_bound=1)
flags.DEFINE_integer("seeds", 3, "Students of each kind, with seeds 0, 1, ...", lower_bound=1)
flags.DEFINE_string("output_dir", "results/quickstart", "Folder of the results.")
flags.DEFINE_bool("smoke", False, "Run all of it on few scenes, for one epoch and one seed.")


@flags.validator("scales", message="must be different positive integers, for example 1,2,4")
def check_scales(scales):
    """Whether all entries of the flag are different positive integers."""
    whole = all(re.fullmatch("[1-9][0-9]*", scale) for scale in scales)
    return bool(scales) and whole and len(set(scales)) == len(scales)


class RunProgress(keras.callbacks.Callback):
    """One progress bar for a whole run, counted in epochs."""

    def __init__(self, title, epochs):
        super().__init__()
        print(title, flush=True)
        # In a log file, which cannot redraw a line, a run gets one line at its end.
        verbose = 1 if sys.stdout.isatty() else 2
        self.names = ("loss", "accuracy", "teacher_agreement")
        self.bar = keras.utils.Progbar(
            epochs, unit_name="epoch", stateful_metrics=self.names, verbose=verbose
        )

    def on_epoch_end(self, epoch, logs=None):
        self.bar.update(epoch + 1, [(name, logs[name]) for name in self.names if name in logs])


def compose_data(num_scenes):
    """Compose the scenes of each split, from digits of its own: a dict to (scenes, labels)."""
    digits = split_digits()
    return {
        split: compose_scenes(*digits[split], count, seed)
        for seed, (split, count) in enumerate(num_scenes.items())
    }


def build_classifier(widths, name):
    """Build a convolutional classifier: (B, 32, 32, 1) to logits (B, 10), its last map 8 x 8."""
    inputs = x = keras.Input(SCENE_SHAPE)
    for i, width in enumerate(widths):
        if i in (1, 2):
            x = layers.MaxPooling2D()(x)
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(NUM_CLASSES)(x), name=name)


def train(model, scenes, labels, epochs, title):
    """Compile and fit a classifier, or a distiller of one, with the recipe that all runs share."""
    steps = epochs * math.ceil(len(labels) / BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=JIT_COMPILE,
    )
    progress = RunProgress(title, epochs)
    model.fit(scenes, labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[progress])


def train_teacher(data, epochs):
    """Train the teacher; return it and its row of the CSV."""
    keras.utils.set_random_seed(0)
    started = time.perf_counter()
    teacher = build_classifier(TEACHER_WIDTHS, "teacher")
    train(teacher, *data["train"], epochs, "teacher")
    return teacher, describe_run("teacher", 0, teacher, data, started)


def train_student(data, epochs, seed, title, teacher=None, method=None, scales=(1,)):
    """Train a student, with labels only if there is no teacher, and return it."""
    # Every kind of student starts from the same weights for the same seed.
    keras.utils.set_random_seed(seed)
    student = model = build_classifier(STUDENT_WIDTHS, "student")
    if teacher is not None:
        model = keras_sdd.SDDDistiller(teacher, student, METHODS[method], scales=scales)
    train(model, *data["train"], epochs, title)
    return student


def measure_accuracy(model, scenes, labels):
    """Return the accuracy of a classifier in percent."""
    logits = model.predict(scenes, batch_size=250, verbose=0)
    return 100.0 * float(np.mean(np.argmax(logits, axis=-1) == labels))


def describe_run(name, seed, model, data, started):
    """Return a row of the CSV."""
    seconds = time.perf_counter() - started
    accuracies = {
        f"{split}_accuracy": round(measure_accuracy(model, *data[split]), 2)
        for split in ("validation", "test")
    }
    row = {"model": name, "seed": seed, "parameters": model.count_params()}
    return row | accuracies | {"training_seconds": round(seconds, 1)}


def compare_students(teacher, data, method, scales, epochs, seeds):
    """Train students of the three kinds with every seed.

    Returns:
        The rows of all runs, and the scale-decoupled student of the best validation accuracy.
    """
    name = method.upper()
    listed = ",".join(map(str, scales))
    kinds = {
        "student, labels only": {},
        f"student, {name}": {"teacher": teacher, "method": method},
        f"student, SD-{name} {listed}": {"teacher": teacher, "method": method, "scales": scales},
    }
    rows, best, best_accuracy = [], None, -1.0
    for seed in range(seeds):
        for kind, options in kinds.items():
            started = time.perf_counter()
            title = f"{kind}: run {seed + 1} of {seeds}"
            student = train_student(data, epochs, seed, title, **options)
            rows.append(describe_run(kind, seed, student, data, started))
        # The last kind is the scale-decoupled one.
        if rows[-1]["validation_accuracy"] > best_accuracy:
            best, best_accuracy = student, rows[-1]["validation_accuracy"]
    return rows, best


def print_table(rows):
    """Print mean and standard deviation of the test accuracy of every kind of model."""
    groups = {}
    for row in rows:
        groups.setdefault(row["model"], []).append(row)
    print(f"\n{'model':<28}{'parameters':>10}{'runs':>6}{'test accuracy, %':>20}")
    for name, group in groups.items():
        accuracies = [row["test_accuracy"] for row in group]
        spread = f" +- {np.std(accuracies, ddof=1):.2f}" if len(group) > 1 else ""
        accuracy = f"{np.mean(accuracies):.2f}{spread}"
        print(f"{name:<28}{group[0]['parameters']:>10,}{len(group):>6}{accuracy:>20}")
    print("mean +- sample standard deviation over the runs\n")


def write_csv(path, rows):
    """Write one row per run."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def predict_cells(model, scenes, labels):
    """Return predicted classes and complementary cells, both (B, 21), of scales 1, 2 and 4."""
    maps = keras_sdd.expose_spatial_logits(model).predict(scenes, verbose=0)["spatial_logits"]
    return cell_drawing.judge_cells(labels, keras_sdd.pool_cells(maps, FIGURE_SCALES))


def draw_scene(axes, scene):
    """Draw a scene alone."""
    axes.imshow(scene[..., 0], cmap="gray_r", vmin=-0.1, vmax=1.3)
    axes.set(xticks=[], yticks=[])


def draw_panel(axes, scene, scale, predicted, complementary):
    """Draw a scene with the predicted class of each of its scale x scale cells."""
    draw_scene(axes, scene)
    cell_drawing.draw_cells(axes, scene.shape[0], scale, predicted, complementary)


def choose_scenes(model, scenes, labels):
    """Return the first scenes with their labels, in the last place the first misclassified one."""
    logits = model.predict(scenes, batch_size=250, verbose=0)
    wrong = np.flatnonzero(np.argmax(logits, axis=-1) != labels)
    later = wrong[wrong >= NUM_DRAWN - 1]
    chosen = [*range(NUM_DRAWN - 1), later[0] if later.size else NUM_DRAWN - 1]
    return scenes[chosen], labels[chosen]


def draw_cells(models, scenes, labels, path):
    """Draw the class that each model predicts for scenes as a whole and for their cells."""
    figure = Figure(figsize=(14, 2.35 * NUM_DRAWN + 1), layout="constrained")
    parts = figure.subfigures(1, len(models))
    for part, (name, model) in zip(parts, models.items(), strict=True):
        part.suptitle(name, fontsize=14, fontweight="bold")
        predicted, complementary = predict_cells(model, scenes, labels)
        rows = part.subplots(NUM_DRAWN, len(FIGURE_SCALES))
        for i, row in enumerate(rows):
            start = 0
            for axes, scale in zip(row, FIGURE_SCALES, strict=True):
                cells = slice(start, start := start + scale**2)
                draw_panel(axes, scenes[i], scale, predicted[i, cells], complementary[i, cells])
                if i == 0:
                    axes.set_title("whole image" if scale == 1 else f"{scale} x {scale} cells")
            row[0].set_ylabel(f"label {labels[i]}", fontsize=12)
    cell_drawing.draw_legend(figure)
    figure.savefig(path, dpi=100)


def main(argv):
    """Train, compare, report."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    started = time.perf_counter()
    # Many models, each traced once: TensorFlow takes that for one model traced in vain.
    python_logging.getLogger("tensorflow").setLevel("ERROR")
    logging.set_verbosity(logging.WARNING)
    output_dir = pathlib.Path(FLAGS.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    data = compose_data(SMOKE_SCENES if FLAGS.smoke else NUM_SCENES)
    epochs, seeds = (1, 1) if FLAGS.smoke else (FLAGS.epochs, FLAGS.seeds)
    scales = tuple(map(int, FLAGS.scales))
    teacher, teacher_row = train_teacher(data, epochs)
    rows, student = compare_students(teacher, data, FLAGS.method, scales, epochs, seeds)
    print_table([teacher_row, *rows])
    student_name = rows[-1]["model"]
    paths = [output_dir / name for name in ("student.keras", "runs.csv", "cells.png")]
    student.save(paths[0])
    write_csv(paths[1], [teacher_row, *rows])
    drawn = choose_scenes(student, *data["test"])
    draw_cells({"teacher": teacher, student_name: student}, *drawn, paths[2])
    print(f"Student ({student_name}, best of its runs on validation): {paths[0]}")
    print(f"All runs: {paths[1]}\nCells of test scenes: {paths[2]}")
    print(
        f"Elapsed: {time.perf_counter() - started:.0f} s with the {keras.backend.backend()} backend"
    )


if __name__ == "__main__":
    app.run(main)
