"""`pool_cells` against adaptive average pooling written as loops."""

import math

import keras
import numpy as np
import pytest
from backends import BACKEND, evaluate, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_sdd import pool_cells
from keras_sdd.pooling import CellPooling

SCALES = [(1,), (1, 2), (1, 2, 4), (1, 4), (4, 2, 1), (3,), (1, 3), (2, 7), (1, 10)]
SIZES = [(8, 8), (7, 7), (2, 2), (28, 28), (5, 9), (1, 1), (1, 6)]


def average_grid(maps, m):
    """The m x m cells (B, m, m, C) of adaptive average pooling."""
    batch, height, width, channels = maps.shape
    cells = np.zeros((batch, m, m, channels))
    for i in range(m):
        rows = slice(math.floor(i * height / m), math.ceil((i + 1) * height / m))
        for j in range(m):
            columns = slice(math.floor(j * width / m), math.ceil((j + 1) * width / m))
            cells[:, i, j] = maps[:, rows, columns].astype("float64").mean(axis=(1, 2))
    return cells


def reference(maps, scales, pooling="direct"):
    if pooling == "nested":
        maps = average_grid(maps, max(scales))
    grids = [average_grid(maps, m) for m in scales]
    return np.concatenate([grid.reshape(len(maps), -1, maps.shape[-1]) for grid in grids], axis=1)


def draw_maps(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def pool(maps, *options):
    """`pool_cells` as one program: JAX would compile every operation of it by itself."""
    return evaluate(lambda x: pool_cells(x, *options), maps)


def to_numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


@pytest.mark.parametrize("pooling", ["direct", "nested"])
@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_equals_the_loops(scales, pooling):
    for size in SIZES:
        maps = draw_maps(2, *size, 3)
        cells = pool(maps, scales, pooling)
        assert cells.shape == (2, sum(m * m for m in scales), 3)
        expected = reference(maps, scales, pooling)
        np.testing.assert_allclose(cells, expected, rtol=2e-5, atol=2e-6, err_msg=str(size))


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 12)] * 2),
    st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
    st.sampled_from(["direct", "nested"]),
    st.sampled_from(["channels_last", "channels_first"]),
)
def test_equals_the_loops_anywhere(size, scales, pooling, data_format):
    maps = draw_maps(2, *size, 2)
    given_maps = maps if data_format == "channels_last" else np.moveaxis(maps, -1, 1)
    cells = pool(given_maps, scales, pooling, data_format)
    np.testing.assert_allclose(cells, reference(maps, scales, pooling), rtol=2e-5, atol=2e-6)


def test_one_map_by_hand():
    maps = np.arange(16.0, dtype="float32").reshape(1, 4, 4, 1)
    cells = to_numpy(pool_cells(maps, (1, 2)))[0, :, 0]
    np.testing.assert_array_equal(cells, [7.5, 2.5, 4.5, 10.5, 12.5])
    row = np.array([1.0, 2.0, 4.0], "float32").reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(to_numpy(pool_cells(row, (2,)))[0, :, 0], [1.5, 3.0, 1.5, 3.0])


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (28, 28), (4, 8)])
def test_nested_equals_direct_where_the_finest_scale_divides_the_map(size):
    maps = draw_maps(2, *size, 3)
    direct, nested = (to_numpy(pool_cells(maps, (1, 2, 4), word)) for word in ("direct", "nested"))
    np.testing.assert_allclose(nested, direct, rtol=2e-5, atol=2e-6)


def test_nested_is_not_the_average_where_it_does_not():
    maps = draw_maps(2, 7, 7, 3)
    nested = to_numpy(pool_cells(maps, (1, 2, 4), "nested"))[:, 0]
    assert np.abs(nested - maps.mean(axis=(1, 2))).max() > 1e-3


def test_small_maps_repeat_their_positions():
    maps = draw_maps(2, 2, 2, 3)
    cells = to_numpy(pool_cells(maps, (4,))).reshape(2, 4, 4, 3)
    np.testing.assert_allclose(cells, maps.repeat(2, axis=1).repeat(2, axis=2), rtol=1e-6)


