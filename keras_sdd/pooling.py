"""Cells of a map: the averages of its regions at several scales (eq. 6-7 of the SDD paper)."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdd._checks import check_scales, check_word
from keras_sdd.typing import Config, Shape, Tensor

_POOLINGS = ("direct", "nested")
_DATA_FORMATS = ("channels_last", "channels_first")


def _edges(size: int, count: int) -> list[tuple[int, int]]:
    """First and last (exclusive) position of `count` adaptive bins of `size` positions.

    Bin i covers floor(i * size / count) to ceil((i + 1) * size / count), so bins overlap where
    `count` does not divide `size`, and repeat positions where `count` is larger.
    """
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _bins(size: int, count: int) -> np.ndarray:
    """Rows that average `size` positions into `count` adaptive bins: shape (count, size)."""
    weights = np.zeros((count, size))
    for row, (start, stop) in zip(weights, _edges(size, count), strict=True):
        row[start:stop] = 1.0 / (stop - start)
    return weights


def find_bounds(
    height: int, width: int, scales: Sequence[int], pooling: str
) -> list[tuple[int, int, int, int]]:
    """The cells of a map, in the order of `pool_cells`: top, bottom, left, right of each."""
    check_size((None, height, width, 1))
    finest = max(scales)

    def edges(size: int, m: int) -> list[tuple[int, int]]:
        if pooling == "direct":
            return _edges(size, m)
        fine = _edges(size, finest)
        return [(fine[first][0], fine[last - 1][1]) for first, last in _edges(finest, m)]

    return [
        (*rows, *columns)
        for m in scales
        for rows in edges(height, m)
        for columns in edges(width, m)
    ]


@functools.lru_cache(maxsize=64)
def _cell_weights(height: int, width: int, scales: tuple[int, ...], pooling: str) -> np.ndarray:
    """The constant matrix (N, H * W) that takes a flattened map to its N cells."""

    def grid(rows: int, columns: int, m: int) -> np.ndarray:
        return np.kron(_bins(rows, m), _bins(columns, m))

    if pooling == "direct":
        weights = [grid(height, width, m) for m in scales]
    else:  # every scale is pooled from the cells of the finest one
        finest = max(scales)
        fine = grid(height, width, finest)
        weights = [grid(finest, finest, m) @ fine for m in scales]
    return np.concatenate(weights)


def pool_cells(
    maps: Tensor, scales: Sequence[int], pooling: str = "direct", data_format: str = "channels_last"
) -> Tensor:
    """Average a map over the cells of an m x m grid, for every scale m.

    All scales are one matrix product. The bins are those of adaptive average pooling: any map
    size works, and a map smaller than m x m repeats its positions.

    Args:
        maps: float tensor (B, H, W, C), or (B, C, H, W) with `data_format="channels_first"`.
            H and W must be static.
        scales: the scales M, different positive integers, for example (1, 2, 4).
        pooling: `"direct"` averages the map for each scale, as the paper writes it; `"nested"`
            averages the cells of the largest scale, as the authors' code does. They differ
            where that scale does not divide the map, or another one that scale.
        data_format: `"channels_last"` or `"channels_first"`, the layout of `maps`.

    Returns:
        Tensor (B, N, C) of the dtype of `maps` (float32 if that is not a float), N the sum of
        m * m: scale by scale in the given order, each grid row by row.

    Raises:
        ValueError: for bad `scales` or words, for `maps` that are not of rank 4 or whose height
            or width is unknown.

    Source: eq. 6 and 7 of "Scale Decoupled Distillation" (CVPR 2024).

    Examples:
        >>> maps = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
        >>> cells = keras_sdd.pool_cells(maps, scales=(1, 2))
        >>> keras.ops.convert_to_numpy(cells)[0, :, 0].tolist()  # the mean, then the four quarters
        [7.5, 2.5, 4.5, 10.5, 12.5]
    """
    scales = check_scales(scales)
    check_word("pooling", pooling, _POOLINGS)
    check_word("data_format", data_format, _DATA_FORMATS)
    if not keras.utils.is_keras_tensor(maps):
        maps = ops.convert_to_tensor(maps)
    height, width, _ = check_size(maps.shape, data_format)
    if data_format == "channels_first":
        maps = ops.transpose(maps, (0, 2, 3, 1))
    return _average(maps, _cell_weights(height, width, scales, pooling))


def _average(maps: Tensor, weights: Tensor) -> Tensor:
    """Average maps (B, H, W, C) with a matrix (N, H * W)."""
    # In 16 bits a third is off by a part in a thousand: only the result is rounded to them.
    dtype = keras.backend.result_type(maps.dtype, "float32")
    positions = ops.reshape(maps, (-1, weights.shape[1], maps.shape[-1]))
    cells = ops.matmul(ops.convert_to_tensor(weights, dtype=dtype), positions)
    return ops.cast(cells, maps.dtype) if keras.backend.is_float_dtype(maps.dtype) else cells


def average_to(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Average maps (B, H, W, C) over adaptive bins, as many as `size`, (h, w), says: (B, h, w, C).

    Height and width must be static.
    """
    given, size = tuple(maps.shape[1:3]), tuple(size)
    if given == size:
        return maps
    if all(a % b == 0 for a, b in zip(given, size, strict=True)):
        factors = tuple(a // b for a, b in zip(given, size, strict=True))
        return ops.average_pool(maps, factors, factors, data_format="channels_last")
    rows, columns = (
        ops.convert_to_tensor(_bins(a, b), maps.dtype) for a, b in zip(given, size, strict=True)
    )
    # Rows, then columns: one matrix for both would cost as many products as positions.
    channels = maps.shape[-1]
    maps = ops.matmul(rows, ops.reshape(maps, (-1, given[0], given[1] * channels)))
    return ops.matmul(columns, ops.reshape(maps, (-1, size[0], given[1], channels)))


def check_size(shape: Shape, data_format: str = "channels_last") -> list[int]:
    """Height, width and channels of maps, if all are known.

    Raises:
        ValueError: if the rank is not 4, or a size is not known.
    """
    shape = tuple(shape)
    order = (2, 3, 1) if data_format == "channels_first" else (1, 2, 3)
    sizes: list[Any] = [shape[i] for i in order] if len(shape) == 4 else [None]
    if None in sizes:
        raise ValueError(
            "`maps` must have rank 4 and a static height and width; a model for inputs of any size "
            "gets one by inputs = keras.Input((224, 224, 3)) and keras.Model(inputs, model(inputs))"
            f". Received: maps of shape {shape}, data_format={data_format!r}"
        )
    return sizes


@keras.saving.register_keras_serializable(package="keras_sdd")
class CellPooling(keras.layers.Layer):
    """`pool_cells` as a layer: (B, H, W, C) to (B, N, C).

    Args:
        scales: as in `pool_cells`.
        pooling: as in `pool_cells`.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, scales: Sequence[int], pooling: str = "direct", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scales = check_scales(scales)
        self.pooling = check_word("pooling", pooling, _POOLINGS)

    def build(self, input_shape: Shape) -> None:
        height, width, _ = check_size(input_shape)
        # A variable, as PyTorch would copy a constant to the device in every step.
        self.weights_of_cells = self.add_weight(
            name="weights_of_cells",
            shape=(sum(m * m for m in self.scales), height * width),
            initializer=lambda *_, **__: _cell_weights(height, width, self.scales, self.pooling),
            trainable=False,
            dtype="float32",
            autocast=False,
        )

    def call(self, maps: Tensor) -> Tensor:
        return _average(maps, self.weights_of_cells)

    def get_config(self) -> Config:
        return super().get_config() | {"scales": self.scales, "pooling": self.pooling}
