"""The cached teacher: it teaches as the live one does, and refuses what is not its own."""

import contextlib
import json
import pickle

import keras
import numpy as np
import pytest
import small_classifiers
from backends import BACKEND

import keras_sdd
from keras_sdd import SDDDistiller, cache_teacher
from keras_sdd.cell_store import CellStore

tf = pytest.importorskip("tensorflow")
X, Y = small_classifiers.draw_data(20)
IDS = 100 + np.arange(20)
on_one = pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")


def build_distiller(teacher=None, **options):
    teacher = teacher or small_classifiers.spread_predictions(
        small_classifiers.build_cnn(8, "teacher")
    )
    keras.utils.set_random_seed(0)
    distiller = SDDDistiller(teacher, small_classifiers.build_cnn(4, "student"), **options)
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=BACKEND == "jax")
    return distiller


def make_data(images=X, ids=IDS):
    targets = {"labels": Y[: len(ids)], "ids": ids}
    return tf.data.Dataset.from_tensor_slices((images, targets)).batch(8)


def cache(distiller, folder, data=None, **options):
    return cache_teacher(distiller, data or make_data(), folder, verbose=0, **options)


class InOrder(keras.utils.PyDataset):
    """Batches of other images in every epoch."""

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size, self.epoch = batch_size, 0

    @property
    def num_batches(self):
        return -(-20 // self.batch_size)

    def __getitem__(self, index):
        rows = np.roll(np.arange(20), self.epoch)[self.batch_size * index :][: self.batch_size]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.epoch += 1


def load_by_torch(batch_size):
    data = pytest.importorskip("torch.utils.data")
    torch = pytest.importorskip("torch")
    rows = data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return data.DataLoader(rows, batch_size, shuffle=True)


KINDS = {
    "arrays": lambda size: (X, Y),
    "arrays by name": lambda size: (X, {"labels": Y, "ids": IDS}),
    "PyDataset": InOrder,
    "DataLoader": load_by_torch,
    "tf.data without ids": lambda size: (
        tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(20).batch(size)
    ),
}


# Keras's own adapters differ from backend to backend; arrays become a PyDataset.
@pytest.mark.parametrize("kind", KINDS if BACKEND == "torch" else ["arrays", "DataLoader"])
def test_any_kind_of_data_set(tmp_path, kind):
    """In batches of all samples, whose order then makes no difference."""
    teacher = small_classifiers.spread_predictions(small_classifiers.build_cnn(8, "teacher"))
    live, cached = build_distiller(teacher), build_distiller(teacher)
    expected = live.fit(X, Y, batch_size=20, epochs=2, verbose=0).history
    data = cache(cached, tmp_path, KINDS[kind](20), batch_size=20)
    if kind == "DataLoader":  # Keras warns of its shuffle otherwise
        assert type(data).__mro__[1].__name__ == "DataLoader"
    actual = train(cached, data)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@on_one
def test_every_kind_finds_the_cells_of_its_images_in_any_order(tmp_path, kind, monkeypatch):
    distiller = build_distiller()
    data = cache(distiller, tmp_path, KINDS[kind](8), batch_size=8)
    runs = count_teacher_runs(distiller, monkeypatch)
    again = cache(distiller, tmp_path, KINDS[kind](8), batch_size=8)
    assert len(runs) == 1  # the one to compare with
    seen = []
    for _ in range(2):
        if isinstance(again, keras.utils.PyDataset):
            again.on_epoch_begin()
        batches = [again[i] for i in range(3)] if hasattr(again, "num_batches") else again
        for images, targets in batches:
            expected = distiller.compute_teacher_cells(np.asarray(images))
            actual = np.asarray(targets["teacher_cells"])
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
            seen.extend(np.asarray(images)[:, 0, 0, 0].tolist())
            assert ("ids" in targets) == kind.startswith("arrays")
        if isinstance(again, keras.utils.PyDataset):
            again.on_epoch_end()
    assert sorted(seen[:20]) == sorted(seen[20:]) == sorted(X[:, 0, 0, 0].tolist())
    assert seen[:20] != seen[20:]
    assert getattr(data, "num_batches", None) or len(data) == 3


@pytest.mark.parametrize("kind", ["PyDataset", "DataLoader", "tf.data without ids"])
@on_one
def test_images_that_change_are_refused_without_ids_too(tmp_path, kind):
    rng = np.random.default_rng(0)

    class Noisy(InOrder):
        def __getitem__(self, index):
            images, labels = super().__getitem__(index)
            return images + rng.normal(size=images.shape).astype("float32"), labels

    def collate(samples):
        import torch

        images, labels = zip(*samples, strict=True)
        return torch.stack(images) + torch.randn(len(images), 1, 1, 1), torch.stack(labels)

    data = Noisy(8) if kind == "PyDataset" else KINDS[kind](8)
    if kind == "DataLoader":
        data.collate_fn = collate
    if kind.startswith("tf"):
        data = data.map(lambda x, y: (x + tf.random.normal(tf.shape(x)), y))
    with pytest.raises(ValueError, match="augmented at random"):
        cache(build_distiller(), tmp_path, data)


def train(distiller, data):
    return distiller.fit(data, epochs=2, shuffle=False, verbose=0).history


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float16", 1e-3)])
def test_trains_as_the_live_teacher(tmp_path, dtype, tolerance):
    teacher = small_classifiers.spread_predictions(small_classifiers.build_cnn(8, "teacher"))
    live, cached = build_distiller(teacher), build_distiller(teacher)
    expected = train(live, tf.data.Dataset.from_tensor_slices((X, Y)).batch(8))
    data = cache(cached, tmp_path, dtype=dtype)
    assert data.element_spec[1]["teacher_cells"].shape == (None, 21, small_classifiers.NUM_CLASSES)
    actual = train(cached, data)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=tolerance, err_msg=name)


