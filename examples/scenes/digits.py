"""Scenes of several handwritten digits, made from the images that scikit-learn ships.

A scene has 4 x 4 places of 8 x 8 pixels. The digit of the label stands in three of them, five other
digits in one each: the whole image has one class, most of its regions have another.
"""

import numpy as np
from sklearn.datasets import load_digits

NUM_CLASSES = 10
GRID = 4
DIGIT_SIZE = 8
SCENE_SHAPE = (GRID * DIGIT_SIZE, GRID * DIGIT_SIZE, 1)
COPIES = 3
DISTRACTORS = 5
NOISE = 0.1
SPLITS = {"train": 0.5, "validation": 0.2, "test": 0.3}


def split_digits(seed=0):
    """Split the 1797 digits, so that no handwritten image serves two splits.

    Args:
        seed: of the shuffle before the split.

    Returns:
        A dict from "train", "validation" and "test" to (images (N, 8, 8) in [0, 1], labels (N,)).
    """
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, DIGIT_SIZE, DIGIT_SIZE).astype("float32") / 16.0
    order = np.random.default_rng(seed).permutation(len(labels))
    ends = np.round(np.cumsum(list(SPLITS.values())) * len(labels)).astype(int)
    parts = np.split(order, ends[:-1])
    return {name: (images[part], labels[part]) for name, part in zip(SPLITS, parts, strict=True)}


def compose_scenes(images, labels, num_scenes, seed):
    """Compose scenes of digits; the label of a scene is the digit that it shows most often.

    Args:
        images, labels: digits (N, 8, 8) and their classes (N,), every class among them.
        num_scenes: how many scenes.
        seed: of all that is random in them.

    Returns:
        float32 scenes (num_scenes, 32, 32, 1) and int32 labels (num_scenes,).
    """
    rng = np.random.default_rng(seed)
    # Every row holds the classes of a scene, all different; the first is the label.
    classes = rng.permuted(np.tile(np.arange(NUM_CLASSES), (num_scenes, 1)), axis=1)
    scene_labels = classes[:, 0]
    classes = np.repeat(classes[:, : 1 + DISTRACTORS], [COPIES] + [1] * DISTRACTORS, axis=1)
    # Sorted by class, the digits of a class are one run: draw a place in it.
    images = images[np.argsort(labels, kind="stable")]
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    drawn = np.cumsum(counts)[classes] - 1 - rng.integers(counts[classes])
    places = rng.permuted(np.tile(np.arange(GRID**2), (num_scenes, 1)), axis=1)
    scenes = np.zeros((num_scenes, GRID**2, DIGIT_SIZE, DIGIT_SIZE), "float32")
    scenes[np.arange(num_scenes)[:, None], places[:, : classes.shape[1]]] = images[drawn]
    scenes = scenes.reshape(num_scenes, GRID, GRID, DIGIT_SIZE, DIGIT_SIZE)
    scenes = scenes.transpose(0, 1, 3, 2, 4).reshape(num_scenes, *SCENE_SHAPE)
    noise = rng.normal(0.0, NOISE, scenes.shape)
    return (scenes + noise).astype("float32"), scene_labels.astype("int32")
