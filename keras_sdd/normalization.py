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
        if not (training and self.trainable):
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

    def _average(self, moving, value):
        moving.assign(moving * self.momentum + ops.cast(value, moving.dtype) * (1 - self.momentum))


def is_batch_norm(layer):
    """Whether a layer is batch normalization and no more: Keras's, or that above."""
    return is_kind(layer, "BatchNormalization") or type(layer) is BatchNorm
