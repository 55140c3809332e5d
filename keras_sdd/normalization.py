"""Batch normalization with PyTorch's moving variance, in one kernel where the backend has it."""

import keras
from keras import layers, ops

from keras_sdd._backend import batch_norm
from keras_sdd.graphs import is_kind


@keras.saving.register_keras_serializable(package="keras_sdd")
class BatchNorm(layers.BatchNormalization):
    """Batch normalization whose moving variance is PyTorch's: that of n - 1 in n values.

    Keras averages the variance that it normalizes with, of n values, which is less by a part of
    1 / n. Takes the arguments of `keras.layers.BatchNormalization`.
    """

    def call(self, inputs, training=None, mask=None):
        training = training and self.trainable
        if self._is_exact(training and mask is not None):
            return self._call_in_float64(inputs, training)
        if not training or _renormalizes(self):
            return super().call(inputs, training=training, mask=mask)
        fused = None if mask is not None else self._normalize(inputs)
        if fused is not None:
            outputs, mean, variance = fused
            self._average(self.moving_mean, mean)
            self._average(self.moving_variance, variance)
            return outputs
        kept = ops.multiply(self.moving_variance, self.momentum)
        outputs = super().call(inputs, training=training, mask=mask)
        size = ops.cast(ops.size(inputs) // inputs.shape[self.axis], kept.dtype)
        added = ops.subtract(self.moving_variance, kept)
        unbiased = ops.multiply(added, size / ops.maximum(size - 1.0, 1.0))
        self.moving_variance.assign(ops.add(kept, unbiased))
        return outputs

    def _normalize(self, inputs):
        """Outputs and statistics from a kernel of the backend's, or None if it has none."""
        if self.gamma is None or self.beta is None or self.compute_dtype == "float64":
            return None
        gamma, beta = (ops.cast(x, "float32") for x in (self.gamma, self.beta))
        fused = batch_norm(ops.cast(inputs, "float32"), self.axis, gamma, beta, self.epsilon)
        return None if fused is None else (ops.cast(fused[0], self.compute_dtype), *fused[1:])

    def _is_exact(self, masked):
        return self.compute_dtype == "float64" and not masked and not _renormalizes(self)

    def _call_in_float64(self, inputs, training):
        """What Keras rounds to float32, except on TensorFlow."""
        inputs = ops.cast(inputs, "float64")
        axis = self.axis % len(inputs.shape)
        mean, variance = map(ops.convert_to_tensor, (self.moving_mean, self.moving_variance))
        if training:
            options = {"axes": [i for i in range(len(inputs.shape)) if i != axis], "keepdims": True}
            options["synchronized"] = self.synchronized
            mean, _ = ops.moments(inputs, **options)
            # Of the differences: the square of a large mean would cost the variance its digits.
            _, variance = ops.moments(inputs - mean, **options)
            mean, variance = (ops.reshape(x, (-1,)) for x in (mean, variance))
            size = ops.size(inputs) // inputs.shape[axis]
            others = ops.cast(ops.maximum(size - 1, 1), "float64")
            self._average(self.moving_mean, mean)
            self._average(self.moving_variance, variance * (ops.cast(size, "float64") / others))
        gamma, beta = (
            None if x is None else ops.convert_to_tensor(x) for x in (self.gamma, self.beta)
        )
        return ops.batch_normalization(inputs, mean, variance, axis, beta, gamma, self.epsilon)

    def _average(self, moving, value):
        # A tensor times a number: a variable would round the number to float32 on PyTorch.
        kept = ops.convert_to_tensor(moving) * self.momentum
        moving.assign(kept + ops.cast(value, moving.dtype) * (1 - self.momentum))


def is_batch_norm(layer):
    """Whether a layer is batch normalization and no more: Keras's, or that above."""
    return is_kind(layer, "BatchNormalization") or type(layer) is BatchNorm


def _renormalizes(norm):
    return getattr(norm, "renorm", False)  # of newer versions of Keras


def is_plain_batch_norm(layer):
    """Whether, besides, it normalizes with the statistics of the batch in training."""
    return is_batch_norm(layer) and not _renormalizes(layer)
