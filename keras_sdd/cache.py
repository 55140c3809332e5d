"""The cached teacher: its cells are computed once, and a training step costs a student's step."""

import hashlib

import keras
import numpy as np

from keras_sdd._checks import check_word
from keras_sdd.data.cells import CellStore, attach_cells


def cache_teacher(distiller, dataset, folder, dtype="float32", verbose=1):
    """Compute the cells of a distiller's teacher once, and give them to a data set.

    One pass over the data set computes what the folder does not hold yet, so a build that was
    killed goes on, and a second run finds everything there. Valid where a sample always looks
    the same: without random augmentation, or with a fixed set of views, each with an id of its
    own. That is checked, in this pass and for every image that is trained on.

    ```python
    train = keras_sdd.data.load("cifar100", "train", augment=False, with_ids=True)
    distiller.fit(keras_sdd.cache_teacher(distiller, train, "cells"), epochs=30)
    ```

    Args:
        distiller: an `SDDDistiller`; its teacher, scales and pooling are the cache's.
        dataset: a finite `tf.data.Dataset` of batches (images, `{"labels", "ids"}`), ids
            integers (B,) that name the samples, as `keras_sdd.data.load(with_ids=True)` gives.
        folder: where the cells are kept.
        dtype: `"float32"`, or `"float16"` for half of the space: N * K values a sample.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `tf.data.Dataset` of (images, `{"labels", "teacher_cells"}`) for `distiller.fit`.

    Raises:
        ValueError: if the data set has no ids, shows other images than those the cells were made
            of, or if the folder holds another teacher's cells or damaged ones.
    """
    check_word("dtype", dtype, ("float16", "float32"))
    _check_dataset(dataset)
    distiller.refresh_teacher()
    identity = {
        "teacher": _digest(distiller.teacher),
        "scales": list(distiller.scales),
        "pooling": distiller.pooling,
        "teacher_dtype": distiller.teacher_dtype,
    }
    store = CellStore(folder, identity, distiller.teacher_cells_shape, dtype)
    counter = getattr(dataset, "epoch_counter", None)
    epoch = getattr(counter, "epoch", None)
    _fill(store, distiller, dataset, verbose)
    # The epoch after it, as augmentation would show the images differently there.
    images, targets, *_ = next(iter(dataset.as_numpy_iterator()))
    _check_cells(distiller, store.read(targets["ids"], images), images)
    if counter:
        counter.epoch = epoch
    return attach_cells(dataset, store)


def _fill(store, distiller, dataset, verbose):
    """Add the cells of all samples that a store does not hold."""
    bar = keras.utils.Progbar(int(dataset.cardinality()), verbose=verbose, unit_name="batch")
    for batch in dataset.as_numpy_iterator():
        images, samples = batch[0], batch[1]["ids"]
        store.check_images(samples, images)
        if not all(sample in store for sample in samples):
            store.add(samples, images, distiller.compute_teacher_cells(images))
        bar.add(1)
    store.flush()


def _check_cells(distiller, cells, images):
    """Raise a ValueError if the teacher does not give these cells for these images now."""
    cells, now = cells.astype("float32"), distiller.compute_teacher_cells(images)
    error, size = np.max(np.abs(cells - now)), np.max(np.abs(now))
    if not error <= 0.02 * size:
        raise ValueError(
            "The teacher does not compute the cells in the cache; it has changed other than in "
            f"its weights. Remove the folder. Received: cells that differ by {error:.3g} where "
            f"they are up to {size:.3g}"
        )


def _check_dataset(dataset):
    spec = getattr(dataset, "element_spec", None)
    targets = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    if not isinstance(targets, dict) or {"labels", "ids"} - targets.keys():
        raise ValueError(
            'A cache needs a tf.data.Dataset of (images, {"labels", "ids"}), as keras_sdd.data.'
            f"load(..., augment=False, with_ids=True) gives. Received: {spec or dataset!r}"
        )
    if int(dataset.cardinality()) < 1:
        raise ValueError(
            "A cache needs a finite data set of known length; see tf.data.experimental."
            f"assert_cardinality. Received: cardinality {int(dataset.cardinality())}"
        )


def _digest(model):
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
