"""The data sets of the paper's experiments as `tf.data` pipelines, for every backend.

A pipeline is a pure function of its seed and its epoch: order and augmentation of epoch k do not
depend on the epochs before, so a resumed run reads what an unbroken one reads.
"""

import os
from typing import Any

import keras

from keras_sdd._checks import check_integers, check_known, check_word
from keras_sdd.data.cifar100 import open_cifar100
from keras_sdd.data.cub200_2011 import open_cub200_2011
from keras_sdd.data.fashion_mnist import open_fashion_mnist
from keras_sdd.data.imagenet2012 import open_imagenet2012
from keras_sdd.data.lazy import import_module
from keras_sdd.data.own_arrays import describe_arrays
from keras_sdd.data.pipeline import FollowEpochs, build_pipeline, make_finish
from keras_sdd.data.synthetic import open_synthetic
from keras_sdd.typing import Dataset

_IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

# Name: how to open it, what it holds, its name and splits in TensorFlow Datasets, its recipe.
# `input_shape` is that of an image as handed out, channels last; `augmentation` is in words.
DATASETS: dict[str, dict[str, Any]] = {
    "cifar100": {
        "open": open_cifar100,
        "num_classes": 100,
        "input_shape": (32, 32, 3),
        "mean": (0.5071, 0.4867, 0.4408),
        "std": (0.2675, 0.2565, 0.2761),
        "tfds": "cifar100",
        "splits": {"train": "train", "test": "test"},
        "augmentation": "pad 4, random crop 32, flip",
    },
    "cub200_2011": {
        "open": open_cub200_2011,
        "num_classes": 200,
        "input_shape": (224, 224, 3),
        **_IMAGENET_STATISTICS,
        "tfds": "caltech_birds2011",
        "splits": {"train": "train", "test": "test"},
        "augmentation": "resize 256 x 256, random crop 224, flip",
    },
    "imagenet2012": {
        "open": open_imagenet2012,
        "num_classes": 1000,
        "input_shape": (224, 224, 3),
        **_IMAGENET_STATISTICS,
        "tfds": "imagenet2012",
        "splits": {"train": "train", "test": "validation"},  # its own test split has no labels
        "augmentation": "random resized crop 224, flip",
    },
    "fashion_mnist": {
        "open": open_fashion_mnist,
        "num_classes": 10,
        "input_shape": (32, 32, 1),
        "mean": (0.2860,),  # of the 28 x 28 training images, before they are padded
        "std": (0.3530,),
        "tfds": "fashion_mnist",
        "splits": {"train": "train", "test": "test"},
        "augmentation": "pad to 32 x 32, pad 4, random crop 32, flip",
    },
    "synthetic": {
        "open": open_synthetic,
        "num_classes": 10,
        "input_shape": (32, 32, 3),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "tfds": None,
        "splits": {"train": "train", "validation": "validation", "test": "test"},
        "augmentation": "pad 4, random crop 32, flip",
    },
}