@pytest.mark.parametrize("container", [tuple, list, np.array, iter])
def test_scales_keep_their_order(container):
    maps = draw_maps(2, 8, 8, 3)
    cells = to_numpy(pool_cells(maps, container([4, 1, 2])))
    np.testing.assert_allclose(cells, reference(maps, (4, 1, 2)), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_keep_their_dtype(dtype):
    if BACKEND == "jax" and dtype == "float64":
        pytest.skip("JAX has no float64 unless it is switched on for the whole process")
    exact = to_numpy(ops.cast(draw_maps(2, 7, 7, 3), dtype))
    cells = pool_cells(ops.cast(exact.astype("float32"), dtype), (1, 2, 3))
    assert keras.backend.standardize_dtype(cells.dtype) == dtype
    # Half of the last place: the cells are rounded once, at the end.
    tolerance = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype, 1e-6)
    expected = reference(exact, (1, 2, 3))
    np.testing.assert_allclose(to_numpy(cells), expected, rtol=1.01 * tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_whole_numbers_become_float32(dtype):
    maps = np.random.default_rng(0).integers(0, 2, (2, 5, 4, 3)).astype(dtype)
    cells = pool_cells(maps, (1, 2))
    assert keras.backend.standardize_dtype(cells.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(cells), reference(maps, (1, 2)), rtol=1e-6)


def test_large_float16_values_do_not_overflow():
    maps = ops.full((1, 28, 28, 2), 60000.0, dtype="float16")
    np.testing.assert_array_equal(to_numpy(pool_cells(maps, (1, 2, 3))), 60000.0 // 32 * 32)


def test_nan_stays_in_its_cells():
    maps = draw_maps(1, 4, 4, 1)
    maps[0, 0, 0, 0] = np.nan
    assert np.isnan(to_numpy(pool_cells(maps, (1, 2)))[0, :2, 0]).all()


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_symbolic_maps(data_format):
    last = data_format == "channels_last"
    inputs = keras.Input((5, 9, 3) if last else (3, 5, 9))
    cells = pool_cells(inputs, (1, 2, 4), "nested", data_format)
    assert tuple(cells.shape) == (None, 21, 3)
    maps = draw_maps(2, 5, 9, 3)
    outputs = keras.Model(inputs, cells)(maps if last else np.moveaxis(maps, -1, 1))
    expected = reference(maps, (1, 2, 4), "nested")
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=2e-5, atol=2e-6)


def test_an_empty_batch():
    assert tuple(pool_cells(np.zeros((0, 4, 4, 3), "float32"), (1, 2)).shape) == (0, 5, 3)


@pytest.mark.parametrize("pooling", ["direct", "nested"])
def test_gradients_flow_to_every_position(pooling):
    maps, scales = draw_maps(2, 8, 8, 3), (1, 2, 4)
    _, gradient = value_and_gradient(lambda x: ops.sum(pool_cells(x, scales, pooling)), maps)
    # Each scale passes on 1 / (positions in a cell).
    expected = sum(m * m for m in scales) / 64
    np.testing.assert_allclose(gradient, np.full_like(maps, expected), rtol=1e-5)


def test_gradients_of_overlapping_cells():
    maps, scales = draw_maps(1, 7, 5, 2), (1, 3, 9)
    weights = draw_maps(1, 91, 2, seed=1)
    _, gradient = value_and_gradient(
        lambda x: ops.sum(ops.multiply(pool_cells(x, scales), weights)), maps
    )
    # The map from positions to cells is linear, so that its transpose is the gradient.
    for position in np.ndindex(7, 5):
        unit = np.zeros((1, 7, 5, 2))
        unit[0, *position] = 1.0
        by_hand = (reference(unit, scales) * weights).sum(axis=(0, 1))
        np.testing.assert_allclose(gradient[0, *position], by_hand, rtol=1e-4, atol=1e-5)


def pool_compiled(maps):
    return pool_cells(maps, (1, 2, 4))


def test_compiled():
    maps = draw_maps(2, 7, 7, 3)
    np.testing.assert_allclose(
        evaluate(pool_compiled, maps), reference(maps, (1, 2, 4)), rtol=2e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    "scales",
    [(), [], (0,), (1, -2), (1, 1.5), (2.0,), (1, 2, 1), "124", "", (True, 2), ("1",), None, 2,
     (None,), ((1, 2),), np.array([1.0, 2.0]), (np.nan,)],
    ids=str,
)  # fmt: skip
def test_bad_scales(scales):
    for pool in (lambda: pool_cells(draw_maps(1, 4, 4, 1), scales), lambda: CellPooling(scales)):
        with pytest.raises(ValueError, match="`scales` must be .*positive integers.*Received: sc"):
            pool()


@pytest.mark.parametrize("word", ["max", "Direct", "", None, 1, ["direct"]])
def test_unknown_words(word):
    with pytest.raises(ValueError, match="`pooling` must be 'direct' or 'nested'.*Received: pool"):
        pool_cells(draw_maps(1, 4, 4, 1), (1,), word)
    with pytest.raises(ValueError, match="`pooling` must be 'direct' or 'nested'.*Received: pool"):
        CellPooling((1,), word)
    with pytest.raises(ValueError, match="`data_format` must be 'channels_last'.*Received: data"):
        pool_cells(draw_maps(1, 4, 4, 1), (1,), data_format=word)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3), (1, 4, 4, 3, 1)], ids=str)
def test_maps_of_another_rank(shape):
    for maps in (draw_maps(*shape), keras.Input(batch_shape=shape)):
        with pytest.raises(ValueError, match=r"rank 4 .*Received: maps of shape \("):
            pool_cells(maps, (1, 2))


@pytest.mark.parametrize("shape", [(None, 4, 3), (4, None, 3), (None, None, 3)], ids=str)
def test_maps_of_unknown_size(shape):
    for pool in (lambda x: pool_cells(x, (1, 2)), CellPooling((1, 2))):
        with pytest.raises(ValueError, match="static height and width.*Received: .*None"):
            pool(keras.Input(shape))
    with pytest.raises(ValueError, match="static height and width.*'channels_first'"):
        pool_cells(keras.Input((shape[-1], *shape[:-1])), (1, 2), data_format="channels_first")


@pytest.mark.parametrize("pooling", ["direct", "nested"])
def test_the_layer(pooling, tmp_path):
    inputs = keras.Input((7, 5, 3))
    model = keras.Model(inputs, CellPooling((1, 3), pooling, name="cells")(inputs))
    assert model.output_shape == (None, 10, 3)
    assert not model.trainable_weights
    maps = draw_maps(2, 7, 5, 3)
    expected = reference(maps, (1, 3), pooling)
    np.testing.assert_allclose(to_numpy(model(maps)), expected, rtol=2e-5, atol=2e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("cells")
    assert (layer.scales, layer.pooling) == ((1, 3), pooling)
    np.testing.assert_array_equal(to_numpy(loaded(maps)), to_numpy(model(maps)))


def test_the_layer_follows_a_policy():
    layer = CellPooling((1, 2), dtype="mixed_float16")
    assert keras.backend.standardize_dtype(layer(draw_maps(1, 4, 4, 1)).dtype) == "float16"