def count_teacher_runs(distiller, monkeypatch):
    runs = []
    compute = distiller.compute_teacher_cells
    monkeypatch.setattr(distiller, "compute_teacher_cells", lambda x: runs.append(1) or compute(x))
    return runs


def test_a_second_run_finds_everything(tmp_path, monkeypatch):
    distiller = build_distiller()
    runs = count_teacher_runs(distiller, monkeypatch)
    cache(distiller, tmp_path)
    assert len(runs) == 3 + 1  # three batches, and one to compare with
    cache(distiller, tmp_path)
    assert len(runs) == 4 + 1


def test_a_killed_build_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_sdd.cell_store._SHARD_BYTES", 1)
    distiller = build_distiller()
    compute, left = distiller.compute_teacher_cells, iter(range(2))

    def break_off(x):
        next(left)
        return compute(x)

    with monkeypatch.context() as patch:
        patch.setattr(distiller, "compute_teacher_cells", break_off)
        with pytest.raises(StopIteration):
            cache(distiller, tmp_path)
    (tmp_path / "00002-cells.npy").write_bytes(b"half a shard")  # killed while writing
    runs = count_teacher_runs(distiller, monkeypatch)
    cache(distiller, tmp_path)
    assert len(runs) == 1 + 1
    assert len(list(tmp_path.glob("*-ids.npy"))) == 3


def test_shuffled_data_find_their_cells(tmp_path):
    distiller = build_distiller()
    data = make_data().unbatch().shuffle(20, seed=1).batch(8)
    data = cache(distiller, tmp_path, data.apply(tf.data.experimental.assert_cardinality(3)))
    for images, targets in data.as_numpy_iterator():
        expected = distiller.compute_teacher_cells(images)
        np.testing.assert_allclose(targets["teacher_cells"], expected, rtol=1e-4, atol=1e-5)


def test_a_stale_teacher_is_refused(tmp_path):
    distiller = build_distiller()
    cache(distiller, tmp_path)
    kernel = distiller.teacher.get_layer("conv1").kernel
    kernel.assign(kernel * 1.001)
    with pytest.raises(ValueError, match="What differs: teacher"):
        cache(distiller, tmp_path)


def test_a_teacher_that_computes_otherwise_is_refused(tmp_path):
    distiller = build_distiller()
    cache(distiller, tmp_path)
    body = distiller.teacher
    inputs = keras.Input((16, 16, 3))
    other = keras.Model(inputs, keras.layers.Activation("linear")(body(-inputs)))
    with pytest.raises(ValueError, match="other than in its weights"):
        cache(build_distiller(other), tmp_path)


@pytest.mark.parametrize("options", [{"scales": (1, 2)}, {"pooling": "nested"}])
@on_one
def test_other_cells_are_refused(tmp_path, options):
    distiller = build_distiller()
    cache(distiller, tmp_path)
    with pytest.raises(ValueError, match=f"What differs: {next(iter(options))}"):
        cache(build_distiller(distiller.teacher, **options), tmp_path)


@on_one
def test_other_images_are_refused(tmp_path):
    distiller = build_distiller()
    cache(distiller, tmp_path)
    with pytest.raises(ValueError, match="are of another image.*id 100"):
        cache(distiller, tmp_path, make_data(X + 1e-3))
    store = CellStore(tmp_path, {}, {"cells": (21, small_classifiers.NUM_CLASSES)}, "float32")
    with pytest.raises(ValueError, match="no cells of the sample with id 7"):
        store.read([7], X[:1])


