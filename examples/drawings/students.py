"""Drawings of two students beside their teacher."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from drawings import cells as cell_drawing
from drawings.palette import COLOURS

# They tell classes apart that have the same colour.
_MARKERS = "o^sDvP*X<>pdh8H"
_MAX_NAMED = 20  # classes that a legend or an axis names one by one
_COLUMNS = 5
_WIDTH = 14


def draw_correlations(differences, means, names, subtitle, path):
    """Draw how far students' correlations of classes are from the teacher's.

    Args:
        differences: dict of the students' names to |teacher - student|, (K, K).
        means: the same to the mean over pairs of classes.
        names: of the K classes.
        subtitle: on what images.
        path: of the file.
    """
    figure = Figure(figsize=(_WIDTH, 7.5), layout="compressed")
    panels = figure.subplots(1, len(differences))
    largest = max(np.max(x) for x in differences.values())
    every = 1 if len(names) <= _MAX_NAMED else -(-len(names) // 10)
    ticks = np.arange(0, len(names), every)
    for axes, (student, values) in zip(panels, differences.items(), strict=True):
        shown = axes.imshow(values, cmap="viridis", vmin=0, vmax=largest or 1.0)
        axes.set_title(
            f"{student}: {means[student]:.4f} on average over pairs of classes", fontsize=13
        )
        shortened = [names[i] for i in ticks]
        axes.set_xticks(ticks, shortened, rotation=90 if max(map(len, shortened)) > 3 else 0)
        axes.set_yticks(ticks, shortened)
        axes.set(xlabel="class", ylabel="class")
    bar = figure.colorbar(shown, ax=panels, shrink=0.8)
    bar.set_label("|correlation in the teacher - correlation in the student|")
    _give_title(
        figure,
        "How far the students are from the teacher's correlations between the logits of classes",
        f"{subtitle}.\nThe darker, the more alike",
    )
    figure.savefig(path, dpi=100)


def draw_features(points, labels, numbers, names, subtitle, path):
    """Draw the embeddings of networks in planes.

    Args:
        points: dict of the networks' names to (n, 2).
        labels: (n,).
        numbers: dict of the networks' names to those of `measure_separability`.
        names, subtitle, path: as for `draw_correlations`.
    """
    figure = Figure(figsize=(_WIDTH, 6.5), layout="constrained")
    for axes, (network, xy) in zip(figure.subplots(1, len(points)), points.items(), strict=True):
        for label, name in enumerate(names):
            own = xy[labels == label]
            marker = _MARKERS[label // len(COLOURS) % len(_MARKERS)]
            colour = COLOURS[label % len(COLOURS)]
            axes.scatter(*own.T, s=14, marker=marker, color=colour, label=name, linewidths=0)
        silhouette, accuracy = numbers[network].values()
        text = f"silhouette {silhouette:.3f}" if silhouette == silhouette else "no silhouette"
        axes.set_title(f"{network}\n{text}, 5-NN accuracy {accuracy:.1f} %", fontsize=13)
        axes.set(xticks=[], yticks=[])
    if len(names) <= _MAX_NAMED:
        handles = axes.get_legend_handles_labels()
        options = {"loc": "outside lower center", "ncols": 10, "title": "class", "markerscale": 2}
        figure.legend(*handles, frameon=False, **options)
    else:
        shared = len(names) > len(COLOURS) * len(_MARKERS)
        subtitle += ".\nA class has one colour and one marker"
        subtitle += ", which some share" if shared else ""
    _give_title(
        figure,
        "How well the networks' features keep the classes apart",
        f"t-SNE of the embeddings of {subtitle}.\nBoth numbers are of the embeddings themselves, "
        "not of this plane: the higher, the better apart",
    )
    figure.savefig(path, dpi=100)


def draw_rescued(images, captions, title, subtitle, path):
    """Draw images with what is true, and what two students predict.

    Args:
        images: list of uint8 (H, W, C), at most 10.
        captions: list of lists of lines.
        title, subtitle: of the figure.
        path: of the file.
    """
    rows = max(1, -(-len(images) // _COLUMNS))
    figure = Figure(figsize=(_WIDTH, 3.7 * rows + 1), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, image, lines in zip(panels.flat, images, captions, strict=False):
        show(axes, image)
        axes.set_title("\n".join(lines), fontsize=12, loc="left")
    if not images:
        panels[0, _COLUMNS // 2].text(0.5, 0.5, "none", ha="center", fontsize=20)
    _give_title(figure, title, subtitle)
    figure.savefig(path, dpi=100)


def draw_cells(images, captions, cells, scales, consistency, subtitle, path):
    """Draw what networks predict for the cells of images.

    Args:
        images: list of uint8 (H, W, C).
        captions: what is written beside each.
        cells: dict of the networks' names to classes and complementary, (n, M) each.
        scales: of the cells, 1 first.
        consistency: of `keras_sdd.losses.ScaleDecoupled`.
        subtitle, path: as for `draw_correlations`.
    """
    figure = Figure(figsize=(_WIDTH + 4, 2.5 * len(images) + 2.2), layout="constrained")
    columns = 1 + len(cells) * len(scales)
    panels = figure.subplots(len(images), columns, squeeze=False)
    for row, image, caption in zip(panels, images, captions, strict=True):
        show(row[0], image)
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(caption, rotation=0, ha="right", va="center", ma="left", fontsize=11)
    panels[0, 0].set_title("image", fontsize=12)
    column = 1
    for network, (classes, complementary) in cells.items():
        start = 0
        for scale in scales:
            own = slice(start, start := start + scale**2)
            for i, image in enumerate(images):
                axes = panels[i, column]
                show(axes, image, 0.6)
                cell_drawing.draw_cells(
                    axes, len(image), scale, classes[i, own], complementary[i, own]
                )
            words = "whole image" if scale == 1 else f"{scale} x {scale} cells"
            panels[0, column].set_title(f"{network}:\n{words}", fontsize=12)
            column += 1
    cell_drawing.draw_legend(figure, consistency)
    _give_title(figure, "What teacher and student see in the parts of ambiguous images", subtitle)
    figure.savefig(path, dpi=100)


def show(axes, image, opacity=1.0):
    """Show a raw image (H, W, C), of one channel in grey, or of three."""
    image = image[..., 0] if image.shape[-1] == 1 else image[..., :3]
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, alpha=opacity)


def _give_title(figure, title, subtitle):
    width = round(9 * figure.get_figwidth())  # letters of this size in a line
    lines = [title, *(textwrap.fill(line, width) for line in subtitle.splitlines())]
    figure.suptitle("\n".join(lines), fontsize=14)
