"""Images made on the spot, for runs that take seconds: noisy blobs, coloured by their class."""

import numpy as np

from keras_sdd.data.sources import ArraySource

_SPLITS = ("train", "test", "validation")


def open_synthetic(spec, split, size, data_dir, num_examples, num_classes, **order):
    """Make a split: 256 images unless `num_examples` says otherwise."""
    count = 256 if num_examples is None else num_examples
    images, labels = make_blobs(split, count, size, num_classes)
    return ArraySource(images, labels, size, padding=round(4 * size / 32), **order)


def make_blobs(split, count, size, num_classes):
    """Draw one blob an image; all splits draw the same classes, never the same images.

    Returns:
        images uint8 (count, size, size, 3), labels int64 (count,): the classes in turn.
    """
    classes = np.random.default_rng(0)
    colours = classes.uniform(-100, 100, (num_classes, 3))
    grounds = classes.uniform(110, 145, (num_classes, 3))
    radii = classes.uniform(0.1, 0.3, num_classes)
    labels = np.arange(count) % num_classes
    grid = (np.arange(size) + 0.5) / size
    images = np.empty((count, size, size, 3), np.uint8)
    for index, label in enumerate(labels):
        # A generator for each, so that the first images do not depend on how many are made.
        random = np.random.default_rng((index, _SPLITS.index(split)))
        rows, columns = (
            np.square((grid - centre) / radii[label]) for centre in random.uniform(0.3, 0.7, 2)
        )
        blob = np.exp(-(rows[:, None] + columns) / 2)[..., None]
        noise = random.normal(0, 15, (size, size, 3))
        images[index] = np.clip(grounds[label] + blob * colours[label] + noise, 0, 255)
    return images, labels
