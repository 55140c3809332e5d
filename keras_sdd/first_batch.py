"""A look at the first batch of a data set before training, which loses no batch.

A `tf.data.Dataset` begins one more pass for it: where each is shuffled anew, fit has the next.
"""

import itertools
import types

import keras

from keras_sdd import _backend


def peek(x, y=None):
    """Look at what `fit` is given.

    Args:
        x, y: as in `keras.Model.fit`.

    Returns:
        What to give `fit` in the place of `x`; the images of a first batch, or None; and all labels
        where they are at hand, else those of the batch, or None.
    """
    if isinstance(x, types.GeneratorType):
        first = next(x, None)
        if first is None:
            return x, None, None
        return _chain(first, x), *_split(first)
    if isinstance(x, keras.utils.PyDataset):
        return x, *_split(x[0])
    if hasattr(x, "element_spec") and not hasattr(x, "as_numpy_iterator"):
        return x, None, None  # of several devices: no batch of it is one
    is_array = hasattr(x, "shape") or isinstance(x, (dict, list, tuple))
    if is_array or not hasattr(x, "__iter__"):
        return x, x, y
    state = _backend.get_random_state()  # a loader draws its order when it is asked for a batch
    first = next(iter(x), None)
    _backend.set_random_state(state)
    return x, *_split(first)


def _chain(first, others):
    yield from itertools.chain([first], others)


def _split(batch):
    """Images and targets of a batch."""
    if batch is None:
        return None, None
    x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    return x, y