def load(
    name: str | os.PathLike[str],
    split: str,
    batch_size: int = 64,
    seed: int = 0,
    augment: bool | None = None,
    shuffle: bool | None = None,
    with_ids: bool = False,
    dtype: str = "float32",
    data_dir: str | os.PathLike[str] | None = None,
    num_examples: int | None = None,
    image_size: int | None = None,
    drop_remainder: bool = False,
    first_epoch: int = 0,
    num_classes: int | None = None,
    data_format: str | None = None,
    validation_examples: int = 0,
    validation_seed: int = 0,
    labelled_examples: int | None = None,
) -> Dataset:
    """Load a split of a data set with its recipe's augmentation and normalization.

    Every pass over the result is an epoch with its own order and augmentation, a function of `seed`
    and the epoch's number alone. Passes count from `first_epoch`; one that was not read to its last
    batch does not count. The callback `FollowEpochs(dataset)` ties the number to the epoch of `fit`
    instead: use it where runs are resumed, and for sets of a batch or two, which Keras may read to
    their end before it trains.

    CIFAR-100, CUB-200-2011, Fashion-MNIST and the synthetic set are held in memory as bytes and
    shuffled as a whole. ImageNet is streamed; its files are shuffled, and then the examples among
    16384 at a time.

    Args:
        name: a key of `DATASETS`, or the path of an `.npz` file of your own with the arrays
            `x_train` (N, S, S, C) or (N, S, S), uint8, `y_train` (N,), `x_test` and `y_test`, as
            `np.savez` writes them, and perhaps `x_validation` and `y_validation`.
        split: `"train"`, `"test"` (for ImageNet its validation images), or `"validation"`, images
            that are held out of the training images, unless a file of your own has such.
        batch_size: images per batch.
        seed: integer that decides order and augmentation.
        augment: whether to crop and flip at random; by default for `"train"` alone.
        shuffle: whether to shuffle; by default for `"train"` alone.
        with_ids: whether the targets are `{"labels", "ids"}` instead of the labels. The id of an
            image is its index in the split as it is stored, those left out not counted.
        dtype: `"float32"` for normalized images, or `"uint8"` for raw ones, a quarter of the
            bytes, which the layer `normalization(name)` then normalizes within the model.
        data_dir: folder of TensorFlow Datasets instead of its default; for `fashion_mnist` also
            a folder with the original IDX files.
        num_examples: how many of the split's first examples to use; by default all.
        image_size: height and width of the images; by default those of the recipe, whose resizing
            and padding scale with it.
        drop_remainder: whether to leave an incomplete last batch out.
        first_epoch: epoch of the first pass.
        num_classes: of the synthetic set; for the others it must be theirs.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        validation_examples: how many training images `"validation"` has and `"train"` lacks. Of
            the synthetic set, and of a file with `x_validation`, `"validation"` has that many of
            the split's own, and `"train"` lacks none.
        validation_seed: integer that decides which these are.
        labelled_examples: how many of the first examples keep their label; the others get -1,
            which a distiller leaves out with `ignore_class=-1`. By default all.

    Returns:
        A finite `tf.data.Dataset` of (images, labels) for any backend's `fit`: images
        (B, H, W, C), or (B, C, H, W); labels int64 (B,), ids int64 (B,).

    Raises:
        ValueError: for an unknown `name` (naming near ones) and other arguments out of range.
        ImportError: if TensorFlow or TensorFlow Datasets is missing.
        FileNotFoundError: if the data set is not prepared, with the command that prepares it.

    Examples:
        >>> train = keras_sdd.data.load("synthetic", "train", batch_size=32, with_ids=True)
        >>> images, targets = next(iter(train))
        >>> tuple(images.shape), sorted(targets), len(train)  # 256 images
        ((32, 32, 32, 3), ['ids', 'labels'], 8)
    """
    spec = find_spec(name)
    size = spec["input_shape"][0] if image_size is None else image_size
    classes = spec["num_classes"] if num_classes is None else num_classes
    data_format = data_format or keras.config.image_data_format()
    check_word("split", split, ("train", "validation", "test"))
    check_word("dtype", dtype, ("float32", "uint8"))
    check_word("data_format", data_format, ("channels_last", "channels_first"))
    check_integers(1, batch_size=batch_size, image_size=size, num_classes=classes)
    check_integers(0, seed=seed, first_epoch=first_epoch, validation_seed=validation_seed)
    check_integers(int(split == "validation"), validation_examples=validation_examples)
    counts = {"num_examples": num_examples, "labelled_examples": labelled_examples}
    check_integers(1, **{key: count for key, count in counts.items() if count is not None})
    if name != "synthetic" and classes != spec["num_classes"]:
        raise ValueError(
            f"{name} has {spec['num_classes']} classes; only those of `synthetic` can be chosen. "
            f"Received: num_classes={num_classes!r}"
        )
    import_module("tensorflow")  # if it is missing, say so before images are read or made
    # Where there are images for validation, none have to be held out.
    held = split != "test" and validation_examples and "validation" not in spec["splits"]
    needed = num_examples if held or split != "validation" else validation_examples
    source = spec["open"](
        spec,
        spec["splits"].get(split, "train"),
        size,
        data_dir,
        None if held else needed,  # what is cut off is cut off the whole
        classes,
        shuffle=split == "train" if shuffle is None else shuffle,
        augment=split == "train" if augment is None else augment,
    )
    if held:
        _check_held_out(source.num_examples, validation_examples)
        source.hold_out(validation_examples, validation_seed, split, num_examples)
    _check_amount(source.num_examples, needed, batch_size, drop_remainder)
    finish = make_finish(spec, dtype, data_format, with_ids, labelled_examples)
    return build_pipeline(source, batch_size, drop_remainder, seed, first_epoch, finish)


