"""Targets that carry what a teacher gave for each image."""

from keras_sdd.data.lazy import tf


def attach_targets(dataset, store, structure):
    """Add stored outputs of a teacher to the targets of a data set.

    Args:
        dataset: a `tf.data.Dataset` of (images, targets) or (images, targets, sample weights), the
            targets `{"labels", "ids"}`.
        store: a `keras_sdd.cell_store.CellStore` with the outputs of all its samples.
        structure: function from a dict of outputs by name to the targets that they make.

    Returns:
        A `tf.data.Dataset`.
    """

    def read(ids, images):
        return list(store.read(ids, images).values())

    def attach(images, targets, *weights):
        dtypes = list(store.dtypes.values())
        values = tf.numpy_function(read, [targets["ids"], images], dtypes)
        for value, shape in zip(values, store.shapes.values(), strict=True):
            value.set_shape((images.shape[0], *shape))
        added = structure(dict(zip(store.shapes, values, strict=True)))
        return (images, targets | added, *weights)

    attached = dataset.map(attach, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    attached = attached.prefetch(tf.data.AUTOTUNE)
    if hasattr(dataset, "epoch_counter"):
        attached.epoch_counter = dataset.epoch_counter
    return attached
