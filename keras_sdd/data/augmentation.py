"""Augmentation as pure functions of images and of uniform random numbers ("draws").

Nothing here holds random state: who calls decides where the draws come from, so the same draws give
the same images, whatever the batch size, the number of threads or the epochs before.
"""

import math

import numpy as np

from keras_sdd.data.lazy import tf

# Draws that one image needs.
CROP_DRAWS = 3  # top, left, flip
RESIZED_CROP_TRIES = 10
RESIZED_CROP_DRAWS = 2 * RESIZED_CROP_TRIES + 3  # area and ratio of each try; top, left, flip


def crop_and_flip(images, draws, size, padding=0):
    """Cut a random window of each zero-padded image and mirror every other one.

    Args:
        images: uint8 (B, S, S, C).
        draws: float32 (B, 3), uniform in [0, 1): top, left, flip.
        size: height and width of the window, at most S + 2 * padding.
        padding: black pixels added on each side.

    Returns:
        uint8 (B, size, size, C).

    Source: torchvision's `RandomCrop(size, padding)` and `RandomHorizontalFlip()`.
    """
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    places = images.shape[1] + 2 * padding - size + 1
    corners = tf.cast(draws[:, :2] * places, tf.int32)
    rows = corners[:, :1] + tf.range(size)
    columns = corners[:, 1:] + tf.range(size)
    # Reading the columns backwards is the flip: it costs nothing beside the crop.
    columns = tf.where(draws[:, 2:] < 0.5, columns[:, ::-1], columns)
    return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)


def crop_centre(images, size):
    """Cut the central window of `size` x `size` out of images (..., H, W, C), H and W >= size.

    Source: torchvision's `CenterCrop`, its rounding of halves to even included.
    """

    def start(length):
        return tf.cast(tf.round(tf.cast(length - size, tf.float32) / 2), tf.int32)

    shape = tf.shape(images)
    top, left = start(shape[-3]), start(shape[-2])
    return images[..., top : top + size, left : left + size, :]


def choose_window(height, width, draws, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Choose the window of a random resized crop.

    Ten tries of an area (uniform in `scale`, as a share of the image) and of a ratio of width to
    height (log-uniform in `ratio`); the first that fits is placed uniformly. If none fits, the
    central window is taken, as large as the bounds of the ratio allow.

    Args:
        height, width: int32 scalars, of the image.
        draws: float32 (23,), uniform in [0, 1): ten areas, ten ratios, top, left, flip.
        scale, ratio: the bounds of both.

    Returns:
        int32 (4,): top, left, height and width of the window.

    Source: torchvision's `RandomResizedCrop`.
    """
    tries = RESIZED_CROP_TRIES
    areas = tf.cast(height * width, tf.float32)
    areas *= scale[0] + (scale[1] - scale[0]) * draws[:tries]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = tf.exp(low + (high - low) * draws[tries : 2 * tries])
    widths = tf.cast(tf.round(tf.sqrt(areas * ratios)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(areas / ratios)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)

    def place_first():
        first = tf.argmax(fits)  # the first of equal values
        h, w = heights[first], widths[first]
        room = tf.cast(tf.stack([height - h, width - w]) + 1, tf.float32)
        corner = tf.cast(draws[2 * tries : 2 * tries + 2] * room, tf.int32)
        return tf.stack([corner[0], corner[1], h, w])

    def place_centre():
        wide, tall = tf.cast(width, tf.float32), tf.cast(height, tf.float32)
        h = tf.minimum(height, tf.cast(tf.round(wide / ratio[0]), tf.int32))
        w = tf.minimum(width, tf.cast(tf.round(tall * ratio[1]), tf.int32))
        return tf.stack([(height - h) // 2, (width - w) // 2, h, w])

    return tf.cond(tf.reduce_any(fits), place_first, place_centre)


def resize(images, height, width):
    """Resize uint8 images (..., H, W, C) with an antialiased triangle filter, as PIL does.

    Returns:
        uint8 (..., height, width, C); it may differ from PIL's fixed-point result by 1.
    """
    resized = tf.image.resize(images, (height, width), antialias=True)
    return tf.cast(resized + 0.5, tf.uint8)  # the filter's weights never lead out of [0, 255]


def resize_shorter_side(image, length):
    """Resize a uint8 image (H, W, C) so that its shorter side has `length` pixels.

    Source: torchvision's `Resize(length)`, which cuts fractions of the longer side off.
    """
    shape = tf.shape(image)
    shorter = tf.minimum(shape[0], shape[1])
    return resize(image, length * shape[0] // shorter, length * shape[1] // shorter)


def normalize(images, mean, std):
    """Return (images / 255 - mean) / std per channel, uint8 to float32 (B, H, W, C)."""
    # Row by row with the statistics repeated along it: broadcasting along three channels alone
    # takes three times as long, as much as all the rest for images held in memory.
    width = images.shape[-2]
    mean, std = np.tile(mean, width), np.tile(std, width)
    rows = tf.cast(tf.reshape(images, (-1, len(mean))), tf.float32)
    rows = rows * (1 / (255 * std)).astype(np.float32) - (mean / std).astype(np.float32)
    return tf.reshape(rows, tf.shape(images))