def find_spec(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `DATASETS` says of a data set, or what an `.npz` file of one's own holds.

    Args:
        name: a key of `DATASETS`, or the path of an `.npz` file, as for `load`.

    Returns:
        A dict with `"num_classes"`, `"input_shape"` (H, W, C), `"mean"` and `"std"` of the
        channels, of values from 0 to 1, `"augmentation"` in words, and what else `load` needs.

    Raises:
        ValueError: for an unknown `name`, naming near ones, and for a file that does not fit.
        FileNotFoundError: if there is no such file.

    Examples:
        >>> spec = keras_sdd.data.find_spec("cifar100")
        >>> spec["num_classes"], spec["input_shape"], spec["augmentation"]
        (100, (32, 32, 3), 'pad 4, random crop 32, flip')
    """
    if str(name).endswith(".npz"):
        return describe_arrays(str(name))
    return DATASETS[check_known("data set", "name", name, DATASETS, "keras_sdd.data.DATASETS")]


def normalization(
    name: str | os.PathLike[str], data_format: str | None = None
) -> keras.layers.Normalization:
    """Return the layer that normalizes the raw images of `load(name, dtype="uint8")`.

    Put before a model, it gives what `dtype="float32"` gives.

    Args:
        name: of the data set, as for `load`.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.

    Returns:
        A `keras.layers.Normalization` with the mean and variance of the data set, in float32
        under any dtype policy.

    Raises:
        ValueError: for an unknown `name`, naming near ones.

    Examples:
        >>> layer = keras_sdd.data.normalization("synthetic")  # mean 0.5, standard deviation 0.25
        >>> float(layer(np.full((1, 32, 32, 3), 255, "uint8"))[0, 0, 0, 0])
        2.0
    """
    spec = find_spec(name)
    data_format = data_format or keras.config.image_data_format()
    check_word("data_format", data_format, ("channels_last", "channels_first"))
    return keras.layers.Normalization(
        axis=1 if data_format == "channels_first" else -1,
        mean=[255 * mean for mean in spec["mean"]],
        variance=[(255 * std) ** 2 for std in spec["std"]],
        dtype="float32",
        name="normalization",
    )


def _check_held_out(available: int, validation_examples: int) -> None:
    if available <= validation_examples:
        raise ValueError(
            f"{available} training images leave none to train on; hold out fewer. Received: "
            f"validation_examples={validation_examples}"
        )


def _check_amount(
    available: int, needed: int | None, batch_size: int, drop_remainder: bool
) -> None:
    if needed is not None and available < needed:
        raise ValueError(f"The split has {available} examples. Received: num_examples={needed}")
    if drop_remainder and available < batch_size:
        raise ValueError(
            f"{available} examples fill no batch, and drop_remainder=True leaves an incomplete one "
            f"out. Received: batch_size={batch_size}"
        )


__all__ = ["DATASETS", "FollowEpochs", "find_spec", "load", "normalization"]
