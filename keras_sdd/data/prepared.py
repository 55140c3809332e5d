"""Data sets as TensorFlow Datasets prepared them. Nothing is downloaded here."""

import numpy as np

from keras_sdd.data.lazy import tf, tfds


def read_split(builder, split, shuffle_seed=None, **options):
    """Read `image` (encoded) and `label` of a split.

    Args:
        builder: of TensorFlow Datasets.
        split: its name there, perhaps with a slice.
        shuffle_seed: integer scalar tensor that orders the files, or `None` for their own order.
        **options: further ones of `tfds.ReadConfig`.

    Returns:
        A `tf.data.Dataset` of dicts.

    Raises:
        FileNotFoundError: if the data set, or this split of it, is not prepared, with the command
            that prepares it.
    """
    if builder.info.splits and split.split("[")[0] not in builder.info.splits:
        raise FileNotFoundError(
            f"{builder.name} was prepared without the split {split!r}, in {builder.data_path}, "
            f"which has {', '.join(builder.info.splits)}. {explain_preparation(builder)}"
        )
    try:
        return builder.as_dataset(
            split=split,
            shuffle_files=shuffle_seed is not None,
            decoders=tfds.decode.PartialDecoding(
                {"image": True, "label": True}, {"image": tfds.decode.SkipDecoding()}
            ),
            read_config=tfds.ReadConfig(
                shuffle_seed=shuffle_seed,
                shuffle_reshuffle_each_iteration=False,
                try_autocache=False,
                **options,
            ),
        )
    except AssertionError as error:  # how TFDS says that there are no files
        raise FileNotFoundError(
            f"{builder.name} is not prepared in {builder.data_path}. {explain_preparation(builder)}"
        ) from error


def open_builder(name, data_dir):
    """Return the builder of TensorFlow Datasets for the data set that it calls `name`."""
    return tfds.builder(name, data_dir=data_dir)


def explain_preparation(builder):
    """Say which command prepares a data set, and what must be downloaded by hand before."""
    call = f"tfds.builder({builder.name!r}, data_dir={str(builder.data_dir_root)!r})"
    command = f'python -c "import tensorflow_datasets as tfds; {call}.download_and_prepare()"'
    text = f"Prepare it once with:\n  {command}"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        folder = builder.data_dir_root / "downloads" / "manual"
        there = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
        steps = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        text += (
            f"\nBefore that, its files must be downloaded by hand into {folder}, "
            f"which holds {', '.join(there) or 'none'} now: {steps}"
        )
    return text


def read_arrays(name, split, data_dir, num_examples, finish):
    """Read a whole split into memory.

    Args:
        name, split: as TensorFlow Datasets calls them.
        data_dir: of TensorFlow Datasets, or `None` for its default.
        num_examples: how many of the first examples to read, or `None` for all.
        finish: function from an encoded image to a uint8 image of a fixed shape.

    Returns:
        images uint8 (N, H, W, C) and labels int64 (N,), in the order of the files.
    """
    # One file after the other: an example's place is then its index in the split.
    examples = read_split(open_builder(name, data_dir), split, interleave_cycle_length=1)
    examples = examples.take(-1 if num_examples is None else num_examples)
    pairs = examples.map(
        lambda example: (finish(example["image"]), example["label"]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    batches = list(pairs.batch(1024).prefetch(1).as_numpy_iterator())
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, labels.astype(np.int64)
