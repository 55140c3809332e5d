"""Data sets of any kind, seen as their batches, and completed with what a teacher gave for them.

`open_batches` returns an object of one of three classes, which have in common: `count`, the number
of batches; a pass over them, each (images, targets, ...) with NumPy images and targets in a dict;
and `attach(outputs)`, a data set of the same kind that has `StoredOutputs` among its targets.
"""

import hashlib
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_sdd._checks import check_integers, describe
from keras_sdd.data.lazy import tf


@dataclass(frozen=True)
class StoredOutputs:
    """What is read for each image of a batch.

    Attributes:
        store: has `shapes` and `dtypes` of outputs by name, and `read(ids, images)`, a dict.
        pack: function from such a dict to the targets that they make.
        views: how many views of an image there are.
        augment: function of images (B, ...) and the number of a view to that view of them.
    """

    store: Any
    pack: Callable
    views: int = 1
    augment: Callable | None = None

    def show(self, images, view):
        """A view of images, and nothing else if there is one alone."""
        return images if self.augment is None else np.asarray(self.augment(images, view))

    def number(self, shown, ids, view):
        """An id for each image that is shown: the data set's own, or a number made of the image.

        The second is the same wherever in an order the image comes, and of each view another.
        """
        if ids is None:
            return np.array([_digest(image) for image in shown], "int64")
        ids = np.asarray(ids)
        if ids.shape != (len(shown),) or ids.dtype.kind not in "iu":
            raise ValueError(
                f"`ids` must be integers, one for each of the {len(shown)} images of a batch. "
                f"Received: ids of shape {ids.shape} and type {ids.dtype}"
            )
        return ids.astype("int64") * self.views + view

    def read(self, images, ids=None, view=0):
        """The images that are shown, and their outputs by name."""
        shown = self.show(images, view)
        return shown, self.store.read(self.number(shown, ids, view), shown)

    def complete(self, batch, view):
        """A batch (images, targets, ...) with the outputs among the targets."""
        images, targets, *weights = batch
        shown, outputs = self.read(images, targets.get("ids"), view)
        return shown, targets | self.pack(outputs), *weights


def open_batches(dataset, batch_size=32):
    """See a data set as its batches.

    Args:
        dataset: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a PyTorch `DataLoader` of batches
            of images, (images, targets) or (images, targets, sample weights), of a known number of
            them; or arrays: images, or a tuple of such. Targets are labels or a dict.
        batch_size: that of arrays.

    Raises:
        ValueError: if it is none of these.
    """
    check_integers(1, batch_size=batch_size)
    if hasattr(dataset, "element_spec") and hasattr(dataset, "as_numpy_iterator"):
        return TensorFlowBatches(dataset)
    if isinstance(dataset, keras.utils.PyDataset):
        return IndexedBatches(dataset)
    classes = [f"{x.__module__}.{x.__name__}" for x in type(dataset).__mro__]
    if any(x.startswith("torch.utils.data") and x.endswith(".DataLoader") for x in classes):
        return LoaderBatches(dataset)
    arrays = dataset if isinstance(dataset, tuple) else (dataset,)
    leaves = keras.tree.flatten(arrays)
    if (
        len(arrays) not in (1, 2, 3)
        or not hasattr(arrays[0], "shape")
        or not all(len(getattr(x, "shape", ())) and len(x) == len(leaves[0]) for x in leaves)
    ):
        raise ValueError(
            "A cache needs arrays of equal length, (images, labels), or batches of them in a "
            "tf.data.Dataset, a keras.utils.PyDataset or a PyTorch DataLoader. Received: "
            f"{describe(dataset)}"
        )
    return IndexedBatches(_Rows(arrays, batch_size))


