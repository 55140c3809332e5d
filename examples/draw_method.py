"""Draw how a teacher's logits are decoupled into those of regions, for the first page of the docs.

    python examples/draw_method.py --output=docs/method.png

Trains the quickstart's teacher (a minute or two) and draws one test scene: its map of logits, its
cells at three scales, consistent or complementary, and the logits of two of them.
"""

import keras
import numpy as np
import quickstart
from absl import app, flags
from drawings import cells as cell_drawing
from matplotlib.figure import Figure

import keras_sdd


def read_scene(teacher, scenes, labels):
    """Return a scene that the teacher gets right, with two of its quarters and against two.

    Returns:
        scene (32, 32, 1), label, map of logits (8, 8, 10), logits of its cells (21, 10), their
        classes (21,), and which are complementary (21,).
    """
    maps = keras_sdd.expose_spatial_logits(teacher).predict(scenes, verbose=0)["spatial_logits"]
    cells = keras.ops.convert_to_numpy(keras_sdd.pool_cells(maps, quickstart.FIGURE_SCALES))
    predicted, complementary = cell_drawing.judge_cells(labels, cells)
    quarters = complementary[:, 1:5].sum(axis=1)
    right = predicted[:, 0] == labels
    chosen = np.flatnonzero(right & (quarters == 2))[0]
    found = (scenes, labels, maps, cells, predicted, complementary)
    return [values[chosen] for values in found]


def draw_map(axes, logits, label):
    """Draw the logit map of the label's class (H, W)."""
    axes.imshow(logits[..., label], cmap="cividis")
    axes.set(xticks=[], yticks=[])


def draw_logits(axes, logits, predicted, color, title):
    """Draw the logits (K,) of one cell as bars, that of the predicted class filled."""
    fills = [color if k == predicted else "white" for k in range(len(logits))]
    axes.bar(range(len(logits)), logits, color=fills, edgecolor=color)
    axes.axhline(0.0, color="black", lw=0.8)
    axes.set_xticks(range(len(logits)))
    axes.set_yticks([])
    axes.tick_params(length=0, labelsize=9)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.set_title(title, fontsize=10, color=color)


def draw_method(found, path):
    """Draw image, map of logits, cells of three scales and the logits of two cells."""
    scene, label, logit_map, cells, predicted, complementary = found
    figure = Figure(figsize=(13, 3.5), layout="constrained")
    columns = figure.subfigures(1, 4, width_ratios=(1, 1, 3, 1.5))
    titles = (
        f"image, label {label}",
        f"map of logits, class {label}",
        "cells: means of the map over regions, at scales 1, 2 and 4",
        "logits that the student learns",
    )
    for column, title in zip(columns, titles, strict=True):
        column.suptitle(title, fontsize=11, fontweight="bold")
    quickstart.draw_scene(columns[0].subplots(), scene)
    draw_map(columns[1].subplots(), logit_map, label)
    start = 0
    for axes, scale in zip(columns[2].subplots(1, 3), quickstart.FIGURE_SCALES, strict=True):
        part = slice(start, start := start + scale**2)
        quickstart.draw_panel(axes, scene, scale, predicted[part], complementary[part])
    quarters = {kind: 1 + np.flatnonzero(complementary[1:5] == kind)[0] for kind in (False, True)}
    texts = {False: "a consistent quarter: weight 1", True: "a complementary quarter: weight 2"}
    rows = columns[3].subplots(2, 1)
    for axes, (kind, cell) in zip(rows, quarters.items(), strict=True):
        draw_logits(axes, cells[cell], predicted[cell], cell_drawing.COLORS[kind], texts[kind])
    cell_drawing.draw_legend(figure)
    figure.savefig(path, dpi=110)


def main(argv):
    """Train the teacher and draw."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    data = quickstart.compose_data(quickstart.NUM_SCENES)
    teacher, _ = quickstart.train_teacher(data, flags.FLAGS.epochs)
    draw_method(read_scene(teacher, *data["test"]), flags.FLAGS.output)
    print(f"Drawn: {flags.FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("output", "docs/method.png", "File of the picture.")
    app.run(main)
