"""Outputs of any teacher, kept as cells: what is kept, for which images, and what is refused."""

import json

import keras
import numpy as np
import pytest
import reference
from backends import BACKEND
from small_classifiers import draw_data

from keras_sdd import StoredTeacher, cache_outputs

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
X, Y = draw_data(20)
KERNEL = np.random.default_rng(1).normal(size=(12, 5))


def make_maps(images):
    """A teacher in NumPy: a convolution of 2 x 2 pixels in steps of 2, (B, 8, 8, 5)."""
    blocks = images.reshape(-1, 8, 2, 8, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(-1, 8, 8, 12) @ KERNEL


def make_logits(images):
    return make_maps(images).mean((1, 2))


def pool(maps, scales):
    """The cells of maps whose size all scales divide."""
    size = maps.shape[1]
    parts = []
    for m in scales:
        part = maps.reshape(len(maps), m, size // m, m, size // m, -1).mean((2, 4))
        parts.append(part.reshape(len(maps), m * m, -1))
    return np.concatenate(parts, 1)


def cache(folder, function=make_maps, data=(X, Y), **options):
    return cache_outputs(function, data, folder, batch_size=8, verbose=0, **options)


def read(data):
    """Images and targets of a PyDataset, in the order of the ids and of the views."""
    batches = [data[i] for i in range(data.num_batches)]
    images = np.concatenate([x for x, *_ in batches])
    targets = {name: np.concatenate([y[name] for _, y, *_ in batches]) for name in batches[0][1]}
    order = np.argsort(targets["ids"], kind="stable")
    return images[order], {name: x[order] for name, x in targets.items()}


@pytest.mark.parametrize(
    ("scales", "expected"), [(None, (1, 2, 4)), ((1,), (1,)), ((4, 2), (1, 4, 2)), ((8,), (1, 8))]
)
def test_maps_become_cells(tmp_path, scales, expected):
    images, targets = read(cache(tmp_path, scales=scales))
    np.testing.assert_array_equal(images, X)
    np.testing.assert_array_equal(targets["labels"], Y)
    np.testing.assert_array_equal(targets["ids"], np.arange(20))
    cells = pool(make_maps(X), expected)
    np.testing.assert_allclose(targets["teacher_cells"], cells, rtol=1e-4, atol=1e-4)
    assert StoredTeacher(tmp_path).scales == expected


@pytest.mark.parametrize("pooling", ["direct", "nested"])
def test_maps_that_the_scales_do_not_divide(tmp_path, pooling):
    def crop(images):
        return make_maps(images)[:, :7, :6]

    _, targets = read(cache(tmp_path, crop, pooling=pooling))
    finest = reference.pool_adaptively(crop(X), 4, 4)
    maps = finest if pooling == "nested" else crop(X)
    cells = [reference.pool_adaptively(maps, m, m).reshape(20, m * m, 5) for m in (1, 2)]
    expected = np.concatenate([*cells, finest.reshape(20, 16, 5)], 1)
    np.testing.assert_allclose(targets["teacher_cells"], expected, rtol=1e-4, atol=1e-4)


def test_cells_and_logits_are_kept_as_they_are(tmp_path):
    cells = read(cache(tmp_path / "cells", lambda x: pool(make_maps(x), (1, 2)), scales=(1, 2)))
    np.testing.assert_allclose(cells[1]["teacher_cells"], pool(make_maps(X), (1, 2)), rtol=1e-5)
    logits = read(cache(tmp_path / "logits", make_logits))[1]["teacher_cells"]
    np.testing.assert_allclose(logits[:, 0], make_logits(X), rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (lambda x: make_maps(x)[:-1], {}),
        (lambda x: make_maps(x).reshape(len(x), -1), {"scales": (1, 2)}),
        (lambda x: pool(make_maps(x), (1, 2)), {}),
        (lambda x: pool(make_maps(x), (2,)), {"scales": (2,)}),
        (lambda x: make_logits(x)[:, :1], {}),
        (lambda x: make_logits(x)[0], {}),
        (lambda x: 3.0, {}),
        (lambda x: make_logits(x)[:, : 4 + (len(x) == 8)], {}),  # other classes for the last batch
    ],
)
def test_outputs_of_another_shape_are_refused(tmp_path, function, options):
    with pytest.raises(ValueError, match=r"A teacher must give maps.*Received: \(.*images$"):
        cache(tmp_path, function, **options)


def test_outputs_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match='float16; use dtype="float32"'):
        cache(tmp_path, lambda x: 1e6 * make_maps(x), dtype="float16")