class TensorFlowBatches:
    """Those of a `tf.data.Dataset`."""

    def __init__(self, dataset):
        self._dataset = dataset
        self.count = _check_count(int(dataset.cardinality()))

    def __iter__(self):
        return map(_name_parts, self._dataset.as_numpy_iterator())

    def attach(self, outputs):
        store, dtypes = outputs.store, list(outputs.store.dtypes.values())

        def read(view, images, *ids):
            shown, values = outputs.read(images, *ids or [None], view)
            return [shown, *(values[name] for name in store.shapes)]

        def attach(view, *batch):
            images, targets, *weights = _name_parts(batch, as_array=tf.convert_to_tensor)
            ids = [targets["ids"]] if "ids" in targets else []
            shown, *values = tf.numpy_function(read, [view, images, *ids], [images.dtype, *dtypes])
            shown.set_shape(images.shape)
            for value, shape in zip(values, store.shapes.values(), strict=True):
                value.set_shape((images.shape[0], *shape))
            added = outputs.pack(dict(zip(store.shapes, values, strict=True)))
            return (shown if outputs.augment else images, targets | added, *weights)

        def number(view):
            return self._dataset.map(lambda *batch: (view, *batch))

        attached = tf.data.Dataset.range(outputs.views).flat_map(number)
        known = tf.data.experimental.assert_cardinality(outputs.views * self.count)
        attached = attached.apply(known)
        attached = attached.map(attach, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        attached = attached.prefetch(tf.data.AUTOTUNE)
        if hasattr(self._dataset, "epoch_counter"):
            attached.epoch_counter = self._dataset.epoch_counter
        return attached


class IndexedBatches:
    """Those of a `keras.utils.PyDataset`."""

    def __init__(self, dataset):
        self._dataset = dataset
        self.count = _check_count(dataset.num_batches)

    def __iter__(self):
        return (self[i] for i in range(self.count))

    def __getitem__(self, index):
        return _name_parts(self._dataset[index])

    def attach(self, outputs):
        return _Completed(self, self._dataset, outputs)


class LoaderBatches:
    """Those of a PyTorch `DataLoader`."""

    def __init__(self, loader):
        self._loader = loader
        try:
            count = len(loader)
        except TypeError:  # of an iterable data set of unknown length
            count = None
        self.count = _check_count(count)
        self._module = importlib.import_module("keras_sdd.data.torch_loader")

    def __iter__(self):
        return (_name_parts(self._module.to_numpy(batch)) for batch in self._loader)

    def attach(self, outputs):
        return self._module.CompletedLoader(self._loader, self, outputs)


class _Rows(keras.utils.PyDataset):
    """Arrays in batches, in an order that every epoch draws anew, with their rows as ids."""

    def __init__(self, arrays, batch_size):
        super().__init__()
        images, targets, *weights = _name_parts(arrays)
        numbers = {"ids": np.arange(len(images), dtype="int32")}
        self._parts = keras.tree.map_structure(np.asarray, (images, numbers | targets, *weights))
        self._batch_size = batch_size
        self.on_epoch_begin()

    @property
    def num_batches(self):
        return math.ceil(len(self._parts[0]) / self._batch_size)

    def __getitem__(self, index):
        rows = self._order[index * self._batch_size :][: self._batch_size]
        return keras.tree.map_structure(lambda x: x[rows], self._parts)

    def on_epoch_begin(self):
        # `keras.utils.set_random_seed` decides it.
        self._order = np.random.permutation(len(self._parts[0]))


class _Completed(keras.utils.PyDataset):
    """A `PyDataset` with stored outputs: all batches of the first view, then of the second."""

    def __init__(self, batches, dataset, outputs):
        names = ("workers", "use_multiprocessing", "max_queue_size")
        super().__init__(**{name: getattr(dataset, name) for name in names})
        self._batches, self._dataset, self._outputs = batches, dataset, outputs

    @property
    def num_batches(self):
        return self._outputs.views * self._batches.count

    def __getitem__(self, index):
        view, index = divmod(index, self._batches.count)
        return self._outputs.complete(self._batches[index], view)

    def on_epoch_begin(self):
        self._dataset.on_epoch_begin()

    def on_epoch_end(self):
        self._dataset.on_epoch_end()


def _name_parts(batch, as_array=np.asarray):
    """A batch as (images, targets in a dict, ...)."""
    images, *others = batch if isinstance(batch, (tuple, list)) else (batch,)
    if isinstance(images, (dict, tuple, list)) or len(others) > 2:
        raise ValueError(
            "A cache needs batches (images, targets) or (images, targets, sample weights), the "
            f"images one array. Received: {describe(batch)}"
        )
    targets, *weights = others or (None,)
    if not isinstance(targets, dict):
        targets = {} if targets is None else {"labels": targets}
    return as_array(images), targets, *weights


def _check_count(count):
    if count is None or count < 1:
        raise ValueError(
            "A cache needs a finite data set of known length; for a tf.data.Dataset see "
            f"tf.data.experimental.assert_cardinality. Received: {count} batches"
        )
    return count


def _digest(image):
    content = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest()
    return int.from_bytes(content, "little") >> 1
