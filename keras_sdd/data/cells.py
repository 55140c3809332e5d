"""A teacher's cells on disk, by the ids of the samples, and the data sets that carry them.

The folder holds `cache.json`, which says whose cells these are, and shards of three arrays in
NumPy's own format: `00000-cells.npy` (n, N, K), `00000-checks.npy` (n, 2), CRC-32 of each image and
of its cells, and `00000-ids.npy` (n,), which is written last and makes the shard count.
"""

import json
import os
import pathlib
import zlib

import numpy as np

from keras_sdd.data.lazy import tf

_SHARD_BYTES = 64 * 2**20


class CellStore:
    """The cells of one teacher for one data set, in a folder.

    Args:
        folder: made if it does not exist; what it holds is taken over.
        identity: dict of plain values that says whose cells these are, all of which must be those
            of the folder.
        shape: (N, K) of a sample's cells.
        dtype: `"float16"` or `"float32"`.

    Raises:
        ValueError: if the folder holds other cells or a damaged shard.
    """

    def __init__(self, folder, identity, shape, dtype):
        self.folder = pathlib.Path(folder)
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_identity(identity | {"shape": list(shape), "dtype": str(dtype), "format": 1})
        self._shards: list = []
        self._rows: dict = {}  # id -> shard, row
        self._waiting: dict = {}  # id -> checksums, cells
        for path in sorted(self.folder.glob("*-ids.npy")):
            self._open_shard(path.name.removesuffix("-ids.npy"))

    def __len__(self):
        return len(self._rows) + len(self._waiting)

    def __contains__(self, sample):
        return int(sample) in self._rows or int(sample) in self._waiting

    def add(self, samples, images, cells):
        """Add the cells (n, N, K) of samples that are not there yet.

        Raises:
            ValueError: if some are not finite in the store's dtype.
        """
        with np.errstate(over="ignore"):
            cells = np.asarray(cells).astype(self.dtype)
        if not np.isfinite(cells).all():
            hint = 'use dtype="float32"' if self.dtype == np.float16 else "look at its weights"
            raise ValueError(
                f"The teacher's cells are not finite in {self.dtype}; {hint}. Received: samples "
                f"{int(samples[0])} and others"
            )
        for sample, image, row in zip(samples, images, cells, strict=True):
            if sample not in self:
                self._waiting[int(sample)] = (_checksum(image), _checksum(row), row)
        if len(self._waiting) * cells[0].nbytes >= _SHARD_BYTES:
            self.flush()

    def flush(self):
        """Write what was added as a shard of its own."""
        if not self._waiting:
            return
        images, checks, cells = zip(*self._waiting.values(), strict=True)
        name = f"{len(self._shards):05d}"
        self._write(f"{name}-cells.npy", np.stack(cells))
        self._write(f"{name}-checks.npy", np.array([images, checks], "uint32").T)
        self._write(f"{name}-ids.npy", np.array(list(self._waiting), "int64"))
        self._waiting = {}
        self._open_shard(name)

    def check_images(self, samples, images):
        """Raise a ValueError if the samples that are there were made of other images."""
        for sample, image in zip(map(int, samples), images, strict=True):
            if sample in self._waiting:
                self._check(sample, "image", image, self._waiting[sample][0])
            elif sample in self._rows:
                shard, row = self._rows[sample]
                self._check(sample, "image", image, self._shards[shard][1][row, 0])

    def read(self, samples, images):
        """Return the cells (n, N, K) of samples, checked against their images.

        Raises:
            KeyError: for a sample that is not there.
            ValueError: if an image is not the one that the cells were made of, or they changed.
        """
        cells = np.empty((len(samples), *self.shape), self.dtype)
        for i, (sample, image) in enumerate(zip(samples, images, strict=True)):
            if int(sample) not in self._rows:
                raise KeyError(f"{self.folder} has no cells of the sample with id {sample}.")
            shard, row = self._rows[int(sample)]
            rows, checks = self._shards[shard]
            cells[i] = rows[row]
            self._check(sample, "image", image, checks[row, 0])
            self._check(sample, "cells", cells[i], checks[row, 1])
        return cells

    def _check(self, sample, kind, array, expected):
        if _checksum(array) == expected:
            return
        reason = {
            "image": "are of another image: the data have changed or are augmented at random",
            "cells": "are damaged",
        }[kind]
        raise ValueError(
            f"The cells in {self.folder} {reason}. Remove the folder to make them again from a "
            f"data set that always shows the same. Received: the sample with id {sample}"
        )

    def _check_identity(self, identity):
        path = self.folder / "cache.json"
        if not path.exists():
            self._replace(path.name, lambda file: file.write(json.dumps(identity).encode()))
            return
        try:
            old = json.loads(path.read_text())
        except ValueError:
            old = {}
        differing = [key for key in identity if old.get(key) != identity[key]]
        if differing:
            raise ValueError(
                f"{self.folder} holds the cells of something else; give another folder or remove "
                f"it. What differs: {', '.join(differing)}"
            )

    def _open_shard(self, name):
        try:
            samples, checks, cells = (
                np.load(self.folder / f"{name}-{part}.npy", mmap_mode="r")
                for part in ("ids", "checks", "cells")
            )
        except (OSError, ValueError) as error:
            raise self._damaged(name) from error
        shape = (len(samples), *self.shape)
        if cells.shape != shape or cells.dtype != self.dtype or checks.shape != (len(samples), 2):
            raise self._damaged(name)
        rows = enumerate(samples.tolist())
        self._rows |= {sample: (len(self._shards), row) for row, sample in rows}
        self._shards.append((cells, checks))

    def _damaged(self, name):
        return ValueError(
            f"Shard {name} in {self.folder} is damaged or cut off. Remove the folder to make the "
            "cells again."
        )

    def _write(self, name, array):
        self._replace(name, lambda file: np.save(file, array))

    def _replace(self, name, write):
        """Put a file in place in one piece."""
        unfinished = self.folder / f"{name}.unfinished"
        with open(unfinished, "wb") as file:
            write(file)
        os.replace(unfinished, self.folder / name)


def attach_cells(dataset, store):
    """Make the targets `{"labels", "ids"}` of a data set `{"labels", "teacher_cells"}`.

    Args:
        dataset: a `tf.data.Dataset` of (images, targets) or (images, targets, sample weights).
        store: a `CellStore` with the cells of all its samples.

    Returns:
        A `tf.data.Dataset`.
    """

    def attach(images, targets, *weights):
        cells = tf.numpy_function(store.read, [targets["ids"], images], store.dtype)
        cells.set_shape((images.shape[0], *store.shape))
        return (images, {"labels": targets["labels"], "teacher_cells": cells}, *weights)

    attached = dataset.map(attach, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    attached = attached.prefetch(tf.data.AUTOTUNE)
    if hasattr(dataset, "epoch_counter"):
        attached.epoch_counter = dataset.epoch_counter
    return attached


def _checksum(array):
    return zlib.crc32(np.ascontiguousarray(array).data)
