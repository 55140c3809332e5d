"""The frozen teacher: whether it fits a student, and what runs of it in a training step."""

import logging

import keras
import numpy as np

from keras_sdd.folding import InferenceCopy
from keras_sdd.heads import check_classifier, class_logits
from keras_sdd.losses.base import fits

_logger = logging.getLogger("keras_sdd")


def check_pair(teacher, student):
    """Raise a ValueError if the two models cannot be teacher and student of each other."""
    check_classifier(teacher)
    check_classifier(student)
    shared = {id(v): v for v in teacher.weights}.keys() & {id(v) for v in student.weights}
    if shared:
        names = [v.path for v in student.weights if id(v) in shared]
        raise ValueError(
            "Teacher and student must be different models without common weights, as the teacher "
            f"is frozen and the student trained; copy one with keras.models.clone_model. "
            f"Received: {len(names)} common weights, the first {names[0]!r}"
        )
    classes = [class_logits(model).shape[-1] for model in (teacher, student)]
    if classes[0] != classes[1]:
        raise ValueError(
            "Teacher and student must have the same number of classes. Received: teacher "
            f"{classes[0]}, student {classes[1]}"
        )
    shapes = [[tuple(x.shape) for x in model.inputs] for model in (teacher, student)]
    if len(shapes[0]) != len(shapes[1]) or not all(map(fits, *shapes)):
        raise ValueError(
            "Teacher and student must take the same input shape; put a resizing layer in front of "
            f"one of them. Received: teacher {shapes[0]}, student {shapes[1]}"
        )


class FrozenTeacher:
    """What runs of a teacher in a training step: the tensors that the terms read, and no more.

    Read first, then folded: what a term reads is the value of the layer that it names. A plain
    object, so that Keras tracks the teacher that the user gave alone.

    Args:
        network: functional model of the tensors that are read, on the teacher's own layers.
        fold: whether its batch norms are folded.
        dtype: `"float32"`, `"bfloat16"`, `"float16"`, or None for that of the teacher's layers.

    Attributes:
        network: the model that runs.
        copy: the `InferenceCopy` that it belongs to; None if it runs on the teacher's own layers.
    """

    def __init__(self, network, fold=True, dtype=None):
        self.copy = _copy_for_inference(network, fold, dtype)
        self.network = network if self.copy is None else self.copy.model
        self._is_stale = False

    @property
    def variables(self):
        """Those that the step reads."""
        return self.network.variables

    @property
    def is_stale(self):
        """Whether weights were loaded into the teacher that the folded ones do not know of."""
        return self._is_stale

    def expire(self):
        """Say that the teacher's weights have changed: the next use computes the folded ones."""
        self._is_stale = True

    def refresh(self):
        """Compute the folded weights from the teacher's of now."""
        self._is_stale = False
        if self.copy is not None:
            self.copy.refresh()

    def predict(self, x):
        """Outputs for a batch: NumPy arrays in float32, structured as those of the network."""
        if self._is_stale:
            self.refresh()
        outputs = self.network.predict_on_batch(x)
        size = len(keras.tree.flatten(x)[0])
        # Every replica of a TensorFlow strategy computes the whole batch.
        return keras.tree.map_structure(
            lambda y: np.asarray(keras.ops.convert_to_numpy(y[:size]), "float32"), outputs
        )


def _copy_for_inference(network, fold, dtype):
    """Return an `InferenceCopy` of a teacher's network, or None where it would change nothing."""
    if not fold and dtype is None:
        return None
    try:
        copy = InferenceCopy(network, dtype, fold)
    except Exception as error:  # whatever a layer of others does when it is called once more
        if dtype is not None:
            raise
        # Folding is a matter of speed: what it cannot take is left as it is.
        _logger.warning("The teacher %r is used as given, not folded: %s", network.name, error)
        return None
    if fold:
        _logger.info("Teacher %r: %d batch norms folded.", network.name, copy.num_folded)
    return copy if copy.num_folded or dtype is not None else None