def test_half_precision_takes_half_of_the_space(tmp_path):
    cells = [read(cache(tmp_path / x, dtype=x))[1]["teacher_cells"] for x in ("float16", "float32")]
    np.testing.assert_allclose(*cells, rtol=1e-3, atol=1e-3)
    sizes = [
        (tmp_path / x / "00000-cells.npy").stat().st_size - 128 for x in ("float16", "float32")
    ]
    assert sizes == [20 * 21 * 5 * 2, 20 * 21 * 5 * 4]


def count(function):
    def counted(images):
        counted.calls += 1
        return function(images)

    counted.calls = 0
    return counted


def test_a_second_run_finds_everything(tmp_path):
    function = count(make_maps)
    cache(tmp_path, function)
    assert function.calls == 3 + 2  # to see what it gives, and to compare
    cache(tmp_path, function)
    assert function.calls == 5 + 2


def test_a_killed_build_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_sdd.cell_store._SHARD_BYTES", 1)

    def break_off(images):
        if function.calls > 3:
            raise KeyboardInterrupt
        return make_maps(images)

    function = count(break_off)
    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path, function)
    function = count(make_maps)
    cache(tmp_path, function, data=(X, Y))
    # Two batches were there; the rows come in another order, so that all three may lack some.
    assert function.calls <= 3 + 2
    held = [np.load(x) for x in tmp_path.glob("*-ids.npy")]
    assert sorted(np.concatenate(held)) == list(range(20))


def test_another_function_in_the_folder_is_refused(tmp_path):
    cache(tmp_path)
    with pytest.raises(ValueError, match="does not compute the cells in the cache"):
        cache(tmp_path, lambda x: -make_maps(x))
    for options in ({"scales": (1, 2)}, {"pooling": "nested"}, {"dtype": "float16"}):
        with pytest.raises(ValueError, match=f"What differs: .*{next(iter(options))}"):
            cache(tmp_path, **options)


def test_images_without_labels_and_weights(tmp_path):
    images, targets = cache(tmp_path, data=X)[0]
    assert targets.keys() == {"ids", "teacher_cells"}
    images, targets, weights = cache(tmp_path, data=(X, Y, np.arange(20.0)))[0]
    np.testing.assert_array_equal(weights, targets["ids"])


def test_other_images_are_refused_while_training(tmp_path):
    images = X.copy()
    data = cache(tmp_path, data=(images, Y))
    images += 1
    with pytest.raises(ValueError, match="are of another image"):
        data[0]
    with pytest.raises(ValueError, match="no cells of the sample with id [23]"):
        read(StoredTeacher(tmp_path).attach((np.concatenate([X, X]), np.zeros(40))))


def test_files_that_are_shuffled_are_known_by_their_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("tensorflow")
    for row, (pixels, label) in enumerate(zip(X, Y, strict=True)):
        path = tmp_path / "images" / str(label) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.uint8(np.clip(128 + 40 * pixels, 0, 255))).save(path)
    files = keras.utils.image_dataset_from_directory(
        tmp_path / "images", image_size=(16, 16), batch_size=8, verbose=False, seed=0
    )
    data = cache(tmp_path / "cells", data=files)
    orders = []
    for _ in range(2):
        for images, targets in data.as_numpy_iterator():
            cells = pool(make_maps(images), (1, 2, 4))
            np.testing.assert_allclose(targets["teacher_cells"], cells, rtol=1e-3, atol=1e-2)
            orders.extend(targets["labels"])
    assert orders[:20] != orders[20:] and sorted(orders[:20]) == sorted(orders[20:])


@pytest.mark.parametrize(
    "ids", [np.arange(20.0), np.arange(40).reshape(20, 2), np.array(list("abcdefghijklmnopqrst"))]
)
def test_ids_that_are_none_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="`ids` must be integers, one for each of the 8 images"):
        cache(tmp_path, data=(X, {"labels": Y, "ids": ids}))


# Views


def roll(images, view):
    return np.roll(images, 2 * view, axis=2)


def test_views_have_cells_of_their_own(tmp_path):
    data = cache(tmp_path, views=3, augment=roll)
    assert data.num_batches == 9
    images, targets = read(data)
    np.testing.assert_array_equal(targets["ids"], np.repeat(np.arange(20), 3))
    expected = np.stack([roll(X, view) for view in range(3)], 1).reshape(60, 16, 16, 3)
    np.testing.assert_array_equal(images, expected)
    cells = pool(make_maps(expected), (1, 2, 4))
    np.testing.assert_allclose(targets["teacher_cells"], cells, rtol=1e-4, atol=1e-4)
    again = read(StoredTeacher(tmp_path).attach((X, Y), 8, augment=roll))[1]
    np.testing.assert_array_equal(again["teacher_cells"], targets["teacher_cells"])


