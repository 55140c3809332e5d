"""What labels do in a step: their loss, its mean over those that are there, weights of classes."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdd.losses.labels import (
    check_labels,
    class_indices,
    find_fraction,
    find_ignored,
    replace_labels,
    tabulate_weights,
)


class Supervision:
    """The loss on the labels of a batch of which some images, or all, may have none.

    Args:
        num_classes: K.
        ignore_class: the label of images without one; None if all have one.

    Attributes:
        loss: a loss of Keras, or a function of labels and logits; of `compile`.
        metrics: what `compile` was given, by argument.
    """

    def __init__(self, num_classes, ignore_class=None):
        self.num_classes, self.ignore_class = num_classes, ignore_class
        self.loss: Any = None
        self.metrics: dict = {}
        self._class_weights: Any = None

    def check(self, labels):
        """Raise a ValueError if labels are wrong, with the first of them."""
        check_labels(labels, self.num_classes, self.ignore_class)

    def compute(self, labels, logits, sample_weight=None, average=lambda x: x):
        """The loss of a batch: (); 0 without any label.

        Args:
            labels, logits, sample_weight: of the batch; labels None for none.
            average: function that averages a number over the devices that share a step.
        """
        if labels is None:
            return ops.zeros((), "float32")
        loss = self.loss if isinstance(self.loss, keras.losses.Loss) else _OfFunction(self.loss)
        if self.ignore_class is None:
            return loss(labels, logits, sample_weight)
        labels, ignored = self._find_ignored(labels)
        # Any class will do for what has no weight.
        labels = replace_labels(labels, ignored, ops.zeros_like(ignored, "int32"), self.num_classes)
        labelled = ops.logical_not(ignored)
        weights = ops.cast(labelled, "float32")
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        if loss.reduction in ("mean", "sum_over_batch_size"):
            fraction = average(find_fraction(labelled))
            weights = weights / ops.where(fraction > 0, fraction, 1.0)
        return loss(labels, logits, weights)

    def fill(self, labels, teacher_logits):
        """Labels (B,), or rows (B, K), with the teacher's class where there is none."""
        predicted = ops.cast(ops.argmax(teacher_logits, axis=-1), "int32")
        if labels is None:
            return predicted
        labels, ignored = self._find_ignored(labels)
        return replace_labels(labels, ignored, predicted, self.num_classes)

    def set_class_weight(self, class_weight):
        """Weigh samples by class from now on, None for not; return whether that is new."""
        weights: Any = tabulate_weights(class_weight, self.num_classes)
        is_new = not np.array_equal(weights, self._class_weights)
        self._class_weights = weights
        return is_new

    def weigh(self, labels, sample_weight):
        """The weights (B,) of samples: those given, or those of their classes."""
        table = self._class_weights
        if table is None or labels is None:
            return sample_weight
        if sample_weight is not None:
            raise ValueError(
                "Samples are weighed by sample_weight or by class_weight, not by both. Received: "
                "both"
            )
        labels = ops.convert_to_tensor(labels)
        indices = ops.clip(class_indices(labels, self.num_classes), 0, self.num_classes - 1)
        weights = ops.take(ops.convert_to_tensor(table), indices)
        if self.ignore_class is None:
            return weights
        return ops.where(self._find_ignored(labels)[1], 1.0, weights)

    def _find_ignored(self, labels):
        labels = ops.convert_to_tensor(labels)
        return labels, find_ignored(labels, self.ignore_class, self.num_classes)


class _OfFunction(keras.losses.Loss):
    """A loss function, called with labels and logits in float32, as Keras calls it."""

    def __init__(self, function):
        super().__init__(name="student_loss", dtype="float32")
        self.function = function

    def call(self, labels, logits):
        return self.function(labels, logits)
