"""A teacher's outputs on disk, by the ids of the samples: cells, or whatever else terms read of it.

The folder holds `cache.json`, which says whose outputs these are, and shards in NumPy's own format:
an array for each output, as `00000-cells.npy` (n, N, K); `00000-checks.npy` (n, 1 + outputs), the
CRC-32 of each image and of each of its outputs; and `00000-ids.npy` (n,), which is written last and
makes the shard count. Several processes may fill a folder at once: who makes the first file of a
shard has its number.
"""

import json
import math
import pathlib
import time
import zlib

import numpy as np

from keras_sdd.store_files import (
    MANIFEST,
    encode,
    explain_failure,
    read_manifest,
    replace_whole,
    tell_damaged,
    write_whole,
)

_SHARD_BYTES = 64 * 2**20
_SHARD_SECONDS = 120  # what a killed build loses at most, where outputs are small and slow to make


class CellStore:
    """The outputs of one teacher for one data set, in a folder.

    Args:
        folder: made if it does not exist; what it holds is taken over.
        identity: dict of plain values that says whose outputs these are, all of which must be those
            of the folder.
        shapes: dict of the name of an output to its shape for a sample, as `{"cells": (N, K)}`.
        dtype: `"float16"` or `"float32"`, or a dict of the name of an output to its NumPy dtype.

    Raises:
        ValueError: if the folder holds other outputs or a damaged file.
    """

    def __init__(self, folder, identity, shapes, dtype):
        self.folder = pathlib.Path(folder)
        self.shapes = {name: tuple(shapes[name]) for name in sorted(shapes)}
        words = dtype if isinstance(dtype, dict) else dict.fromkeys(self.shapes, dtype)
        self.dtypes = {name: np.dtype(words[name]) for name in self.shapes}
        self._arguments = (folder, identity, shapes, dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        listed = {name: list(shape) for name, shape in self.shapes.items()}
        shape = listed["cells"] if list(listed) == ["cells"] else listed
        self._check_identity(identity | {"shape": shape, "dtype": dtype, "format": 1})
        self._shards: dict = {}  # name -> outputs by name, checks
        self._rows: dict = {}  # id -> shard, row
        self._waiting: dict = {}  # id -> checksums, outputs in the order of their names
        self._waits_since = 0.0
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self._size = sum(self.dtypes[name].itemsize * size for name, size in sizes.items())
        self._open_shards()

    @classmethod
    def open(cls, folder):
        """Open a store that is there, whatever it holds.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not (pathlib.Path(folder) / MANIFEST).exists():
            raise FileNotFoundError(
                f"There are no stored outputs; keras_sdd.cache_outputs makes them. Received: "
                f"folder={str(folder)!r}"
            )
        manifest = read_manifest(folder)
        try:
            shape, dtype = manifest["shape"], manifest["dtype"]
            return cls(folder, {}, shape if isinstance(shape, dict) else {"cells": shape}, dtype)
        except (KeyError, TypeError) as error:
            raise tell_damaged(folder) from error

    def __reduce__(self):  # another process opens the files itself
        return type(self), self._arguments

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
            arrays = [np.asarray(outputs[name]).astype(x) for name, x in self.dtypes.items()]
        finite = [np.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in arrays]
        (broken,) = np.nonzero(~np.all(finite, axis=0))
        if broken.size:
            half = np.float16 in self.dtypes.values()
            hint = 'use dtype="float32"' if half else "look at its weights"
            raise ValueError(
                f"The teacher's cells are not finite in {'float16' if half else 'float32'}; {hint}."
                f" Received: {len(broken)} of {len(samples)} samples, the first with id "
                f"{samples[broken[0]]}"
            )
        if not self._waiting:
            self._waits_since = time.monotonic()
        for sample, image, *rows in zip(samples, images, *arrays, strict=True):
            if sample not in self:
                checks = [_checksum(x) for x in (image, *rows)]
                self._waiting[int(sample)] = (checks, rows)
        waited = time.monotonic() - self._waits_since
        if len(self._waiting) * self._size >= _SHARD_BYTES or waited > _SHARD_SECONDS:
            self.flush()

    def flush(self):
        """Write what was added as a shard of its own.

        Raises:
            OSError: if a file cannot be written whole; what was written before is kept.
        """
        self._open_shards()  # another process may have made some of it since
        for sample in self._waiting.keys() & self._rows.keys():
            ((image, *_), _) = self._waiting.pop(sample)
            self._compare(sample, image, self._find(sample)[1][0])
        if not self._waiting:
            return
        checks, rows = zip(*self._waiting.values(), strict=True)
        outputs = dict(zip(self.shapes, map(np.stack, zip(*rows, strict=True)), strict=True))
        parts = outputs | {"checks": np.array(checks, "uint32")}
        shard = self._claim(next(iter(parts)))
        try:
            for part, array in parts.items():
                write_whole(self.folder / f"{shard}-{part}.npy", encode(array))
            ids = np.array(list(self._waiting), "int64")
            replace_whole(self.folder / f"{shard}-ids.npy", encode(ids))
        except OSError:
            for path in self.folder.glob(f"{shard}-*"):
                path.unlink(missing_ok=True)
            raise
        self._waiting = {}
        self._open_shards()

    def check_images(self, samples, images):
        """Raise a ValueError if the samples that are there were made of other images."""
        for sample, image in zip(map(int, samples), images, strict=True):
            if sample in self._waiting:
                self._compare(sample, _checksum(image), self._waiting[sample][0][0])
            elif sample in self._rows:
                self._compare(sample, _checksum(image), self._find(sample)[1][0])

    def read(self, samples, images):
        """Return the outputs of samples, a dict of arrays (n, ...), checked against their images.

        Raises:
            ValueError: for a sample that is not there; if an image is not the one that they were
                made of, or they changed.
        """
        outputs = {
            name: np.empty((len(samples), *shape), self.dtypes[name])
            for name, shape in self.shapes.items()
        }
        for i, (sample, image) in enumerate(zip(map(int, samples), images, strict=True)):
            if sample not in self._rows:
                raise ValueError(
                    f"{self.folder} has no cells of the sample with id {sample}. It was filled "
                    "from other images, or they are augmented at random: fill it from the data set "
                    "that is trained on, which must always show the same."
                )
            rows, (expected, *checks) = self._find(sample)
            self._compare(sample, _checksum(image), expected)
            for name, row, check in zip(self.shapes, rows, checks, strict=True):
                outputs[name][i] = row
                if _checksum(outputs[name][i]) != check:
                    raise ValueError(
                        f"The cells in {self.folder} are damaged. {_remedy(self._rows[sample][0])} "
                        f"Received: the sample with id {sample}"
                    )
        return outputs

    def _find(self, sample):
        """Rows of the outputs of a sample, and its checksums."""
        shard, row = self._rows[sample]
        arrays, checks = self._shards[shard]
        return [array[row] for array in arrays], checks[row]

    def _compare(self, sample, checksum, expected):
        if checksum != expected:
            raise ValueError(
                f"The cells in {self.folder} are of another image: the data have changed or are "
                "augmented at random. Remove the folder to make them again from a data set that "
                f"always shows the same. Received: the sample with id {sample}"
            )

    def _check_identity(self, identity):
        if not (self.folder / MANIFEST).exists():
            replace_whole(self.folder / MANIFEST, json.dumps(identity).encode())
        old = read_manifest(self.folder)
        differing = [key for key in identity if old.get(key) != identity[key]]
        if differing:
            raise ValueError(
                f"{self.folder} holds the cells of something else; give another folder or remove "
                f"it. What differs: {', '.join(differing)}"
            )

    def _open_shards(self):
        names = {x.name.removesuffix("-ids.npy") for x in self.folder.glob("*-ids.npy")}
        for name in sorted(names - self._shards.keys()):
            self._open_shard(name)

    def _open_shard(self, shard):
        def load(part, shape, dtype):
            path = self.folder / f"{shard}-{part}.npy"
            try:
                array = np.lib.format.open_memmap(path, mode="r")
            except MemoryError:
                raise
            except Exception as error:  # of many kinds, as a header is parsed as Python
                raise self._damaged(path, str(error)) from error
            if array.shape != shape(array) or array.dtype != dtype:
                raise self._damaged(path, f"it is {array.dtype} {array.shape}")
            return array

        samples = load("ids", lambda x: (x.size,), "int64")
        size = samples.size
        checks = load("checks", lambda x: (size, 1 + len(self.shapes)), "uint32")
        arrays = [
            load(name, lambda x, shape=shape: (size, *shape), self.dtypes[name])
            for name, shape in self.shapes.items()
        ]
        self._shards[shard] = (arrays, checks)
        self._rows |= {sample: (shard, row) for row, sample in enumerate(samples.tolist())}

    def _damaged(self, path, reason):
        shard = path.name.split("-")[0]
        return ValueError(
            f"Shard {shard} in {self.folder} is damaged or cut off: {path.name} ({reason}). "
            f"{_remedy(shard)}"
        )

    def _claim(self, part):
        """Make the first file of a shard that no other process has; return the shard's name."""
        number = max((_read_number(x) for x in self.folder.glob("*-*.npy")), default=-1) + 1
        while True:
            shard = f"{number:05d}"
            path = self.folder / f"{shard}-{part}.npy"
            try:
                with open(path, "xb"):
                    return shard
            except FileExistsError:
                number += 1
            except OSError as error:
                raise explain_failure(error, path) from error


def _remedy(shard):
    return f"Remove its files, {shard}-*.npy, and what they held is made again."


def _read_number(path):
    number = path.name.split("-")[0]
    return int(number) if number.isdecimal() else -1


def _checksum(array):
    return zlib.crc32(np.ascontiguousarray(array).data)
