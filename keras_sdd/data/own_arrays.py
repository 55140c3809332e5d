"""A data set of one's own: arrays in one `.npz` file, as `np.savez` writes them."""

import functools
import pathlib

import numpy as np

from keras_sdd.data.sources import ArraySource

NAMES = ("x_train", "y_train", "x_test", "y_test")
VALIDATION_NAMES = ("x_validation", "y_validation")
_COUNTED = 256  # images whose bytes are counted at once


def open_arrays(spec, split, size, data_dir, num_examples, num_classes, **order):
    """Read a split into memory; random crops are of the image with an eighth of it around."""
    images, labels = read_arrays(spec["path"], split)
    if size != images.shape[1]:
        raise ValueError(
            f"{spec['path']} has images of {images.shape[1]} pixels. Received: image_size={size}"
        )
    if labels.max(initial=0) >= num_classes:
        raise ValueError(
            f"Labels must be 0 to {num_classes - 1}, as those of y_train. Received: "
            f"{labels.max()} in {spec['path']}"
        )
    images, labels = images[:num_examples], labels[:num_examples]
    return ArraySource(images, labels, size, padding=round(size / 8), **order)


def read_arrays(path, split):
    """Return images uint8 (N, S, S, C) and labels int64 (N,) of a split that the file has.

    Raises:
        ValueError: if the file lacks them or they have other types or shapes.
    """
    images, labels = _read_file(path, split)
    images = images[..., None] if images.ndim == 3 else images
    square = images.ndim == 4 and images.shape[1] == images.shape[2]
    if not square or images.dtype != np.uint8:
        raise ValueError(
            "Images must be square and bytes of 0 to 255: uint8 (N, S, S, C) or (N, S, S). "
            f"Received: x_{split} of shape {images.shape} and type {images.dtype} in {path}"
        )
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min(initial=0):
        raise ValueError(
            f"Labels must be integers from 0, one for each of the {len(images)} images. Received: "
            f"y_{split} of shape {labels.shape} and type {labels.dtype} in {path}"
        )
    return images, labels.astype(np.int64)


def _read_file(path, split):
    try:
        with open(path, "rb") as stream, np.load(stream) as file:
            names = file.files
            needed = {*NAMES, *(VALIDATION_NAMES if _has_validation(file) else ())}
            arrays = [file[f"{part}_{split}"] for part in "xy"] if needed <= set(names) else []
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no such file. Received: {path!r}") from error
    except Exception as error:  # of many kinds, as damaged bytes can mean anything
        raise ValueError(
            f"{path} is damaged, cut off or none of np.savez: copy it again, or write it anew. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
    if not arrays:
        raise ValueError(
            f"{path} must hold the arrays {', '.join(NAMES)}, and may hold both of "
            f"{', '.join(VALIDATION_NAMES)}; write it with np.savez. "
            f"Received: {', '.join(names) or 'none'}"
        )
    return arrays


def describe_arrays(path):
    """Return what `keras_sdd.data.DATASETS` would say of the file."""
    return _describe(path, pathlib.Path(path).stat().st_mtime_ns if _exists(path) else 0)


def _has_validation(file):
    return any(name in file.files for name in VALIDATION_NAMES)


def _exists(path):
    return pathlib.Path(path).is_file()


@functools.lru_cache(maxsize=4)
def _describe(path, written):
    images, labels = read_arrays(path, "train")
    counts = np.bincount(labels)
    if not counts.all():
        raise ValueError(
            f"Labels must be 0 to K - 1, each of them in y_train. Received: none of class "
            f"{int(np.argmin(counts))} among {len(labels)} in {path}"
        )
    mean, std = measure_channels(images)
    splits = {"train": "train", "test": "test"}
    with np.load(path) as file:
        splits |= {"validation": "validation"} if _has_validation(file) else {}
    return {
        "open": open_arrays,
        "path": path,
        "num_classes": len(counts),
        "input_shape": images.shape[1:],
        "mean": tuple(mean / 255),
        "std": tuple(np.maximum(std, 1.0) / 255),  # of images of one colour, 0
        "tfds": None,
        "splits": splits,
        "augmentation": "pad by an eighth, random crop, flip",
    }


def measure_channels(images):
    """Return mean and standard deviation (C,) of the bytes (N, S, S, C), without a copy of them."""
    counts = np.zeros((images.shape[-1], 256))
    for start in range(0, len(images), _COUNTED):
        block = images[start : start + _COUNTED]
        for channel, own in enumerate(counts):
            own += np.bincount(block[..., channel].ravel(), minlength=256)
    values, parts = np.arange(256.0), counts / counts.sum(1, keepdims=True)
    mean = parts @ values
    return mean, np.sqrt(np.sum(parts * (values - mean[:, None]) ** 2, axis=1))