@pytest.mark.parametrize("with_ids", [True, False])
def test_views_of_a_tensorflow_data_set(tmp_path, with_ids):
    tf = pytest.importorskip("tensorflow")
    targets = {"labels": Y, "ids": 100 + np.arange(20)} if with_ids else Y
    rows = tf.data.Dataset.from_tensor_slices((X, targets)).shuffle(20).batch(8)
    data = cache(tmp_path, data=rows, views=3, augment=roll)
    assert int(data.cardinality()) == 9
    shown = 0
    for images, targets in data.as_numpy_iterator():
        cells = pool(make_maps(images), (1, 2, 4))
        np.testing.assert_allclose(targets["teacher_cells"], cells, rtol=1e-4, atol=1e-4)
        assert ("ids" in targets) == with_ids
        shown += len(images)
    assert shown == 60
    first = next(iter(data.as_numpy_iterator()))
    assert np.isin(first[0][:, 0, 0, 0], X[:, 0, 0, 0]).all()


def test_views_of_a_loader(tmp_path):
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = torch.utils.data.DataLoader(rows, 8, shuffle=True)
    data = cache(tmp_path, data=loader, views=3, augment=roll)
    batches = list(data)
    assert len(data) == len(batches) == 9
    shown = np.concatenate([images.numpy() for images, _ in batches])
    every = np.concatenate([roll(X, view) for view in range(3)])
    assert sorted(shown[:, 0, 0, 0]) == sorted(every[:, 0, 0, 0])


def test_views_that_change_or_are_not_shown_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for options in ({"views": 2}, {"augment": roll}, {"views": 1, "augment": roll}):
        with pytest.raises(ValueError, match="give both"):
            cache(tmp_path, **options)
    with pytest.raises(ValueError, match="augmented at random"):
        cache(tmp_path, views=2, augment=lambda x, view: x + rng.normal(size=x.shape))
    cache(tmp_path / "views", views=2, augment=roll)
    with pytest.raises(ValueError, match="holds 2 views of each image"):
        StoredTeacher(tmp_path / "views").attach((X, Y))
    with pytest.raises(ValueError, match="What differs: views"):
        cache(tmp_path / "views")


# The largest logits


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_largest_logits_and_the_mass_of_the_others(tmp_path, dtype):
    kernel = np.random.default_rng(2).normal(size=(5, 60))

    def make_wide(images):
        return make_maps(images) @ kernel

    data = cache(tmp_path, make_wide, top_k=7, dtype=dtype)
    cells, full = read(data)[1]["teacher_cells"], pool(make_wide(X), (1, 2, 4))
    assert cells.shape == full.shape and cells.dtype == dtype
    tolerance = {"float32": 1e-4, "float16": 2e-2}[dtype]
    largest = np.argsort(full, -1)[..., -7:]
    kept = np.take_along_axis(cells, largest, -1)
    np.testing.assert_allclose(kept, np.take_along_axis(full, largest, -1), rtol=tolerance)
    probabilities, expected = softmax(cells.astype("float64")), softmax(full)
    for p in (probabilities, expected):
        rest = np.ones(p.shape, bool)
        np.put_along_axis(rest, largest, False, -1)
        p[rest] = np.repeat((p * rest).sum(-1) / 53, 53)
    np.testing.assert_allclose(probabilities, expected, atol=tolerance)
    spread = np.take_along_axis(cells, np.argsort(full, -1)[..., :-7], -1)
    assert (spread == spread[..., :1]).all()
    assert cache(tmp_path, make_wide, top_k=7, dtype=dtype)  # finds it again
    with pytest.raises(ValueError, match="What differs: top_k"):
        cache(tmp_path, make_wide, top_k=8, dtype=dtype)
    assert json.loads((tmp_path / "cache.json").read_text())["num_classes"] == 60


@pytest.mark.parametrize("top_k", [3, 5, 60])
def test_the_largest_logits_of_few_classes_are_refused(tmp_path, top_k):
    with pytest.raises(ValueError, match="largest of 5 logits take .* leave `top_k` out"):
        cache(tmp_path, top_k=top_k)
    assert not list(tmp_path.iterdir())
