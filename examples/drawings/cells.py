"""Which cells of images are complementary, and a drawing of cells over an image."""

import keras
from matplotlib.patches import Patch, Rectangle

from keras_sdd.losses import KD, ScaleDecoupled

# Of consistent (False) and complementary cells (True). Of Okabe and Ito: told apart by the
# colour-blind too, and by their lines without any colour.
COLORS = {False: "#0072B2", True: "#D55E00"}
_STYLES = {
    False: {"edgecolor": COLORS[False], "linestyle": "-"},
    True: {"edgecolor": COLORS[True], "linestyle": "--"},
}
_MEANINGS = {
    "label": {
        False: "consistent cell: right or wrong as the whole",
        True: "complementary cell: right if the whole is wrong, wrong if it is right",
    },
    "global": {
        False: "consistent cell: the class of the whole",
        True: "complementary cell: another class than the whole",
    },
}


def judge_cells(labels, cells, consistency="label"):
    """Return what cells predict, and which of them are complementary.

    Args:
        labels: integers (B,).
        cells: logits (B, N, K), cell 0 that of the whole image.
        consistency: of `keras_sdd.losses.ScaleDecoupled`.

    Returns:
        NumPy arrays (B, N): classes, and whether a cell is complementary.
    """
    decoupled = ScaleDecoupled(KD(), consistency=consistency)
    results = keras.ops.argmax(cells, axis=-1), decoupled.complementary(labels, cells)
    return tuple(keras.ops.convert_to_numpy(result) for result in results)


def draw_cells(axes, side, scale, predicted, complementary):
    """Draw the predicted classes (M * M,) of the cells of scale M over an image of `side` pixels.

    `complementary` (M * M,) says which cells are.
    """
    axes.set(xticks=[], yticks=[])
    width = side / scale
    gap = side / 100  # so that no line lies under that of a neighbour
    for cell, (name, is_complementary) in enumerate(zip(predicted, complementary, strict=True)):
        left, top = cell % scale * width - 0.5, cell // scale * width - 0.5
        style = _STYLES[bool(is_complementary)]
        shade = (style["edgecolor"], 0.2 if is_complementary else 0.0)
        corner, inner = (left + gap, top + gap), width - 2 * gap
        axes.add_patch(Rectangle(corner, inner, inner, facecolor=shade, linewidth=1.5, **style))
        size = {1: 16, 2: 12}.get(scale, 9)
        badge = {"boxstyle": "round,pad=0.15", "facecolor": style["edgecolor"], "edgecolor": "none"}
        place = {"horizontalalignment": "left", "verticalalignment": "top"}
        x, y = left + side / 32, top + side / 32
        axes.text(x, y, name, color="white", fontsize=size, bbox=badge, **place)


def draw_legend(figure, consistency="label"):
    """Say below a figure which cells are which."""
    handles = [
        Patch(facecolor=(style["edgecolor"], 0.2 if kind else 0.0), linewidth=1.5, **style)
        for kind, style in _STYLES.items()
    ]
    options = {"loc": "outside lower center", "ncols": 2, "fontsize": 12, "frameon": False}
    labels = _MEANINGS[consistency].values()
    figure.legend(handles, labels, handlelength=3, handleheight=1.2, **options)
