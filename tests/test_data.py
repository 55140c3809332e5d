"""Data pipelines: recipes, order, epochs, ids, readers, errors; alike on all backends."""

import gzip
import io
import math
import os
import pathlib
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from keras_sdd import data
from keras_sdd.data import augmentation
from keras_sdd.data.idx import read_idx
from keras_sdd.data.pipeline import EpochCounter

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="TensorFlow reads the data of every backend"
    ),
    # Python warnings of TensorFlow Datasets itself would be errors here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets"),
]

# Name: classes, shape of an image, mean, std. TFDS's own metadata is the reference for the classes.
RECIPES = {
    "cifar100": (100, (32, 32, 3), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cub200_2011": (200, (224, 224, 3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet2012": (1000, (224, 224, 3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "fashion_mnist": (10, (32, 32, 1), (0.2860,), (0.3530,)),
}
EXAMPLES = 12


@pytest.fixture
def mocked():
    """TFDS with random images of each data set's true shapes and classes, and no files."""
    policy = tfds.testing.MockPolicy.USE_CODE
    with tfds.testing.mock_data(num_examples=EXAMPLES, policy=policy):
        yield


@pytest.fixture(scope="module")
def idx_folder(tmp_path_factory):
    """A folder as Debian's package makes it, with 20 and 8 images; the labels are not zipped."""
    folder = tmp_path_factory.mktemp("idx")
    random = np.random.default_rng(0)
    for stem, count in (("train", 20), ("t10k", 8)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        header = b"\0\0\x08\x03" + struct.pack(">3I", *images.shape)
        with gzip.open(folder / f"{stem}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = b"\0\0\x08\x01" + struct.pack(">I", count)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return folder


def read(dataset):
    """All of one pass: images, labels, ids."""
    batches = list(dataset.as_numpy_iterator())
    images = np.concatenate([images for images, _ in batches])
    return images, *(np.concatenate([t[k] for _, t in batches]) for k in ("labels", "ids"))


def load_synthetic(split="train", **options):
    return data.load("synthetic", split, **({"batch_size": 5, "num_examples": 12} | options))


# The data sets


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_on_mocked_data(mocked, name):
    classes, shape, mean, std = RECIPES[name]
    spec = data.DATASETS[name]
    assert (spec["num_classes"], spec["input_shape"]) == (classes, shape)
    assert (spec["mean"], spec["std"]) == (mean, std)
    assert tfds.builder(spec["tfds"]).info.features["label"].num_classes == classes
    train = data.load(name, "train", batch_size=5, with_ids=True)
    assert train.cardinality() == 3
    images, labels, ids = read(train)
    assert images.shape == (EXAMPLES, *shape) and images.dtype == np.float32
    assert labels.dtype == ids.dtype == np.int64
    assert sorted(ids) == list(range(EXAMPLES)) and 0 <= labels.min() <= labels.max() < classes
    again, _, next_ids = read(train)
    assert list(next_ids) != list(ids) and sorted(next_ids) == sorted(ids)
    assert any(abs(again[list(next_ids).index(i)] - images[list(ids).index(i)]).max() for i in ids)
    # A pass depends on seed and epoch alone, not on TensorFlow's seed or on earlier passes.
    tf.random.set_seed(7)
    resumed = data.load(name, "train", batch_size=4, with_ids=True, first_epoch=1)
    for array, expected in zip(read(resumed), (again, _, next_ids), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("name", RECIPES)
def test_normalization_layer_gives_what_the_float_route_gives(mocked, name):
    mean, std = RECIPES[name][2:]
    options = {"batch_size": 6, "with_ids": True, "drop_remainder": True, "image_size": 32}
    images, labels, ids = read(data.load(name, "train", **options))
    raw, raw_labels, raw_ids = read(data.load(name, "train", dtype="uint8", **options))
    assert raw.dtype == np.uint8 and raw.max() > 200
    np.testing.assert_array_equal(ids, raw_ids)
    np.testing.assert_array_equal(labels, raw_labels)
    expected = (raw / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(images, expected, atol=2e-6)
    layer = data.normalization(name)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(raw)), expected, atol=2e-6)


def test_channels_first(mocked):
    last = read(data.load("cifar100", "train", with_ids=True, dtype="uint8"))[0]
    keras.config.set_image_data_format("channels_first")
    first = read(data.load("cifar100", "train", with_ids=True, dtype="uint8"))[0]
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    values = keras.ops.convert_to_numpy(data.normalization("cifar100")(first))
    mean, std = (np.array(x)[:, None, None] for x in RECIPES["cifar100"][2:])
    np.testing.assert_allclose(values, (first / 255 - mean) / std, atol=2e-6)


def read_stored(name):
    """The mocked examples: images, decoded by PIL, and labels."""
    skip = tfds.decode.PartialDecoding(
        {"image": True, "label": True}, {"image": tfds.decode.SkipDecoding()}
    )
    examples = list(tfds.as_numpy(tfds.load(name, split="test", decoders=skip)))
    images = [Image.open(io.BytesIO(example["image"])) for example in examples]
    return images, [example["label"] for example in examples]


def test_cifar100_test_images_are_untouched(mocked):
    images, labels, ids = read(data.load("cifar100", "test", dtype="uint8", with_ids=True))
    stored, stored_labels = read_stored("cifar100")
    np.testing.assert_array_equal(images, [np.asarray(image) for image in stored])
    np.testing.assert_array_equal(labels, stored_labels)
    np.testing.assert_array_equal(ids, range(EXAMPLES))


def test_cub_is_resized_as_pil_does(mocked):
    images, labels, _ = read(data.load("cub200_2011", "test", dtype="uint8", with_ids=True))
    stored, stored_labels = read_stored("caltech_birds2011")
    np.testing.assert_array_equal(labels, stored_labels)
    for image, original in zip(images, stored, strict=True):
        square = original.resize((256, 256), Image.Resampling.BILINEAR)
        assert abs(image.astype(int) - np.asarray(square)[16:240, 16:240]).max() <= 1


def test_imagenet_is_resized_and_cut_as_pil_does(mocked):
    images, labels, _ = read(data.load("imagenet2012", "test", dtype="uint8", with_ids=True))
    stored, stored_labels = read_stored("imagenet2012")
    np.testing.assert_array_equal(labels, stored_labels)
    for image, original in zip(images, stored, strict=True):
        width, height = (256 * side // min(original.size) for side in original.size)
        resized = np.asarray(original.resize((width, height), Image.Resampling.BILINEAR))
        top, left = round((height - 224) / 2), round((width - 224) / 2)
        window = resized[top : top + 224, left : left + 224]
        assert abs(image.astype(int) - window).max() <= 2  # of which 1 may come from the decoder


def test_sizes_scale(mocked):
    for name in RECIPES:
        images, *_ = read(data.load(name, "train", image_size=48, with_ids=True))
        assert images.shape == (EXAMPLES, 48, 48, RECIPES[name][1][-1])


def test_synthetic():
    images, labels, ids = read(
        load_synthetic(num_classes=7, image_size=20, num_examples=30, with_ids=True, shuffle=False)
    )
    assert images.shape == (30, 20, 20, 3) and list(ids) == list(range(30))
    assert list(labels) == [i % 7 for i in range(30)]
    raw = load_synthetic("test", dtype="uint8", num_examples=40, batch_size=40)
    images, labels = next(raw.as_numpy_iterator())
    colours = images.mean((1, 2))
    centres = np.stack([colours[labels == k].mean(0) for k in range(10)])
    nearest = np.square(colours[:, None] - centres).sum(-1).argmin(-1)
    assert (nearest == labels).mean() > 0.8  # a class can be told by its colour


# Order, epochs, ids


def test_ids_name_images_whatever_the_order():
    plain = load_synthetic(shuffle=False, augment=False, with_ids=True, dtype="uint8")
    images, labels, _ = read(plain)
    mixed = load_synthetic(shuffle=True, augment=False, with_ids=True, dtype="uint8")
    for _ in range(2):
        some, some_labels, ids = read(mixed)
        np.testing.assert_array_equal(some, images[ids])
        np.testing.assert_array_equal(some_labels, labels[ids])


def test_seed_decides():
    def passes(**options):
        dataset = load_synthetic(with_ids=True, **options)
        return [read(dataset) for _ in range(3)]

    first, same, other = passes(seed=3), passes(seed=3, batch_size=12), passes(seed=2**40)
    for epoch in range(3):
        for a, b in zip(first[epoch], same[epoch], strict=True):
            np.testing.assert_array_equal(a, b)
        assert list(first[epoch][2]) != list(other[epoch][2])
    assert len({tuple(ids) for _, _, ids in first + other}) == 6


def test_an_unfinished_pass_does_not_count():
    dataset = load_synthetic(with_ids=True)
    iterator = dataset.as_numpy_iterator()
    ids = next(iterator)[1]["ids"]
    whole = read(dataset)[2]
    np.testing.assert_array_equal(ids, whole[:5])
    assert list(read(dataset)[2]) != list(whole)
    assert dataset.epoch_counter.epoch == 2


def test_repeat_goes_through_the_epochs():
    ids = read(load_synthetic(with_ids=True).repeat(2))[2]
    np.testing.assert_array_equal(ids[12:], read(load_synthetic(with_ids=True, first_epoch=1))[2])


def make_model():
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    )
    for weight in model.trainable_variables:
        weight.assign(np.linspace(-1, 1, math.prod(weight.shape)).reshape(weight.shape))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    return model


@pytest.mark.parametrize("way", ["follow", "first_epoch"])
def test_fit_resumes_in_the_same_epoch(way):
    unbroken = make_model()
    dataset = load_synthetic()
    callbacks = [data.FollowEpochs(dataset)] if way == "follow" else None
    unbroken.fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)
    # Whatever else Keras read, the three epochs and no more were counted.
    assert dataset.epoch_counter.epoch == 3
    broken = make_model()
    broken.fit(load_synthetic(), epochs=2, verbose=0, shuffle=False)
    dataset = load_synthetic(first_epoch=2 if way == "first_epoch" else 0)
    callbacks = [data.FollowEpochs(dataset)] if way == "follow" else None
    options = {"verbose": 0, "shuffle": False, "callbacks": callbacks}
    broken.fit(dataset, epochs=3, initial_epoch=2, **options)
    for a, b in zip(unbroken.get_weights(), broken.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_follow_epochs_in_a_set_of_one_batch():
    dataset = load_synthetic(batch_size=12)
    make_model().fit(
        dataset, epochs=2, verbose=0, shuffle=False, callbacks=[data.FollowEpochs(dataset)]
    )
    assert dataset.epoch_counter.epoch == 2


def test_follow_epochs_wants_a_loaded_data_set():
    with pytest.raises(ValueError, match="that `keras_sdd.data.load` returned"):
        data.FollowEpochs(load_synthetic().take(1))
    assert EpochCounter(4).epoch == 4


# Augmentation


@pytest.mark.parametrize("size, padding", [(32, 4), (24, 0), (40, 4)])
def test_crops_are_windows_and_flips_are_flips(size, padding):
    random = np.random.default_rng(0)
    images = random.integers(1, 256, (64, 32, 32, 3), np.uint8)
    draws = random.random((64, 3), np.float32)
    draws[0], draws[1] = 0, 1 - 2**-23
    crops = augmentation.crop_and_flip(tf.constant(images), tf.constant(draws), size, padding)
    padded = np.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    for crop, image, (top, left, flip) in zip(crops.numpy(), padded, draws, strict=True):
        top, left = (math.floor(x * (33 + 2 * padding - size)) for x in (top, left))
        window = image[top : top + size, left : left + size]
        np.testing.assert_array_equal(crop, window[:, ::-1] if flip < 0.5 else window)


def test_every_crop_occurs():
    dataset = load_synthetic(num_examples=1, dtype="uint8", batch_size=1)
    stored = next(
        load_synthetic("train", num_examples=1, augment=False, dtype="uint8").as_numpy_iterator()
    )[0]
    padded = np.pad(stored[0], [(4, 4), (4, 4), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), (0, 1)).transpose(
        0, 1, 3, 4, 2
    )
    seen = set()
    for images, _ in dataset.repeat(60).as_numpy_iterator():
        for flip in (False, True):
            image = images[0][:, ::-1] if flip else images[0]
            seen |= {(*place, flip) for place in np.argwhere((windows == image).all((2, 3, 4)))}
    seen = {(int(top), int(left), flip) for top, left, flip in seen}
    tops, lefts, flips = (set(values) for values in zip(*seen, strict=True))
    assert len(seen) > 40 and flips == {False, True}
    assert {min(tops), min(lefts)} == {0} and {max(tops), max(lefts)} == {8}


def reference_window(height, width, draws):
    """Torchvision's rule, try by try."""
    for area, ratio in zip(draws[:10], draws[10:20], strict=True):
        area = height * width * (0.08 + 0.92 * area)
        ratio = math.exp(math.log(3 / 4) + ratio * math.log(16 / 9))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return (
                math.floor(draws[20] * (height - h + 1)),
                math.floor(draws[21] * (width - w + 1)),
                h,
                w,
            )
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def test_random_windows_are_those_of_torchvision():
    random = np.random.default_rng(0)
    cases = [(*random.integers(20, 600, 2), random.random(23, np.float32)) for _ in range(300)]
    cases += [(40, 800, random.random(23, np.float32)), (800, 40, random.random(23, np.float32))]
    choose = tf.function(augmentation.choose_window)
    areas, exact = [], 0
    for height, width, draws in cases:
        args = (tf.constant(height, tf.int32), tf.constant(width, tf.int32), tf.constant(draws))
        top, left, h, w = (int(x) for x in choose(*args))
        assert 0 <= top <= height - h and 0 <= left <= width - w
        expected = reference_window(int(height), int(width), draws.astype(np.float64))
        # Float32 may round a side that lies between two pixels the other way.
        assert max(abs(a - b) for a, b in zip((top, left, h, w), expected, strict=True)) <= 1
        exact += (top, left, h, w) == expected
        if 1 / 2 < width / height < 2 and min(h, w) > 30:
            areas.append(h * w / (height * width))
            assert 0.74 * (1 - 1 / 30) < w / h < 4 / 3 * (1 + 1 / 30)
    assert exact > 0.98 * len(cases)
    assert min(areas) > 0.07 and max(areas) > 0.95


def test_centre_crops_round_as_torchvision_does():
    image = np.arange(13 * 18 * 1, dtype=np.uint8).reshape(13, 18, 1)
    # (13 - 4) / 2 = 4.5 -> 4 and (13 - 6) / 2 = 3.5 -> 4: halves go to the even number.
    for size, top, left in ((4, 4, 7), (6, 4, 6), (13, 0, 2)):
        crop = augmentation.crop_centre(tf.constant(image), size).numpy()
        np.testing.assert_array_equal(crop, image[top : top + size, left : left + size])


def test_shorter_side_is_resized():
    random = np.random.default_rng(0)
    for height, width, expected in ((30, 47, (20, 31)), (47, 30, (31, 20)), (10, 10, (20, 20))):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        resized = augmentation.resize_shorter_side(tf.constant(image), 20).numpy()
        assert resized.shape == (*expected, 3)
        pil = Image.fromarray(image).resize(expected[::-1], Image.Resampling.BILINEAR)
        assert abs(resized.astype(int) - np.asarray(pil)).max() <= 1


# Prepared files


@pytest.fixture(scope="module")
def tiny_imagenet(tmp_path_factory):
    """ImageNet's builder, prepared with 20 images of one grey each in three files."""
    folder = tmp_path_factory.mktemp("tfds")
    with tfds.core.registered.skip_registration():

        class Builder(tfds.builder_cls("imagenet2012")):
            name = "imagenet2012"

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for grey in range(20):
                    image = np.full((30 + grey, 40, 3), 10 * grey, np.uint8)
                    yield grey, {"image": image, "label": grey, "file_name": f"{grey}.jpg"}

    config = tfds.download.DownloadConfig(num_shards=3)
    Builder(data_dir=folder).download_and_prepare(download_config=config)
    return folder


def test_imagenet_from_files(tiny_imagenet):
    options = {"data_dir": tiny_imagenet, "image_size": 32, "with_ids": True, "dtype": "uint8"}
    images, labels, ids = read(data.load("imagenet2012", "train", 8, shuffle=False, **options))
    np.testing.assert_array_equal(ids, range(20))
    assert sorted(labels) == list(range(20))
    train = data.load("imagenet2012", "train", 8, **options)
    orders = []
    for _ in range(3):
        some, some_labels, some_ids = read(train)
        np.testing.assert_array_equal(some_labels, labels[some_ids])
        assert abs(some.mean((1, 2, 3)) - 10 * some_labels).max() < 3
        orders.append(tuple(some_ids))
    assert len(set(orders)) == 3
    later = data.load("imagenet2012", "train", 8, first_epoch=2, **options)
    assert tuple(read(later)[2]) == orders[2]
    held = {
        name: read(data.load("imagenet2012", name, validation_examples=6, **options))
        for name in ("train", "validation")
    }
    assert [sorted(x[2]) for x in held.values()] == [list(range(14)), list(range(6))]
    assert sorted([*held["train"][1], *held["validation"][1]]) == list(range(20))
    seventh = data.load(
        "imagenet2012", "validation", validation_examples=6, **options | {"seed": 7}
    )
    np.testing.assert_array_equal(read(seventh)[1], held["validation"][1])
    kept = data.load("imagenet2012", "train", validation_examples=6, num_examples=9, **options)
    assert sorted(read(kept)[2]) == list(range(9))
    few = read(data.load("imagenet2012", "train", num_examples=9, **options))[2]
    assert sorted(few) == list(range(9))
    with pytest.raises(ValueError, match="has 20 examples"):
        data.load("imagenet2012", "train", num_examples=21, **options)
    with pytest.raises(FileNotFoundError, match=r"without the split 'validation'(.|\n)*has train"):
        data.load("imagenet2012", "test", **options)


def test_fashion_mnist_from_idx_files(idx_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # not needed
    options = {"data_dir": idx_folder, "with_ids": True, "dtype": "uint8"}
    for split, stem, count in (("train", "train", 20), ("test", "t10k", 8)):
        stored = read_idx(idx_folder / f"{stem}-images-idx3-ubyte.gz")
        images, labels, ids = read(
            data.load("fashion_mnist", split, shuffle=False, augment=False, **options)
        )
        padded = np.pad(stored, [(0, 0), (2, 2), (2, 2)])[..., None]
        np.testing.assert_array_equal(images, padded)
        np.testing.assert_array_equal(labels, np.arange(count) % 10)
        np.testing.assert_array_equal(ids, range(count))
    images, labels, ids = read(data.load("fashion_mnist", "train", num_examples=6, **options))
    assert images.shape == (6, 32, 32, 1) and sorted(ids) == list(range(6))
    np.testing.assert_array_equal(labels, ids)


def test_faulty_idx_files(tmp_path, idx_folder):
    images = "train-images-idx3-ubyte"
    for content, message in (
        (b"\0\0\x0d\x01\0\0\0\0", "begins with 00 00 0d 01"),
        (b"", "begins with nothing"),
        (b"\0\0\x08\x03\0\0", "ends within its header"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "must hold 5 values"),
    ):
        (tmp_path / images).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_idx(tmp_path / images)
    content = (idx_folder / f"{images}.gz").read_bytes()
    for damaged in (content[:100], b"", b"no gzip", content[:50] + b"\xff" * 20 + content[70:]):
        (tmp_path / "images.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged, cut off.*images\.gz|nothing"):
            read_idx(tmp_path / "images.gz")
    header = b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 28)
    (tmp_path / images).write_bytes(header + bytes(28 * 28))
    with pytest.raises(FileNotFoundError, match="neither train-labels-idx1-ubyte nor"):
        data.load("fashion_mnist", "train", data_dir=tmp_path)
    labels = (idx_folder / "train-labels-idx1-ubyte").read_bytes()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match=r"shapes \(1, 28, 28\) in .* and \(20,\)"):
        data.load("fashion_mnist", "train", data_dir=tmp_path)


# Errors


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "cifar10"}, "Near names: cifar100"),
        (
            {"name": "synthetic", "split": "val"},
            "`split` must be 'train' or 'validation' or 'test'",
        ),
        ({"batch_size": 0}, "`batch_size` must be an integer, 1 or greater"),
        ({"batch_size": 2.0}, "batch_size=2.0"),
        ({"num_examples": -1}, "num_examples=-1"),
        ({"num_examples": True}, "num_examples=True"),
        ({"image_size": 0}, "image_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"first_epoch": -1}, "first_epoch=-1"),
        ({"dtype": "float16"}, "`dtype` must be 'float32' or 'uint8'"),
        ({"data_format": "NHWC"}, "data_format='NHWC'"),
        ({"name": "cifar100", "num_classes": 10}, "cifar100 has 100 classes"),
        ({"num_examples": 4, "batch_size": 5, "drop_remainder": True}, "4 examples fill no batch"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        data.load(**({"name": "synthetic", "split": "train"} | options))


def test_too_many_examples(mocked):
    with pytest.raises(ValueError, match="has 12 examples. Received: num_examples=13"):
        data.load("cifar100", "train", num_examples=13)
    with pytest.raises(ValueError, match="have 28 pixels. Received: image_size=20"):
        data.load("fashion_mnist", "train", image_size=20)
    with pytest.raises(ValueError, match="Near names: imagenet2012"):
        data.normalization("imagenet")


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_not_prepared(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not prepared in") as error:
        data.load(name, "train", data_dir=tmp_path)
    message = str(error.value)
    assert f"tfds.builder('{data.DATASETS[name]['tfds']}', data_dir='{tmp_path}')" in message
    if name == "imagenet2012":
        assert f"{tmp_path / 'downloads' / 'manual'}, which holds none now" in message
        assert "ILSVRC2012_img_train.tar" in message
    if name == "fashion_mnist":
        assert "dataset-fashion-mnist" in message


def test_missing_packages(monkeypatch):
    for package in ("tensorflow_datasets", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match="pip install 'keras-sdd"):
            data.load("cifar100", "train")


def test_import_needs_no_tensorflow():
    code = "import sys; sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None\n"
    code += "import keras_sdd.data; print(len(keras_sdd.data.DATASETS))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy()
    )
    assert run.stdout == f"{len(data.DATASETS)}\n", run.stderr


# Images held out for validation


@pytest.mark.parametrize("name", ["cifar100", "fashion_mnist"])
def test_images_in_memory_are_held_out(mocked, name):
    options = {"with_ids": True, "dtype": "uint8", "shuffle": False, "augment": False}
    held = {"validation_examples": 4} | options
    splits = {x: read(data.load(name, x, **held)) for x in ("train", "validation")}
    for split, count in (("train", EXAMPLES - 4), ("validation", 4)):
        images, labels, ids = splits[split]
        assert list(ids) == list(range(count)) and len(images) == len(labels) == count
    everything = read(data.load(name, "train", **options))[0]
    pieces = [x.tobytes() for split in splits.values() for x in split[0]]
    assert sorted(pieces) == sorted(x.tobytes() for x in everything)
    again = read(data.load(name, "validation", batch_size=3, seed=7, **held))[0]
    np.testing.assert_array_equal(again, splits["validation"][0])
    other = read(data.load(name, "validation", validation_seed=1, **held))[0]
    assert not np.array_equal(other, splits["validation"][0])
    some = read(data.load(name, "train", num_examples=5, **held))[0]
    np.testing.assert_array_equal(some, splits["train"][0][:5])
    assert len(read(data.load(name, "test", **held))[0]) == EXAMPLES  # whole


def test_splits_made_on_the_spot_share_no_image():
    options = {"with_ids": True, "dtype": "uint8", "augment": False, "validation_examples": 7}
    sizes = {"train": 9, "validation": 7, "test": 9}
    read_all = [read(load_synthetic(x, num_examples=n, **options))[0] for x, n in sizes.items()]
    assert list(map(len, read_all)) == list(sizes.values())
    assert len({image.tobytes() for images in read_all for image in images}) == 25


def test_what_is_held_out_is_checked(mocked):
    with pytest.raises(ValueError, match="12 training images leave none.*validation_examples=12"):
        data.load("cifar100", "train", validation_examples=12)
    with pytest.raises(ValueError, match="`validation_examples` must be an integer, 1 or greater"):
        data.load("cifar100", "validation")
    with pytest.raises(ValueError, match="has 8 examples. Received: num_examples=9"):
        data.load("cifar100", "train", validation_examples=4, num_examples=9)


# A data set of one's own


def write_arrays(path, **changes):
    arrays = {
        "x_train": np.arange(6 * 9).reshape(6, 3, 3).astype("uint8"),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": np.zeros((2, 3, 3), "uint8"),
        "y_test": np.array([[1], [2]], "uint8"),
    }
    np.savez(path, **{key: x for key, x in (arrays | changes).items() if x is not None})
    return str(path)


def test_own_arrays(tmp_path):
    path = write_arrays(tmp_path / "own.npz")
    spec = data.find_spec(path)
    assert spec["num_classes"] == 3 and spec["input_shape"] == (3, 3, 1)
    pixels = np.arange(54) / 255
    np.testing.assert_allclose((*spec["mean"], *spec["std"]), (pixels.mean(), pixels.std()))
    images, labels, ids = read(
        data.load(path, "train", 4, shuffle=False, augment=False, with_ids=True)
    )
    assert images.shape == (6, 3, 3, 1) and list(labels) == [0, 1, 2, 0, 1, 2]
    np.testing.assert_allclose(images.ravel(), (pixels - pixels.mean()) / pixels.std(), atol=1e-5)
    assert list(read(data.load(path, "test", with_ids=True))[1]) == [1, 2]
    held = data.load(path, "validation", validation_examples=2, with_ids=True)
    assert len(read(held)[0]) == 2
    layer = data.normalization(path)
    assert keras.ops.convert_to_numpy(layer(np.full((1, 3, 3, 1), 26.5))) == pytest.approx(
        0, abs=1e-5
    )


def test_own_validation_images(tmp_path):
    own = {"x_validation": np.full((4, 3, 3), 9, "uint8"), "y_validation": np.array([2, 1, 0, 0])}
    path = write_arrays(tmp_path / "own.npz", **own)
    held = {"dtype": "uint8", "validation_examples": 3, "with_ids": True}
    images, labels, _ = read(data.load(path, "validation", **held))
    assert images.shape == (3, 3, 3, 1) and (images == 9).all() and list(labels) == [2, 1, 0]
    images, _, _ = read(data.load(path, "train", shuffle=False, augment=False, **held))
    np.testing.assert_array_equal(images.ravel(), np.arange(54))  # none of them is held out
    with pytest.raises(ValueError, match="has 4 examples. Received: num_examples=5"):
        data.load(path, "validation", validation_examples=5)


def test_the_statistics_of_own_images_are_exact(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 2, 2, 3)).astype("uint8")
    pixels[..., 1] //= 7
    path = write_arrays(tmp_path / "own.npz", x_train=pixels, y_train=np.arange(300) % 3)
    spec, flat = data.find_spec(path), pixels.reshape(-1, 3) / 255
    np.testing.assert_allclose(spec["mean"], flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(spec["std"], flat.std(0), rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_validation": np.zeros((1, 3, 3), "uint8")}, "may hold both of x_validation, y_val"),
        ({"y_test": None}, "must hold the arrays.*Received: x_train, y_train, x_test"),
        ({"x_train": np.zeros((6, 3, 4), "uint8")}, r"square and bytes.*shape \(6, 3, 4, 1\)"),
        ({"x_train": np.zeros((6, 3, 3))}, "square and bytes.*type float64"),
        ({"y_train": np.zeros(5, int)}, r"one for each of the 6 images.*y_train of shape \(5,\)"),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, "integers from 0"),
        ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "none of class 2 among 6"),
    ],
)
def test_own_arrays_that_do_not_fit(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(write_arrays(tmp_path / "own.npz", **changes), "train")


def test_own_files_that_are_none(tmp_path):
    path = write_arrays(tmp_path / "own.npz", y_test=np.array([0, 3]))
    with pytest.raises(ValueError, match="Labels must be 0 to 2, as those of y_train. Received: 3"):
        data.load(path, "test")
    with pytest.raises(ValueError, match="images of 3 pixels. Received: image_size=32"):
        data.load(path, "test", image_size=32)
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.load(str(tmp_path / "none.npz"), "train")


@pytest.mark.parametrize("damage", ["cut off", "empty", "text", "one array", "objects", "flipped"])
def test_own_files_that_are_damaged_are_named(tmp_path, damage):
    path = pathlib.Path(write_arrays(tmp_path / "own.npz"))
    content = bytearray(path.read_bytes())
    if damage == "one array":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "objects":
        write_arrays(path, y_train=np.array([{}] * 6))
    elif damage == "flipped":
        content[content.index(bytes(range(20)))] ^= 255  # zip checks the sum of what it holds
        path.write_bytes(content)
    else:
        path.write_bytes({"cut off": content[:300], "empty": b"", "text": b"hello\n" * 9}[damage])
    with pytest.raises(ValueError, match="own.npz is damaged"):
        data.load(str(path), "train")


def test_labels_of_a_part(tmp_path):
    path = write_arrays(tmp_path / "own.npz")
    options = {"batch_size": 2, "with_ids": True, "labelled_examples": 2}
    _, labels, ids = read(data.load(path, "train", **options))
    assert dict(zip(ids, labels, strict=True)) == {0: 0, 1: 1, 2: -1, 3: -1, 4: -1, 5: -1}
    with pytest.raises(ValueError, match="`labelled_examples` must be an integer, 1 or greater"):
        data.load(path, "train", labelled_examples=0)
