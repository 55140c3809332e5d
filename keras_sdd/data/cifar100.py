"""CIFAR-100: crops of the zero-padded image, and flips."""

from keras_sdd.data import augmentation
from keras_sdd.data.prepared import read_arrays
from keras_sdd.data.sources import ArraySource, decode


def open_cifar100(spec, split, size, data_dir, num_examples, num_classes, **order):
    """Read a split into memory. Images of another `size` are resized, and padded in proportion."""

    def finish(encoded):
        return augmentation.resize(decode(encoded), size, size)

    images, labels = read_arrays(spec["tfds"], split, data_dir, num_examples, finish)
    padding = round(4 * size / 32)
    return ArraySource(images, labels, size, padding, **order)
