"""The cached teacher: what it gives is computed once, and a step costs a student's step."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_sdd._checks import check_word
from keras_sdd.cell_store import CellStore
from keras_sdd.data.batches import StoredOutputs, open_batches
from keras_sdd.distiller import Distiller
from keras_sdd.stored_teacher import StoredTeacher
from keras_sdd.typing import Dataset, Tensor


def cache_teacher(
    distiller: Distiller,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    dtype: str = "float32",
    verbose: int = 1,
    batch_size: int = 32,
) -> Dataset:
    """Compute once what a distiller reads of its teacher, and give it to a data set.

    One pass over the data set computes what the folder does not hold yet, so a build that was
    killed goes on, and a second run finds everything there. Valid where a sample always looks
    the same: without random augmentation, or with a fixed set of views, each with an id of its
    own. That is checked, in this pass and for every image that is trained on.

    Args:
        distiller: a `Distiller`; its teacher and what its terms read of it are the cache's.
        dataset: a finite `tf.data.Dataset`, `keras.utils.PyDataset` or PyTorch `DataLoader` of
            batches (images, labels) or (images, `{"labels", "ids"}`), or a tuple of such arrays.
            Ids are integers (B,) that name the samples, as `keras_sdd.data.load(with_ids=True)`
            gives; without them, samples are told apart by their images.
        folder: where the outputs are kept.
        dtype: `"float32"`, or `"float16"` for half of the space: N * K values a sample for cells,
            H * W * C for a map.
        verbose: 1 for a progress bar, 0 for none.
        batch_size: of arrays, also in training.

    Returns:
        A data set of (images, `{"labels", "ids", "teacher_cells"}`) for `distiller.fit`, of the
        kind that was given, for arrays a `keras.utils.PyDataset` that shuffles them; with other
        terms than that of an `SDDDistiller` alone, `"teacher"` instead of `"teacher_cells"`.

    Raises:
        ValueError: if a term says that it reads what cannot be stored; if the data set is of
            another kind or endless, shows other images than those the cells were made of, or if
            the folder holds another teacher's cells or damaged ones.
        OSError: if the disk is full; what was written before is kept.

    Examples:
        >>> teacher, student = (keras_sdd.models.build("small/cnn_8_16_32") for _ in range(2))
        >>> distiller = keras_sdd.SDDDistiller(teacher, student, scales=(1, 2))
        >>> images, labels = np.ones((4, 32, 32, 3), "float32"), np.arange(4)
        >>> train = keras_sdd.cache_teacher(distiller, (images, labels), "cells", verbose=0)
        >>> _, targets = train[0]  # distiller.fit(train) runs the student alone
        >>> sorted(targets), targets["teacher_cells"].shape
        (['ids', 'labels', 'teacher_cells'], (4, 5, 10))
    """
    check_word("dtype", dtype, ("float16", "float32"))
    _check_terms(distiller)
    batches = open_batches(dataset, batch_size)
    distiller.refresh_teacher()
    spec = distiller.teacher_targets_spec
    shapes = {name: x.shape[1:] for name, x in _flatten(spec).items()}
    store = CellStore(folder, _identify(distiller), shapes, dtype)
    structure = keras.tree.map_structure(lambda x: 0, spec)
    outputs = StoredOutputs(store, functools.partial(_pack, structure, list(shapes)))

    def compute(images: Tensor) -> dict[str, Any]:
        return _flatten(distiller.compute_teacher_targets(images))

    with keep_epoch(dataset):
        fill_store(store, outputs, batches, compute, verbose)
        check_outputs(outputs, batches, compute)
    return batches.attach(outputs)


def _flatten(targets: dict[str, Any]) -> dict[str, Any]:
    """Teacher's targets by the names of files: `"cells"`, or `"sp_loss.map0"` of a term."""
    flat = keras.tree.flatten_with_path(targets)
    return {".".join(path).removeprefix("teacher").lstrip("._"): x for path, x in flat}


def _pack(structure: Any, names: list[str], outputs: dict[str, Tensor]) -> dict[str, Any]:
    """Targets of outputs by the names of files."""
    return keras.tree.pack_sequence_as(structure, [outputs[name] for name in names])


def _check_terms(distiller: Distiller) -> None:
    if isinstance(distiller.teacher, StoredTeacher):
        raise ValueError(
            "What a StoredTeacher gives is on disk: distiller.teacher.attach(dataset) gives it to "
            f"a data set. Received: a distiller of {distiller.teacher.folder!r}"
        )
    kept = [term.name for term in distiller.terms if not term.storable]
    if kept:
        raise ValueError(
            "What these terms read of the teacher cannot be kept on disk; train them with the "
            f"teacher itself. Received: {', '.join(kept)}"
        )


def _identify(distiller: Distiller) -> dict[str, Any]:
    """What makes the outputs those of this distiller's teacher, as plain values."""
    identity = {
        "teacher": digest_weights(distiller.teacher),
        "teacher_dtype": distiller.teacher_dtype,
    }
    for term in distiller.terms:
        for name, value in term.identify_reading().items():
            identity[name if name not in identity else f"{term.name}.{name}"] = value
    return identity


@contextlib.contextmanager
def keep_epoch(dataset: Dataset) -> Iterator[None]:
    """Leave a data set of this library in the epoch that it is in."""
    counter = getattr(dataset, "epoch_counter", None)
    epoch = counter and counter.epoch
    yield
    if counter:
        counter.epoch = epoch


def fill_store(
    store: CellStore,
    outputs: StoredOutputs,
    batches: Any,
    compute: Callable[[Tensor], dict[str, np.ndarray]],
    verbose: int,
) -> None:
    """Add to a store what it lacks of a data set.

    Args:
        store: the `CellStore`.
        outputs: `StoredOutputs`, which tell its samples and views.
        batches: of the data set, as `open_batches` gives them.
        compute: function of images to what the store keeps of them, a dict of arrays.
        verbose: whether to show the progress.
    """
    total = outputs.views * batches.count
    bar = keras.utils.Progbar(total, verbose=verbose, unit_name="batch")
    for view in range(outputs.views):
        for images, targets, *_ in batches:
            shown = outputs.show(images, view)
            samples = outputs.number(shown, targets.get("ids"), view)
            store.check_images(samples, shown)
            if not all(sample in store for sample in samples):
                store.add(samples, shown, compute(shown))
            bar.add(1)
    store.flush()


def check_outputs(
    outputs: StoredOutputs,
    batches: Any,
    compute: Callable[[Tensor], dict[str, np.ndarray]],
    pick: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> None:
    """Raise a ValueError if a teacher does not give the stored outputs now, or images change.

    Args:
        outputs: as for `fill_store`.
        batches: as for `fill_store`.
        compute: function of images to what `outputs` read of them.
        pick: function of an array to what of it is compared.
    """
    # The pass after it, as augmentation would show the images differently there.
    images, targets, *_ = next(iter(batches))
    shown, stored = outputs.read(images, targets.get("ids"))
    for name, value in compute(shown).items():
        now, before = pick(value), pick(stored[name].astype("float32"))
        error, size = np.max(np.abs(before - now)), np.max(np.abs(now))
        if not error <= 0.02 * size:
            raise ValueError(
                "The teacher does not compute the cells in the cache; it has changed other than in "
                f"its weights. Remove the folder. Received: {name} that differ by {error:.3g} "
                f"where they are up to {size:.3g}"
            )


def digest_weights(model: keras.Model) -> str:
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for variable in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
