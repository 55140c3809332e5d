"""The cached teacher: what terms read of it is computed once, and a step costs a student's step."""

import hashlib

import keras
import numpy as np

from keras_sdd._checks import check_word, describe
from keras_sdd.cell_store import CellStore
from keras_sdd.data.targets import attach_targets


def cache_teacher(distiller, dataset, folder, dtype="float32", verbose=1):
    """Compute once what a distiller reads of its teacher, and give it to a data set.

    One pass over the data set computes what the folder does not hold yet, so a build that was
    killed goes on, and a second run finds everything there. Valid where a sample always looks
    the same: without random augmentation, or with a fixed set of views, each with an id of its
    own. That is checked, in this pass and for every image that is trained on.

    ```python
    train = keras_sdd.data.load("cifar100", "train", augment=False, with_ids=True)
    distiller.fit(keras_sdd.cache_teacher(distiller, train, "cells"), epochs=30)
    ```

    Args:
        distiller: a `Distiller`; its teacher and what its terms read of it are the cache's.
        dataset: a finite `tf.data.Dataset` of batches (images, `{"labels", "ids"}`), ids
            integers (B,) that name the samples, as `keras_sdd.data.load(with_ids=True)` gives.
        folder: where the outputs are kept.
        dtype: `"float32"`, or `"float16"` for half of the space: N * K values a sample for cells,
            H * W * C for a map.
        verbose: 1 for a progress bar, 0 for none.

    Returns:
        A `tf.data.Dataset` of (images, `{"labels", "ids", "teacher_cells"}`) for
        `distiller.fit`; with other terms than that of an `SDDDistiller` alone, `"teacher"` instead.

    Raises:
        ValueError: if a term says that it reads what cannot be stored; if the data set has no ids,
            shows other images than those the cells were made of, or if the folder holds another
            teacher's cells or damaged ones.
        OSError: if the disk is full; what was written before is kept.
    """
    check_word("dtype", dtype, ("float16", "float32"))
    _check_terms(distiller)
    _check_dataset(dataset)
    distiller.refresh_teacher()
    shapes = {name: x.shape[1:] for name, x in _flatten(distiller.teacher_targets_spec).items()}
    store = CellStore(folder, _identify(distiller), shapes, dtype)
    counter = getattr(dataset, "epoch_counter", None)
    epoch = getattr(counter, "epoch", None)
    _fill(store, distiller, dataset, verbose)
    # The epoch after it, as augmentation would show the images differently there.
    images, targets, *_ = next(iter(dataset.as_numpy_iterator()))
    _check_outputs(distiller, store.read(targets["ids"], images), images)
    if counter:
        counter.epoch = epoch

    spec = distiller.teacher_targets_spec
    names = list(_flatten(spec))

    def structure(outputs):
        return keras.tree.pack_sequence_as(spec, [outputs[name] for name in names])

    return attach_targets(dataset, store, structure)


def _flatten(targets):
    """Teacher's targets by the names of files: `"cells"`, or `"sp_loss.map0"` of a term."""
    flat = keras.tree.flatten_with_path(targets)
    return {".".join(path).removeprefix("teacher").lstrip("._"): x for path, x in flat}


def _check_terms(distiller):
    kept = [term.name for term in distiller.terms if not term.storable]
    if kept:
        raise ValueError(
            "What these terms read of the teacher cannot be kept on disk; train them with the "
            f"teacher itself. Received: {', '.join(kept)}"
        )


def _identify(distiller):
    """What makes the outputs those of this distiller's teacher, as plain values."""
    identity = {
        "teacher": digest_weights(distiller.teacher),
        "teacher_dtype": distiller.teacher_dtype,
    }
    for term in distiller.terms:
        for name, value in term.identify_reading().items():
            identity[name if name not in identity else f"{term.name}.{name}"] = value
    return identity


def _fill(store, distiller, dataset, verbose):
    """Add the outputs of all samples that a store does not hold."""
    bar = keras.utils.Progbar(int(dataset.cardinality()), verbose=verbose, unit_name="batch")
    for batch in dataset.as_numpy_iterator():
        images, samples = batch[0], batch[1]["ids"]
        store.check_images(samples, images)
        if not all(sample in store for sample in samples):
            store.add(samples, images, _flatten(distiller.compute_teacher_targets(images)))
        bar.add(1)
    store.flush()


def _check_outputs(distiller, stored, images):
    """Raise a ValueError if the teacher does not give these outputs for these images now."""
    now = _flatten(distiller.compute_teacher_targets(images))
    for name, value in now.items():
        error, size = np.max(np.abs(stored[name].astype("float32") - value)), np.max(np.abs(value))
        if not error <= 0.02 * size:
            raise ValueError(
                "The teacher does not compute the cells in the cache; it has changed other than in "
                f"its weights. Remove the folder. Received: {name} that differ by {error:.3g} "
                f"where they are up to {size:.3g}"
            )


def _check_dataset(dataset):
    spec = getattr(dataset, "element_spec", None)
    targets = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    if not isinstance(targets, dict) or {"labels", "ids"} - targets.keys():
        raise ValueError(
            'A cache needs a tf.data.Dataset of (images, {"labels", "ids"}), as keras_sdd.data.'
            f"load(..., augment=False, with_ids=True) gives. Received: {spec or describe(dataset)}"
        )
    if int(dataset.cardinality()) < 1:
        raise ValueError(
            "A cache needs a finite data set of known length; see tf.data.experimental."
            f"assert_cardinality. Received: cardinality {int(dataset.cardinality())}"
        )


def digest_weights(model):
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
