"""A teacher's outputs on disk, by the ids of the samples: cells, or whatever else terms read of it.

The folder holds `cache.json`, which says whose outputs these are, and shards in NumPy's own format:
an array for each output, as `00000-cells.npy` (n, N, K); `00000-checks.npy` (n, 1 + outputs), the
CRC-32 of each image and of each of its outputs; and `00000-ids.npy` (n,), which is written last and
makes the shard count.
"""

import io
import json
import math
import os
import pathlib
import zlib

import numpy as np

_SHARD_BYTES = 64 * 2**20


class CellStore:
    """The outputs of one teacher for one data set, in a folder.

    Args:
        folder: made if it does not exist; what it holds is taken over.
        identity: dict of plain values that says whose outputs these are, all of which must be those
            of the folder.
        shapes: dict of the name of an output to its shape for a sample, as `{"cells": (N, K)}`.
        dtype: `"float16"` or `"float32"`.

    Raises:
        ValueError: if the folder holds other outputs or a damaged shard.
    """

    def __init__(self, folder, identity, shapes, dtype):
        self.folder = pathlib.Path(folder)
        self.shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
        self.dtype = np.dtype(dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        listed = {name: list(shape) for name, shape in self.shapes.items()}
        shape = listed["cells"] if list(listed) == ["cells"] else listed
        self._check_identity(identity | {"shape": shape, "dtype": str(dtype), "format": 1})
        self._shards: list = []  # (outputs by name, checks)
        self._rows: dict = {}  # id -> shard, row
        self._waiting: dict = {}  # id -> checksums, outputs in the order of their names
        self._size = self.dtype.itemsize * sum(map(math.prod, self.shapes.values()))
        for path in sorted(self.folder.glob("*-ids.npy")):
            self._open_shard(path.name.removesuffix("-ids.npy"))

    def __len__(self):
        return len(self._rows) + len(self._waiting)

    def __contains__(self, sample):
        return int(sample) in self._rows or int(sample) in self._waiting

    def add(self, samples, images, outputs):
        """Add the outputs of samples that are not there yet: a dict of arrays (n, ...).

        Raises:
            ValueError: if some are not finite in the store's dtype.
        """
        with np.errstate(over="ignore"):
            arrays = [np.asarray(outputs[name]).astype(self.dtype) for name in self.shapes]
        finite = [np.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in arrays]
        (broken,) = np.nonzero(~np.all(finite, axis=0))
        if broken.size:
            hint = 'use dtype="float32"' if self.dtype == np.float16 else "look at its weights"
            raise ValueError(
                f"The teacher's cells are not finite in {self.dtype}; {hint}. Received: "
                f"{len(broken)} of {len(samples)} samples, the first with id {samples[broken[0]]}"
            )
        for sample, image, *rows in zip(samples, images, *arrays, strict=True):
            if sample not in self:
                checks = [_checksum(x) for x in (image, *rows)]
                self._waiting[int(sample)] = (checks, rows)
        if len(self._waiting) * self._size >= _SHARD_BYTES:
            self.flush()

    def flush(self):
        """Write what was added as a shard of its own.

        Raises:
            OSError: if a file cannot be written whole; what was written before is kept.
        """
        if not self._waiting:
            return
        checks, rows = zip(*self._waiting.values(), strict=True)
        shard = f"{len(self._shards):05d}"
        for name, values in zip(self.shapes, zip(*rows, strict=True), strict=True):
            self._write(f"{shard}-{name}.npy", np.stack(values))
        self._write(f"{shard}-checks.npy", np.array(checks, "uint32"))
        self._write(f"{shard}-ids.npy", np.array(list(self._waiting), "int64"))
        self._waiting = {}
        self._open_shard(shard)

    def check_images(self, samples, images):
        """Raise a ValueError if the samples that are there were made of other images."""
        for sample, image in zip(map(int, samples), images, strict=True):
            if sample in self._waiting:
                self._check(sample, "image", image, self._waiting[sample][0][0])
            elif sample in self._rows:
                shard, row = self._rows[sample]
                self._check(sample, "image", image, self._shards[shard][1][row, 0])

    def read(self, samples, images):
        """Return the outputs of samples, a dict of arrays (n, ...), checked against their images.

        Raises:
            KeyError: for a sample that is not there.
            ValueError: if an image is not the one that they were made of, or they changed.
        """
        size = len(samples)
        outputs = {name: np.empty((size, *x), self.dtype) for name, x in self.shapes.items()}
        for i, (sample, image) in enumerate(zip(samples, images, strict=True)):
            if int(sample) not in self._rows:
                raise KeyError(f"{self.folder} has no cells of the sample with id {sample}.")
            shard, row = self._rows[int(sample)]
            arrays, checks = self._shards[shard]
            self._check(sample, "image", image, checks[row, 0])
            for name, check in zip(self.shapes, checks[row, 1:], strict=True):
                outputs[name][i] = arrays[name][row]
                self._check(sample, "cells", outputs[name][i], check)
        return outputs

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
            self._replace(path.name, json.dumps(identity).encode())
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

    def _open_shard(self, shard):
        try:
            samples, checks, *outputs = (
                np.load(self.folder / f"{shard}-{part}.npy", mmap_mode="r")
                for part in ("ids", "checks", *self.shapes)
            )
        except (OSError, ValueError) as error:
            raise self._damaged(shard) from error
        arrays, size = dict(zip(self.shapes, outputs, strict=True)), samples.size
        shapes_fit = samples.shape == (size,) and checks.shape == (size, 1 + len(arrays))
        if not shapes_fit or any(
            array.shape != (size, *self.shapes[name]) or array.dtype != self.dtype
            for name, array in arrays.items()
        ):
            raise self._damaged(shard)
        rows = enumerate(samples.tolist())
        self._rows |= {sample: (len(self._shards), row) for row, sample in rows}
        self._shards.append((arrays, checks))

    def _damaged(self, name):
        return ValueError(
            f"Shard {name} in {self.folder} is damaged or cut off. Remove the folder to make the "
            "cells again."
        )

    def _write(self, name, array):
        # Into a file, NumPy writes past Python's own object, and keeps quiet of what does not fit.
        content = io.BytesIO()
        np.save(content, array)
        self._replace(name, content.getbuffer())

    def _replace(self, name, content):
        """Put a file in place in one piece."""
        unfinished = self.folder / f"{name}.unfinished"
        try:
            with open(unfinished, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # some disks say only then that they are full
            os.replace(unfinished, self.folder / name)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: {self.folder / name} cannot be written. What was written "
                "before is kept: make room on the disk, or raise the quota or limit, and a new run "
                "goes on from it",
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)


def _checksum(array):
    return zlib.crc32(np.ascontiguousarray(array).data)