@on_one
def test_random_augmentation_is_refused(tmp_path):
    data = keras_sdd.data.load(
        "synthetic", "train", 8, augment=True, with_ids=True, num_examples=16, image_size=16,
        num_classes=small_classifiers.NUM_CLASSES,
    )  # fmt: skip
    with pytest.raises(ValueError, match="augmented at random"):
        cache(build_distiller(), tmp_path, data)


def test_data_of_the_library_keep_their_epoch(tmp_path):
    data = keras_sdd.data.load(
        "synthetic", "train", 8, augment=False, with_ids=True, num_examples=16, image_size=16,
        num_classes=small_classifiers.NUM_CLASSES,
    )  # fmt: skip
    data.epoch_counter.epoch = 5
    cached = cache(build_distiller(), tmp_path, data)
    assert data.epoch_counter.epoch == 5
    assert keras_sdd.data.FollowEpochs(cached).counter is data.epoch_counter


@contextlib.contextmanager
def files_limited_to(size):
    """As on a full disk: what is longer is cut off."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def draw_cells():
    return np.arange(20 * 21 * 4, dtype="float32").reshape(20, 21, 4)


def open_store(folder):
    return CellStore(folder, {}, {"cells": (21, 4)}, "float32")


def fill(folder, first, last):
    """Add some of the samples, and return the cells of all."""
    store = open_store(folder)
    store.add(IDS[first:last], X[first:last], {"cells": draw_cells()[first:last]})
    store.flush()
    return draw_cells()


@pytest.mark.parametrize("limit", [1500, 5])  # of the cells, within and before their header
@on_one
def test_a_full_disk_is_told_and_what_was_written_is_kept(tmp_path, limit):
    cells = fill(tmp_path, 0, 4)
    before = sorted(path.name for path in tmp_path.iterdir())
    message = r"00001-cells\.npy cannot be written.*written before is kept: make room on the disk"
    with files_limited_to(limit), pytest.raises(OSError, match=message):
        fill(tmp_path, 4, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    fill(tmp_path, 4, 20)
    store = open_store(tmp_path)
    assert len(store) == 20
    np.testing.assert_array_equal(store.read(IDS, X)["cells"], cells)


@pytest.mark.parametrize("part", ["ids", "checks", "cells"])
@on_one
def test_truncated_shards_are_refused(tmp_path, part):
    distiller = build_distiller()
    cache(distiller, tmp_path)
    truncate(tmp_path / f"00000-{part}.npy")
    with pytest.raises(ValueError, match=f"Shard 00000 .* is damaged or cut off: 00000-{part}"):
        cache(distiller, tmp_path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "a header of nonsense": lambda path: path.write_bytes(path.read_bytes().replace(b"{", b"(", 1)),
    "a text": lambda path: path.write_text("hello world\n" * 20),
    "of another data set": lambda path: np.save(path, np.zeros((4, 3, 7), "float32")),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("part", ["checks", "cells"])
@pytest.mark.parametrize("damage", DAMAGES)
@on_one
def test_a_damaged_file_is_named_and_the_remedy_works(tmp_path, part, damage):
    cells = fill(tmp_path, 0, 20)
    DAMAGES[damage](tmp_path / f"00000-{part}.npy")
    with pytest.raises(ValueError, match=f"00000-{part}.npy .*Remove its files, 00000-\\*.npy"):
        open_store(tmp_path)
    for path in tmp_path.glob("00000-*.npy"):
        path.unlink()
    assert len(open_store(tmp_path)) == 0
    fill(tmp_path, 0, 20)
    np.testing.assert_array_equal(open_store(tmp_path).read(IDS, X)["cells"], cells)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "[" * 100_000, "\x00" * 20])
@on_one
def test_a_damaged_manifest_is_named(tmp_path, content):
    fill(tmp_path, 0, 4)
    (tmp_path / "cache.json").write_text(content)
    with pytest.raises(ValueError, match="cache.json is damaged or cut off"):
        open_store(tmp_path)


@on_one
def test_two_builders_at_once_in_different_orders(tmp_path, monkeypatch):
    """Each as on its own, and what one has written the other does not write again."""
    monkeypatch.setattr("keras_sdd.cell_store._SHARD_BYTES", 1)
    cells = draw_cells()
    first, second = open_store(tmp_path), open_store(tmp_path)
    forth = np.split(np.arange(20), 5)
    for one, other in zip(forth, forth[::-1], strict=True):
        first.add(IDS[one], X[one], {"cells": cells[one]})
        second.add(IDS[other], X[other], {"cells": cells[other]})
    for store in (first, second, open_store(tmp_path)):
        np.testing.assert_array_equal(store.read(IDS[5:15], X[5:15])["cells"], cells[5:15])
    store = open_store(tmp_path)
    assert len(store) == 20 and len(list(tmp_path.glob("*-ids.npy"))) == 5
    with pytest.raises(ValueError, match="are of another image"):
        third = CellStore(tmp_path / "other", {}, {"cells": (21, 4)}, "float32")
        fill(tmp_path / "other", 0, 4)
        third.add(IDS[:4], X[:4] + 1, {"cells": cells[:4]})


@on_one
def test_a_number_that_another_process_took_is_left_to_it(tmp_path):
    fill(tmp_path, 0, 4)
    (tmp_path / "00001-cells.npy").write_bytes(b"under way")
    fill(tmp_path, 4, 8)
    assert (tmp_path / "00001-cells.npy").read_bytes() == b"under way"
    assert (tmp_path / "00002-ids.npy").exists() and len(open_store(tmp_path)) == 8


@on_one
def test_a_slow_build_is_written_now_and_then(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.add(IDS[:4], X[:4], {"cells": draw_cells()[:4]})
    assert len(open_store(tmp_path)) == 0
    monkeypatch.setattr("keras_sdd.cell_store._SHARD_SECONDS", 0)
    store.add(IDS[4:8], X[4:8], {"cells": draw_cells()[4:8]})
    assert len(open_store(tmp_path)) == 8  # a process that is killed now has lost none


@on_one
def test_a_store_goes_to_other_processes_without_its_content(tmp_path):
    cells = fill(tmp_path, 0, 20)
    content = pickle.dumps(open_store(tmp_path))
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).read(IDS, X)["cells"], cells)


def test_corrupted_cells_are_refused(tmp_path):
    distiller = build_distiller()
    data = cache(distiller, tmp_path)
    path = tmp_path / "00000-cells.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # of the last sample: a single bit
    path.write_bytes(content)
    with pytest.raises(Exception, match="are damaged.*id 119"):
        train(distiller, data)


@on_one
def test_a_broken_manifest_is_refused(tmp_path):
    distiller = build_distiller()
    cache(distiller, tmp_path)
    assert json.loads((tmp_path / "cache.json").read_text())["scales"] == [1, 2, 4]
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(ValueError, match="cache.json is damaged"):
        cache(distiller, tmp_path)


@pytest.mark.parametrize("shape", [(20, 1), ()])
@on_one
def test_ids_of_another_shape_are_refused(tmp_path, shape):
    distiller = build_distiller()
    cache(distiller, tmp_path)
    np.save(tmp_path / "00000-ids.npy", np.resize(IDS, shape))
    with pytest.raises(ValueError, match="Shard 00000 .* is damaged or cut off"):
        cache(distiller, tmp_path)


@on_one
def test_messages_name_samples_and_arrays_without_their_numbers(tmp_path):
    store = CellStore(tmp_path, {}, {"cells": (1, 2)}, "float32")
    cells = np.zeros((20, 1, 2))
    cells[[3, 7]] = np.nan
    with pytest.raises(ValueError, match="2 of 20 samples, the first with id 103$"):
        store.add(IDS, X, {"cells": cells})
    described = (
        r"tuple \(ndarray of shape \(5, 2, 2, 3\), "
        r"{'labels': list of 20, the first \d, 'ids': ndarray of shape \(20,\)}\)$"
    )
    data = (X[:5, :2, :2], {"labels": Y.tolist(), "ids": IDS})
    with pytest.raises(ValueError, match="Received: " + described):
        cache(build_distiller(), tmp_path, data)
    with pytest.raises(ValueError, match="Received: dataset=" + described):
        keras_sdd.data.FollowEpochs(data)
    with pytest.raises(ValueError, match="Received: dataset=" + described):
        keras_sdd.distribution.Devices(num_devices=2).shard(data)


def test_cells_that_float16_cannot_hold(tmp_path):
    teacher = small_classifiers.spread_predictions(small_classifiers.build_cnn(8), scale=1e6)
    with pytest.raises(ValueError, match='use dtype="float32"'):
        cache(build_distiller(teacher), tmp_path, dtype="float16")


@pytest.mark.parametrize(
    "data",
    [
        [X, Y],
        (X, Y[:5]),
        (X, Y, np.ones(20), np.ones(20)),
        zip(X, Y, strict=True),
        tf.data.Dataset.from_tensor_slices(({"a": X}, Y)).batch(8),
        make_data().repeat(),
        make_data().filter(lambda x, y: True),
    ],
    ids=lambda data: type(data).__name__,
)
@on_one
def test_data_that_cannot_be_cached(tmp_path, data):
    with pytest.raises(ValueError, match="A cache needs"):
        cache(build_distiller(), tmp_path, data)
