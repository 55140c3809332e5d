"""Scenes of garments, made from the images of Fashion-MNIST: one is the subject, others are beside.

A scene has 4 x 4 places of 16 x 16 pixels. The subject, whose class is the label, is 28 pixels wide
and takes 2 x 2 places; garments of half that size and of other classes stand in some of the others.
"""

import numpy as np

NUM_CLASSES = 10
GRID = 4
PLACE = 16
SUBJECT = 28
SCENE_SHAPE = (GRID * PLACE, GRID * PLACE, 1)
OTHERS = 6
JITTER = 2


def compose_scenes(images, labels, num_scenes, seed):
    """Compose scenes.

    Args:
        images, labels: garments uint8 (N, 28, 28, 1) and their classes (N,).
        num_scenes: how many scenes; the first images are their subjects, in turn.
        seed: of all that is random in them.

    Returns:
        uint8 scenes (num_scenes, 64, 64, 1) and int64 labels (num_scenes,).
    """
    rng = np.random.default_rng(seed)
    small = images.reshape(-1, SUBJECT // 2, 2, SUBJECT // 2, 2).mean((2, 4)).astype("uint8")
    scenes = np.zeros((num_scenes, *SCENE_SHAPE), "uint8")
    subjects = np.arange(num_scenes) % len(images)
    for scene, subject in zip(scenes, subjects, strict=True):
        row, column = rng.integers(GRID - 1, size=2)
        free = [
            (i, j)
            for i in range(GRID)
            for j in range(GRID)
            if i not in (row, row + 1) or j not in (column, column + 1)
        ]
        others = np.flatnonzero(labels != labels[subject])
        for place in rng.permutation(len(free))[:OTHERS]:
            _paste(scene, small[rng.choice(others)], free[place], 1, rng)
        _paste(scene, images[subject, ..., 0], (row, column), 2, rng)
    return scenes, labels[subjects].astype("int64")


def _paste(scene, image, place, places, rng):
    """Put an image somewhere in the middle of a square of places."""
    spare = places * PLACE - len(image)
    shift = rng.integers(max(0, spare // 2 - JITTER), spare // 2 + JITTER, size=2, endpoint=True)
    top, left = np.array(place) * PLACE + np.minimum(shift, spare)
    scene[top : top + len(image), left : left + len(image), 0] = image
