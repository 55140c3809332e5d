"""CUB-200-2011: resized to a square of 256 pixels, crops of 224, and flips.

TensorFlow Datasets downloads it by itself; preparing it needs the package opencv-python.
"""

from keras_sdd.data import augmentation
from keras_sdd.data.prepared import read_arrays
from keras_sdd.data.sources import ArraySource, decode


def open_cub200_2011(spec, split, size, data_dir, num_examples, num_classes, **order):
    """Read a split into memory, already resized: 1.2 GB, and no decoding after the first epoch."""
    square = round(256 * size / 224)

    def finish(encoded):
        return augmentation.resize(decode(encoded), square, square)

    images, labels = read_arrays(spec["tfds"], split, data_dir, num_examples, finish)
    return ArraySource(images, labels, size, **order)
