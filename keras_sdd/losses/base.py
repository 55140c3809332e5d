"""What every distillation loss shares: float32, unreduced, checked shapes, serializable."""

import inspect

import keras
import numpy as np
from keras import ops

# Stands for the logit of a class that is left out. Finite, so that no inf - inf arises.
EXCLUDED = -1e30


class LogitLoss:
    """A distillation loss between teacher logits and student logits.

    A loss of your own is a subclass with one method, and gets its scale-decoupled form from
    `ScaleDecoupled`:

    ```python
    @keras.saving.register_keras_serializable()
    class MeanSquaredLogits(keras_sdd.losses.LogitLoss):
        def call(self, labels, teacher_logits, student_logits):
            return keras.ops.mean((teacher_logits - student_logits) ** 2, axis=-1)
    ```

    Arguments of `__init__` are kept as attributes of the same name; saving relies on it.
    """

    def __call__(self, labels, teacher_logits, student_logits):
        """Compute the loss at every leading position.

        Args:
            labels: integer tensor (...), class indices.
            teacher_logits: float tensor (..., K).
            student_logits: float tensor (..., K).

        Returns:
            float32 tensor (...), not reduced. Losses that use the labels give NaN where a label
            lies outside [0, K).

        Raises:
            ValueError: if the shapes do not fit together.
        """
        teacher_logits = ops.cast(teacher_logits, "float32")
        student_logits = ops.cast(student_logits, "float32")
        labels = to_indices(ops.convert_to_tensor(labels))
        self._check_shapes(*(tuple(x.shape) for x in (labels, teacher_logits, student_logits)))
        return self.call(labels, teacher_logits, student_logits)

    def call(self, labels, teacher_logits, student_logits):
        """Compute (...) from int32 labels (...) and float32 logits (..., K); write this one."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(labels, teacher_logits, student_logits)`."
        )

    def _check_shapes(self, labels, teacher, student):
        if not fits(teacher, student) or not fits(labels, student[:-1]):
            raise ValueError(
                "Expected labels (...) with teacher and student logits (..., K) of the same shape. "
                f"Received: labels {labels}, teacher logits {teacher}, student logits {student}"
            )

    def get_config(self):
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config):
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def soften(logits, temperature):
    """Divide logits (..., K) by the temperature, shifted so that the largest is 0.

    No loss here sees the shift; without it large logits lose their differences to rounding.
    """
    return (logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))) / temperature


def to_indices(labels):
    """Cast labels to int32, with -1 where that changes the value (fractions, NaN, overflow)."""
    indices = ops.cast(labels, "int32")
    return ops.where(ops.cast(indices, labels.dtype) == labels, indices, -1)


def target_mask(labels, num_classes):
    """Boolean mask (..., K), true at the class of the int32 `labels` (...)."""
    return ops.expand_dims(labels, -1) == ops.arange(num_classes, dtype="int32")


def nan_outside(labels, num_classes):
    """float32 tensor (...): 1 where a label lies in [0, K), else NaN, to multiply a loss by."""
    inside = ops.logical_and(labels >= 0, labels < num_classes)
    return ops.where(inside, np.float32(1.0), np.float32("nan"))


def split_target(logits, mask):
    """Split logits (..., K) into the target class and the others.

    Returns:
        The log-odds of the target against the rest (...), and the log-probabilities (..., K) of
        the other classes among themselves, where the target's entry stands for log 0.
    """
    others = ops.where(mask, EXCLUDED, logits)
    normalizer = ops.logsumexp(others, axis=-1, keepdims=True)
    target = ops.sum(ops.where(mask, logits, 0.0), axis=-1)
    return target - ops.squeeze(normalizer, -1), others - normalizer


def fits(shape, other):
    """Whether two static shapes agree, an unknown size fitting any."""
    return len(shape) == len(other) and all(
        a == b or None in (a, b) for a, b in zip(shape, other, strict=True)
    )
