"""The two kinds of pipelines: images held in memory, and encoded images read from files.

Both give the elements of an epoch in an order that its seed decides (`order`), and turn elements
into batches of uint8 images, labels and ids (`batch`). `hold_out` cuts images off for validation.
"""

import functools

import numpy as np

from keras_sdd.data import augmentation
from keras_sdd.data.lazy import tf

# Encoded examples among which a streamed set is shuffled, beside its files: 2 GB for ImageNet.
SHUFFLE_BUFFER = 16384


class ArraySource:
    """Images in memory: whole permutations, augmentation batch by batch.

    Args:
        images: uint8 array (N, S, S, C).
        labels: integer array (N,).
        size: height and width of the images handed out.
        padding: black border of the random crop, in pixels.
        shuffle, augment: whether to do so.
    """

    def __init__(self, images, labels, size, padding=0, shuffle=False, augment=False):
        with tf.device("CPU:0"):  # elsewhere it would fill the memory of a GPU
            self.images = tf.constant(images)
            self.labels = tf.constant(labels, tf.int64)
        self.num_examples = len(labels)
        self.size = size
        self.padding = padding
        self.shuffle = shuffle
        self.augment = augment

    def hold_out(self, count, seed, keep, num_examples=None):
        """Keep `count` images that a seed draws, `keep="validation"`, or all but these.

        Args:
            count, seed: how many to draw, and from which seed.
            keep: `"validation"` or `"train"`.
            num_examples: how many of the first of those to keep, or `None` for all.
        """
        drawn = np.random.default_rng(seed).permutation(self.num_examples)
        kept = np.sort(drawn[:count] if keep == "validation" else drawn[count:])[:num_examples]
        with tf.device("CPU:0"):
            self.images, self.labels = (tf.gather(x, kept) for x in (self.images, self.labels))
        self.num_examples = len(kept)

    def order(self, seed):
        """Elements: ids () in the order of the epoch, with the draws (3,) of each."""
        ids = tf.range(self.num_examples, dtype=tf.int64)
        if self.shuffle:
            ids = tf.random.experimental.stateless_shuffle(ids, tf.random.fold_in(seed, 0))
        shape = (self.num_examples, augmentation.CROP_DRAWS)
        draws = tf.random.stateless_uniform(shape, tf.random.fold_in(seed, 1))
        return tf.data.Dataset.from_tensor_slices((ids, tf.gather(draws, ids)))

    def batch(self, elements, batch_size, drop_remainder):
        """Batches (images, labels, ids) of the elements."""

        def look_up(ids, draws):
            images = tf.gather(self.images, ids)
            if self.augment:
                images = augmentation.crop_and_flip(images, draws, self.size, self.padding)
            else:
                images = augmentation.crop_centre(images, self.size)
            return images, tf.gather(self.labels, ids), ids

        return elements.batch(batch_size, drop_remainder).map(
            look_up, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


class StreamSource:
    """Encoded images from files: files and a buffer shuffled, images prepared in parallel.

    Args:
        read: function of a seed, or `None` for reading in order, and of `blocks`, to a
            `tf.data.Dataset` of dicts `image` (encoded), `label` and `id`. A block (start, stop)
            is a range of the examples; an id counts in the blocks that are read.
        num_examples: of the split.
        size: height and width of the images handed out.
        resized: length of the shorter side before the centre crop, without augmentation.
        shuffle, augment: whether to do so.
    """

    def __init__(self, read, num_examples, size, resized, shuffle=False, augment=False):
        self.read = read
        self.num_examples = num_examples
        self.size = size
        self.resized = resized
        self.shuffle = shuffle
        self.augment = augment

    def hold_out(self, count, seed, keep, num_examples=None):
        """As for images in memory; here they are a block, as others would have to be searched.

        The examples of a set that is streamed lie in its files in an order drawn at random.
        """
        start = int(np.random.default_rng(seed).integers(self.num_examples - count + 1))
        blocks = [(start, start + count)]
        if keep == "train":
            blocks = [(0, start), (start + count, self.num_examples)]
        left = self.num_examples if num_examples is None else num_examples
        kept = []
        for first, last in blocks:
            kept.append((first, min(last, first + left)))
            left -= kept[-1][1] - first
        kept = [block for block in kept if block[0] < block[1]]
        self.read = functools.partial(self.read, blocks=kept)
        self.num_examples = sum(last - first for first, last in kept)

    def order(self, seed):
        """Elements: dicts of `image` (encoded), `label`, `id` and `draws` (23,)."""

        def draw(example):
            # By id, so that an image's draws do not depend on where the order puts it.
            own = tf.random.fold_in(tf.random.fold_in(seed, 1), example["id"])
            draws = tf.random.stateless_uniform((augmentation.RESIZED_CROP_DRAWS,), own)
            return example | {"draws": draws}

        if not self.shuffle:
            return self.read(None).map(draw)
        # tf.data mixes a shuffle's seed with its graph's, here that of this function alone: fixed,
        # or `tf.random.set_seed` would change the order; not 0, which makes it read our seed.
        tf.compat.v1.set_random_seed(1)
        own = tf.cast(tf.random.fold_in(seed, 0)[0], tf.int64)
        buffer = min(self.num_examples, SHUFFLE_BUFFER)
        examples = self.read(own).shuffle(buffer, own, reshuffle_each_iteration=False)
        return examples.map(draw)

    def batch(self, elements, batch_size, drop_remainder):
        """Batches (images, labels, ids) of the elements."""

        def prepare(example):
            make = self.crop_randomly if self.augment else self.crop_centre
            image = tf.ensure_shape(make(example), (self.size, self.size, 3))
            return image, tf.cast(example["label"], tf.int64), example["id"]

        images = elements.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return images.batch(batch_size, drop_remainder)

    def crop_randomly(self, example):
        """Decode no more than a random window, resize and flip it."""
        shape = tf.io.extract_jpeg_shape(example["image"])
        window = augmentation.choose_window(shape[0], shape[1], example["draws"])
        image = tf.io.decode_and_crop_jpeg(
            example["image"], window, channels=3, dct_method="INTEGER_ACCURATE"
        )
        image = augmentation.resize(image, self.size, self.size)
        return tf.where(example["draws"][-1] < 0.5, image[:, ::-1], image)

    def crop_centre(self, example):
        """Decode, resize the shorter side, cut the centre out."""
        image = augmentation.resize_shorter_side(decode(example["image"]), self.resized)
        return augmentation.crop_centre(image, self.size)


def decode(encoded):
    """Decode a JPEG (or PNG) to uint8 (H, W, 3) with the exact transform that PIL takes."""
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
