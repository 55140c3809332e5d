"""From a source to a data set whose passes are epochs.

The number of the epoch is the only state of a pipeline; how it moves on, and is set, stands here.
"""

import keras

from keras_sdd._checks import describe
from keras_sdd.data import augmentation
from keras_sdd.data.lazy import tf
from keras_sdd.typing import Dataset


class EpochCounter:
    """The epoch that the next pass over a data set reads.

    It moves on when a pass hands out its last batch, not when a pass starts: Keras looks at a batch
    or two before it trains, and makes iterators that it never uses.
    """

    def __init__(self, epoch):
        self.epoch = epoch


class FollowEpochs(keras.callbacks.Callback):
    """Set a data set to the epoch that `fit` is in, at the start of each.

    With it, a run that `BackupAndRestore` or `initial_epoch` resumes at epoch k reads what the
    unbroken run read in epoch k. `load(first_epoch=k)` does the same where k is known beforehand.

    Args:
        dataset: as `load` returned it, not one derived from it by `map`, `take` and others.

    Raises:
        ValueError: if the data set does not come straight from `load`.

    Examples:
        >>> train = keras_sdd.data.load("synthetic", "train", batch_size=128)
        >>> follow = keras_sdd.data.FollowEpochs(train)  # model.fit(train, callbacks=[follow])
        >>> follow.on_epoch_begin(7)  # as `fit` does
        >>> labels = next(iter(train))[1].numpy()
        >>> resumed = keras_sdd.data.load("synthetic", "train", batch_size=128, first_epoch=7)
        >>> bool(np.all(next(iter(resumed))[1].numpy() == labels))
        True
    """

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        counter = getattr(dataset, "epoch_counter", None)
        if not isinstance(counter, EpochCounter):
            raise ValueError(
                "`dataset` must be the data set that `keras_sdd.data.load` returned; one derived "
                f"from it does not carry its epoch. Received: dataset={describe(dataset)}"
            )
        self.counter = counter

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.counter.epoch = epoch


def read_epochs(counter, order_epoch, seed):
    """Make the data set of the elements of one pass, which depend on the epoch.

    Args:
        counter: `EpochCounter`, read when a pass starts.
        order_epoch: function from the seed of an epoch, int32 (2,), to a `tf.data.Dataset`.
        seed: integer, of the whole run.

    Returns:
        A `tf.data.Dataset` of unknown cardinality.
    """

    @tf.autograph.experimental.do_not_convert  # it warns of TFDS's decorators
    def read(_):
        # A Python number and no tf.Variable, which would live on some device, or on several.
        epoch = tf.numpy_function(lambda: counter.epoch, [], tf.int64)
        low, high = seed % 2**31, seed // 2**31 % 2**31
        return order_epoch(tf.random.fold_in(tf.constant([low, high], tf.int32), epoch))

    return tf.data.Dataset.range(1).flat_map(read)


def count_epochs(dataset, counter, batches):
    """Move `counter` on whenever `dataset`, of that many `batches`, hands out its last one."""

    def advance():
        counter.epoch += 1
        return True

    def watch(index, batch):
        last = tf.equal(index, batches - 1)
        done = tf.cond(last, lambda: tf.numpy_function(advance, [], tf.bool), lambda: False)
        with tf.control_dependencies([done]):
            return tf.nest.map_structure(tf.identity, batch)

    return dataset.enumerate().map(watch)


def build_pipeline(source, batch_size, drop_remainder, seed, first_epoch, finish):
    """Make the data set of a source.

    Args:
        source: one of `keras_sdd.data.sources`.
        batch_size, drop_remainder: of its batches.
        seed, first_epoch: of its order and augmentation.
        finish: function of a batch (images uint8, labels, ids).

    Returns:
        A `tf.data.Dataset` of known cardinality, with attributes `epoch_counter` and `num_images`.
    """
    batches = source.num_examples // batch_size
    if not drop_remainder and source.num_examples % batch_size:
        batches += 1
    counter = EpochCounter(first_epoch)
    elements = read_epochs(counter, source.order, seed)
    dataset = source.batch(elements, batch_size, drop_remainder)
    dataset = dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    dataset = count_epochs(dataset.prefetch(tf.data.AUTOTUNE), counter, batches)
    options = tf.data.Options()
    options.deterministic = True
    # Several devices split the batches: there are no files that could be split among them.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = dataset.with_options(options)
    dataset.epoch_counter = counter
    dataset.num_images = batches * batch_size if drop_remainder else source.num_examples
    return dataset


def keep_part(dataset, num_devices, num_parts, part, drop_remainder, equal_parts):
    """Keep one part of every batch of a data set.

    Args:
        dataset: `tf.data.Dataset` of batches.
        num_devices: how many devices share a batch.
        num_parts, part: how many parts a batch is cut into, and which to keep.
        drop_remainder: whether to leave out images that cannot be divided evenly among devices.
        equal_parts: whether batches must divide evenly.

    Returns:
        A `tf.data.Dataset` of as many batches, with the `epoch_counter` of `dataset` if it has one.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            "Only a tf.data.Dataset of batches can be sharded; make one of arrays with "
            "tf.data.Dataset.from_tensor_slices(...).batch(...). "
            f"Received: dataset={describe(dataset)}"
        )
    images = getattr(dataset, "num_images", 0)  # where it is known, tell now and not in an epoch
    if equal_parts and not drop_remainder and images % num_devices:
        raise ValueError(f"{_uneven(num_devices)} Received: {images} images")

    def keep(*batch):
        size = tf.shape(tf.nest.flatten(batch)[0])[0]
        whole = size - size % num_devices
        checks = []
        if drop_remainder:
            checks.append(tf.debugging.assert_positive(whole, _too_small(num_devices)))
            size = whole
        elif equal_parts:
            checks.append(tf.debugging.assert_equal(size, whole, _uneven(num_devices)))
        elif num_parts > 1:
            checks.append(tf.debugging.assert_greater_equal(size, num_parts, _too_small(num_parts)))
        with tf.control_dependencies(checks):
            start, end = size * part // num_parts, size * (part + 1) // num_parts
        batch = tf.nest.map_structure(lambda x: x[start:end], batch)
        return batch if len(batch) > 1 else batch[0]

    options = tf.data.Options()  # for TensorFlow's workers: each takes its part of every batch
    policy = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy
    result = dataset.map(keep, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    result = result.with_options(options)
    if hasattr(dataset, "epoch_counter"):
        result.epoch_counter = dataset.epoch_counter
    return result


def _too_small(num_devices):
    return (
        f"A batch, the last of an epoch perhaps, has fewer images than the {num_devices} devices "
        "that share it: choose another batch size, or drop_remainder=True in loading."
    )


def _uneven(num_devices):
    return (
        f"A batch, the last of an epoch perhaps, cannot be divided among {num_devices} devices: "
        "train with shard(dataset, drop_remainder=True), and evaluate with a batch size and a "
        "number of devices that divide the images."
    )


def make_finish(spec, dtype, data_format, with_ids, labelled_examples=None):
    """Return the function from (images, labels, ids) to what `load` hands out."""

    def finish(images, labels, ids):
        if dtype == "float32":
            images = augmentation.normalize(images, spec["mean"], spec["std"])
        if data_format == "channels_first":
            images = tf.transpose(images, (0, 3, 1, 2))
        if labelled_examples is not None:
            labels = tf.where(ids < labelled_examples, labels, -1)
        return images, {"labels": labels, "ids": ids} if with_ids else labels

    return finish
