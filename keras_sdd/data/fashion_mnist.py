"""Fashion-MNIST: padded to 32 x 32 for CIFAR's networks; crops of the padded image, and flips.

A flip keeps the class of a garment: the set itself shows shoes facing one way and shirts of both
symmetries, so a mirrored image is a plausible one.
"""

import numpy as np

from keras_sdd.data.idx import find_idx, read_idx
from keras_sdd.data.lazy import tf
from keras_sdd.data.prepared import read_arrays
from keras_sdd.data.sources import ArraySource

FILES = {"train": "train", "test": "t10k"}


def open_fashion_mnist(spec, split, size, data_dir, num_examples, num_classes, **order):
    """Read a split into memory, from IDX files in `data_dir` if there are any."""
    if size < 28:
        raise ValueError(f"Images of fashion_mnist have 28 pixels. Received: image_size={size}")
    if data_dir is not None and find_idx(data_dir, f"{FILES[split]}-images-idx3-ubyte"):
        images, labels = read_folder(data_dir, split)
        images, labels = images[:num_examples], labels[:num_examples]
    else:
        images, labels = read_prepared(spec["tfds"], split, data_dir, num_examples)
    before, after = (size - 28) // 2, (size - 28 + 1) // 2
    images = np.pad(images, [(0, 0), (before, after), (before, after), (0, 0)])
    return ArraySource(images, labels, size, padding=round(4 * size / 32), **order)


def read_folder(folder, split):
    """Read images uint8 (N, 28, 28, 1) and labels (N,) from the original IDX files."""
    stems = (f"{FILES[split]}-images-idx3-ubyte", f"{FILES[split]}-labels-idx1-ubyte")
    paths = [find_idx(folder, stem) for stem in stems]
    for stem, path in zip(stems, paths, strict=True):
        if path is None:
            raise FileNotFoundError(f"{folder} has neither {stem} nor {stem}.gz.")
    images, labels = (read_idx(path) for path in paths)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(
            "Fashion-MNIST has images of 28 x 28 pixels and a label for each. "
            f"Received: shapes {images.shape} in {paths[0]} and {labels.shape} in {paths[1]}"
        )
    return images[..., None], labels


def read_prepared(name, split, data_dir, num_examples):
    """Read the same from TensorFlow Datasets."""

    def finish(encoded):
        return tf.ensure_shape(tf.io.decode_png(encoded, channels=1), (28, 28, 1))

    try:
        return read_arrays(name, split, data_dir, num_examples, finish)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}\nOr pass `data_dir`, a folder with the original files "
            "train-images-idx3-ubyte.gz and so on; Debian's package dataset-fashion-mnist installs "
            f"them in /usr/share/datasets/fashion-mnist. Received: data_dir={data_dir!r}"
        ) from error
