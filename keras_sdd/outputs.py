"""What any teacher gives, of whichever framework, computed once and kept as cells."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sdd._checks import check_integers, check_scales, check_word
from keras_sdd.cache import check_outputs, fill_store, keep_epoch
from keras_sdd.cell_formats import CellReader, choose_format
from keras_sdd.cell_store import CellStore
from keras_sdd.data.batches import StoredOutputs, open_batches
from keras_sdd.pooling import pool_cells
from keras_sdd.stored_teacher import StoredTeacher
from keras_sdd.typing import Dataset


def cache_outputs(
    function: Callable[[np.ndarray], Any],
    dataset: Dataset,
    folder: str | os.PathLike[str],
    scales: Sequence[int] | None = None,
    pooling: str = "direct",
    dtype: str = "float32",
    top_k: int | None = None,
    views: int = 1,
    augment: Callable[[np.ndarray, int], np.ndarray] | None = None,
    batch_size: int = 32,
    verbose: int = 1,
) -> Dataset:
    """Compute once what any teacher gives for the images of a data set, and give it to the set.

    The teacher may be of any framework. In a distiller a `keras_sdd.StoredTeacher` stands for it.

    A build that was killed goes on, a second run finds everything there, and images are checked,
    as with `keras_sdd.cache_teacher`.

    Args:
        function: called with a batch of images, a NumPy array (B, ...) as the data set has them;
            gives maps of logits (B, H, W, K), cells (B, N, K) in the order of
            `keras_sdd.pool_cells`, or logits (B, K).
        dataset: as for `keras_sdd.cache_teacher`; labels may be missing.
        folder: where the cells are kept.
        scales: the scales M of the cells that are kept, which maps are averaged to; a student may
            use some of them. The global cell is always there, as the first. None is (1, 2, 4) for
            maps and (1,) for the others.
        pooling: as for `keras_sdd.pool_cells`.
        dtype: `"float32"`, or `"float16"` for half of the space.
        top_k: how many of the largest logits of a cell are kept with their classes; the other
            classes share the rest of the probability evenly. None for all.
        views: how many views of every image there are.
        augment: function of images (B, ...) and the number of a view, 0 to `views` - 1, to that
            view of them, of the same shape; always the same one.
        batch_size: of arrays, also in training.
        verbose: 1 for a progress bar with the time that is left, 0 for none.

    Returns:
        A data set of (images, `{"labels", "ids", "teacher_cells"}`) of the kind that was given, for
        arrays a `keras.utils.PyDataset` that shuffles them. With views it is `views` times as long.

    Raises:
        ValueError: if what the function gives has another shape, is not finite, or is not what the
            folder holds; and as for `keras_sdd.cache_teacher`.
        OSError: if the disk is full; what was written before is kept.

    Examples:
        >>> images, labels = np.ones((6, 8, 8, 3), "float32"), np.arange(6)
        >>> def teach(images):  # in any framework: maps of logits (B, H, W, K)
        ...     return images[:, ::2, ::2] * np.array([1.0, 2.0, 3.0])
        >>> train = keras_sdd.cache_outputs(teach, (images, labels), "cells", (1, 2), verbose=0)
        >>> batch, targets = train[0]
        >>> batch.shape, targets["teacher_cells"].shape, sorted(targets)
        ((6, 8, 8, 3), (6, 5, 3), ['ids', 'labels', 'teacher_cells'])
        >>> targets["teacher_cells"][0, 0].tolist()  # the global cell of an image
        [1.0, 2.0, 3.0]
    """
    check_word("dtype", dtype, ("float16", "float32"))
    _check_views(views, augment)
    compute = _CellFunction(function, scales, pooling)
    batches = open_batches(dataset, batch_size)
    with keep_epoch(dataset):
        images, *_ = next(iter(batches))
        shown = StoredOutputs(None, dict, views, augment).show(images, 0)
        _, num_cells, num_classes = compute(shown).shape
        kept = choose_format(num_cells, num_classes, dtype, top_k)
        held = {"views": views, "top_k": top_k} | compute.identify()
        store = CellStore(folder, held, kept.shapes, kept.dtypes)
        outputs = StoredOutputs(
            CellReader(store, kept, num_cells, num_classes), dict, views, augment
        )
        fill_store(store, outputs, batches, lambda x: kept.shrink(compute(x)), verbose)
        check_outputs(outputs, batches, lambda x: {"teacher_cells": compute(x)}, kept.pick)
    return StoredTeacher(folder).attach(dataset, batch_size, augment)


class _CellFunction:
    """The cells (B, N, K) of what a function gives for images, in float32.

    Args:
        function: as for `cache_outputs`.
        scales: those of the cells; None for what suits the first outputs.
        pooling: as for `keras_sdd.pool_cells`.
    """

    def __init__(
        self, function: Callable[[np.ndarray], Any], scales: Sequence[int] | None, pooling: str
    ) -> None:
        self._function = function
        self._scales: Any = None if scales is None else check_scales(scales)
        self._pooling = check_word("pooling", pooling, ("direct", "nested"))
        self._num_classes: Any = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        outputs = np.asarray(self._function(images))
        self._check(outputs.shape, len(images))
        if outputs.ndim == 4:
            cells = pool_cells(outputs.astype("float32"), self._scales, self._pooling)
            return np.asarray(keras.ops.convert_to_numpy(cells))
        return outputs.astype("float32").reshape(len(images), -1, self._num_classes)

    def identify(self) -> dict[str, Any]:
        """What the cells are, as plain values, after a first call."""
        return {
            "teacher": "function", "scales": list(self._scales), "pooling": self._pooling,
            "num_classes": self._num_classes,
        }  # fmt: skip

    def _check(self, shape: tuple[int, ...], size: int) -> None:
        if self._scales is None:
            self._scales = (1, 2, 4) if len(shape) == 4 else (1,)
        self._scales = (1, *(m for m in self._scales if m != 1))
        count = sum(m * m for m in self._scales)
        if len(shape) == 4:
            expected: tuple[int, ...] = (size, *shape[1:3], self._num_classes or shape[-1])
        elif len(shape) == 2 and count == 1:
            expected = (size, self._num_classes or shape[-1])
        else:
            expected = (size, count, self._num_classes or (shape or [0])[-1])
        if tuple(shape) != expected or shape[-1] < 2:
            raise ValueError(
                "A teacher must give maps of logits (B, H, W, K), or cells (B, N, K), the global "
                f"one first, that is {count} for scales={self._scales}, or logits (B, K) for "
                f"scales=(1,); K is 2 or more and always the same. Received: {tuple(shape)} for "
                f"{size} images"
            )
        self._num_classes = int(shape[-1])


def _check_views(views: int, augment: Callable[[np.ndarray, int], np.ndarray] | None) -> None:
    check_integers(1, views=views)
    if (views > 1) != (augment is not None):
        raise ValueError(
            "Several views need a function that shows them, and one view needs none: give both, "
            "as in views=4, augment=function of images and the number of a view. "
            f"Received: views={views}, augment={augment!r}"
        )
