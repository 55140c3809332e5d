"""The figures of the page on a folder of images, as texts that stand in the page itself."""

import base64
import io

import numpy as np
from drawings import cells, students
from matplotlib.figure import Figure

# Of Okabe and Ito, told apart by the colour-blind too, and by their lines without any colour.
STYLES = {
    "teacher": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "labels": {"color": "#D55E00", "linestyle": ":", "marker": "s"},
    "distilled": {"color": "#009E73", "linestyle": "--", "marker": "^"},
}
LEAST = 5  # images of a point that says something
_LETTERS = {1: 12, 2: 9, 4: 4}  # of a class's name in a cell of each scale


def draw_reliability(bins, names):
    """Draw how often networks are right over how sure they are.

    Args:
        bins: dict of the networks to `CalibrationBins`.
        names: the same to what the page calls them.
    """
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="0.7", linewidth=1)
    for network, own in bins.items():
        filled = own.counts >= LEAST
        sure, right = (100 * x[filled] / own.counts[filled] for x in (own.confidences, own.correct))
        axes.plot(sure, right, label=names[network], markersize=5, **STYLES[network])
    axes.set(xlabel="how sure, %", ylabel="how often right, %", xlim=(0, 100), ylim=(0, 100))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10, handlelength=3)
    return _write(figure)


def draw_cells(image, scale, classes, complementary, names):
    """Draw the classes (M * M,) that a network predicts for the cells of an image (S, S, 3)."""
    figure = Figure(figsize=(2.4, 2.4), layout="constrained")
    axes = figure.subplots()
    students.show(axes, image)
    short = shorten(names, _LETTERS.get(scale, 3))
    cells.draw_cells(axes, len(image), scale, [short[x] for x in classes], complementary)
    for text in axes.texts:
        text.set_fontsize(9)
    axes.spines[:].set_visible(False)
    return _write(figure)


def shorten(names, letters):
    """Return names of so many letters; numbers from 1 if they would not differ any more."""
    short = [name[:letters] for name in names]
    if len(set(short)) == len(names):
        return short
    return [str(i + 1) for i in range(len(names))]


def write_image(image):
    """Return an image (S, S, 3) as it is."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(stream, "png")
    return _encode(stream)


def _write(figure):
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, format="png")
    return _encode(stream)


def _encode(stream):
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
