"""ImageNet 2012: random resized crops and flips; the centre of the resized image for the test."""

import numpy as np

from keras_sdd.data.lazy import tf
from keras_sdd.data.prepared import open_builder, read_split
from keras_sdd.data.sources import StreamSource


def open_imagenet2012(spec, split, size, data_dir, num_examples, num_classes, **order):
    """Stream a split from its files."""
    builder = open_builder(spec["tfds"], data_dir)
    info = builder.info.splits.get(split)
    # No metadata where nothing is prepared, which `read` reports, and under TFDS's `mock_data`.
    lengths = info.shard_lengths if info else [0]
    starts = np.cumsum([0, *lengths[:-1]])
    few = num_examples is not None and not (info and info.num_examples < num_examples)
    all_of_it = f"{split}[:{num_examples}]" if few else split

    def find_id(example, blocks):
        # TFDS calls an example "imagenet2012-train.tfrecord-00012-of-01024__345".
        numbers = tf.strings.regex_replace(
            example["tfds_id"], r"^.*-(\d+)-of-\d+__(\d+)$", r"\1 \2"
        )
        numbers = tf.strings.to_number(tf.strings.split(numbers), tf.int64)
        place = tf.gather(starts, numbers[0]) + numbers[1]
        if blocks:
            firsts, lasts = zip(*blocks, strict=True)
            block = tf.searchsorted(np.array(lasts), [place], side="right")[0]
            before = np.cumsum([0, *(last - first for first, last in blocks[:-1])])
            place += tf.gather(before - np.array(firsts), block)
        return {"image": example["image"], "label": example["label"], "id": place}

    def read(seed, blocks=()):
        parts = [f"{split}[{first}:{last}]" for first, last in blocks]
        instruction = "+".join(parts) or all_of_it
        options = {"add_tfds_id": True} | (
            {} if seed is not None else {"interleave_cycle_length": 1}
        )
        examples = read_split(builder, instruction, seed, **options)
        return examples.map(lambda example: find_id(example, blocks))

    available = int(read(None).cardinality())
    resized = round(256 * size / 224)
    return StreamSource(read, available, size, resized, **order)
