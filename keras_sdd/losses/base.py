"""What every distillation loss shares: float32, unreduced, checked shapes, serializable."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_sdd.typing import Config, Shape, Tensor

_logger = logging.getLogger("keras_sdd")
# Stands for the logit of a class that is left out. Finite, so that no inf - inf arises.
EXCLUDED = -1e30


class Configurable:
    """What is made again from its arguments, which are attributes of the same names."""

    _is_fixed = False

    def get_config(self) -> Config:
        names = inspect.signature(type(self)).parameters
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise ValueError(
                f"{type(self).__name__} must keep the arguments of its __init__ as attributes of "
                f"the same names, or have a get_config of its own, to be saved. Received: no "
                f"attribute {missing[0]!r}"
            )
        return {name: getattr(self, name) for name in names}

    def fix(self) -> None:
        """Refuse new values of the arguments from now on, in the parts that have any too."""
        self._is_fixed = True
        for name in inspect.signature(type(self)).parameters:
            for part in _parts(getattr(self, name, None)):
                if isinstance(part, Configurable):
                    part.fix()

    def __setattr__(self, name: str, value: Any) -> None:
        follows = isinstance(getattr(type(self), name, None), property)
        if self._is_fixed and not follows and name in inspect.signature(type(self)).parameters:
            raise AttributeError(
                f"`{name}` is part of what a distiller runs, in which this is used already; make a "
                f"new one for a new distiller. Received: {name}={value!r} for {self!r}"
            )
        super().__setattr__(name, value)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{name: _restore(value) for name, value in config.items()})

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _parts(value: Any) -> Sequence[Any]:
    """The parts of an argument: its entries, or itself alone."""
    return value if isinstance(value, (list, tuple)) else (value,)


def _restore(value: Any) -> Any:
    """An argument from what a config holds: serialized, or made already."""
    if isinstance(value, (list, tuple)):
        return type(value)(_restore(part) for part in value)
    if isinstance(value, Configurable):
        return value
    return keras.saving.deserialize_keras_object(value)


def check_saving(part: Any) -> None:
    """Look, before a training, whether a loss or term can be saved and loaded.

    Raises:
        ValueError: if it does not keep its arguments, and would fail at the end of an epoch.
    """
    cls = type(part)
    if isinstance(part, Configurable):
        config = part.get_config()
        for value in (x for argument in config.values() for x in _parts(argument)):
            if isinstance(value, Configurable) or (callable(value) and not isinstance(value, type)):
                check_saving(value)
    elif not hasattr(part, "get_config"):
        cls = part if hasattr(part, "__name__") else cls
    known = keras.saving.get_registered_name(cls) != cls.__name__
    if not known and not cls.__module__.startswith(("keras.", "keras_sdd.")):
        _logger.warning(
            "%s is not registered: a distiller with it is saved, but loads only with "
            "custom_objects. Write @keras.saving.register_keras_serializable() above it.",
            cls.__name__,
        )


class LogitLoss(Configurable):
    """A distillation loss between teacher logits and student logits.

    A loss of your own is a subclass with one method, `call`, and gets its scale-decoupled form from
    `ScaleDecoupled`, or `keras_sdd.terms.SDD`.

    Arguments of `__init__` are kept as attributes of the same name; saving relies on it.

    Axis 0 is the batch: a loss that relates its samples sets `relates_samples = True`, gets logits
    of rank 2 or more, and gives every sample the value of the batch.

    Raises:
        ValueError: when it is called, if the shapes do not fit together.

    Examples:
        >>> @keras.saving.register_keras_serializable()
        ... class MeanSquaredLogits(keras_sdd.losses.LogitLoss):
        ...     def call(self, labels, teacher_logits, student_logits):
        ...         return keras.ops.mean((teacher_logits - student_logits) ** 2, axis=-1)
        >>> value = MeanSquaredLogits()(np.array([0]), np.array([[3.0, 1.0]]), np.zeros((1, 2)))
        >>> float(value[0])
        5.0
        >>> term = keras_sdd.terms.SDD(MeanSquaredLogits(), scales=(1, 2))
    """

    relates_samples = False

    def __call__(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
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
        arguments = as_tensors(labels, teacher_logits, student_logits)
        shapes = [tuple(x.shape) for x in arguments]
        labels_shape, teacher_shape, student_shape = shapes
        rank = 2 if self.relates_samples else 1
        if (
            len(student_shape) < rank
            or not fits(teacher_shape, student_shape)
            or not fits(labels_shape, student_shape[:-1])
        ):
            wanted = "(B, ..., K)" if self.relates_samples else "(..., K)"
            raise ValueError(
                f"Expected labels {wanted.replace(', K', '')} with teacher and student logits "
                f"{wanted} of the same shape. Received: labels {labels_shape}, teacher logits "
                f"{teacher_shape}, student logits {student_shape}"
            )
        return self.call(*arguments)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """Compute (...) from int32 labels (...) and float32 logits (..., K); write this one.

        Args:
            labels: int32 tensor (...); -1 where one was no integer.
            teacher_logits: float32 tensor (..., K).
            student_logits: float32 tensor (..., K).

        Returns:
            float32 tensor (...), not reduced.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `call(labels, teacher_logits, student_logits)`."
        )


def check_logit_loss(loss: Any) -> LogitLoss:
    """Return `loss` if it is a `LogitLoss`.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(loss, LogitLoss):
        raise ValueError(
            "`loss` must be a keras_sdd.losses.LogitLoss such as KD(), DKD() or NKD(). "
            f"Received: loss={loss!r}"
        )
    return loss


def as_tensors(labels: Tensor, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels as int32 indices, logits of both networks as float32."""
    teacher, student = (ops.cast(x, "float32") for x in (teacher, student))
    return to_indices(ops.convert_to_tensor(labels)), teacher, student


def as_cells(labels: Tensor, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`as_tensors` of labels (B,) and the cells (B, N, K) of both networks.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    labels, teacher, student = as_tensors(labels, teacher, student)
    shapes = [tuple(x.shape) for x in (labels, teacher, student)]
    if len(shapes[2]) != 3 or not fits(*shapes[1:]) or not fits(shapes[0], shapes[2][:1]):
        raise ValueError(
            "Expected labels (B,) with teacher and student cells (B, N, K) of the same shape. "
            "Received: labels {}, teacher cells {}, student cells {}".format(*shapes)
        )
    return labels, teacher, student


class _Average(keras.losses.Loss):
    def call(self, values: Tensor, _: Any) -> Tensor:
        return values


_average = _Average(name="average", dtype="float32")


def average(values: Tensor, sample_weight: Tensor = None) -> Tensor:
    """Average values (B,) as Keras does those of a loss: weighted, a replica's share of them."""
    return _average(values, values, sample_weight)


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits (..., K) by the temperature, shifted so that the largest is 0.

    No loss here sees the shift; without it large logits lose their differences to rounding.
    """
    return (logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))) / temperature


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Kullback-Leibler divergence (...) between log-probabilities (..., K)."""
    return ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def binary_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Divergence (...) between two probabilities of "yes or no", from their log-odds (...)."""
    yes = ops.sigmoid(teacher) * (ops.log_sigmoid(teacher) - ops.log_sigmoid(student))
    no = ops.sigmoid(-teacher) * (ops.log_sigmoid(-teacher) - ops.log_sigmoid(-student))
    return yes + no


def repeat_for_samples(value: Any, labels: Tensor) -> Tensor:
    """Give every sample of `labels` (B, ...) the value (...) of its batch."""
    return ops.zeros_like(labels, dtype="float32") + value


def to_indices(labels: Tensor) -> Tensor:
    """Cast labels to int32, with -1 where that changes the value (fractions, NaN, overflow)."""
    indices = ops.cast(labels, "int32")
    return ops.where(ops.cast(indices, labels.dtype) == labels, indices, -1)


def target_mask(labels: Tensor, num_classes: int) -> Tensor:
    """Boolean mask (..., K), true at the class of the int32 `labels` (...)."""
    return ops.expand_dims(labels, -1) == ops.arange(num_classes, dtype="int32")


def nan_outside(labels: Tensor, num_classes: int) -> Tensor:
    """float32 tensor (...): 1 where a label lies in [0, K), else NaN, to multiply a loss by."""
    inside = ops.logical_and(labels >= 0, labels < num_classes)
    return ops.where(inside, np.float32(1.0), np.float32("nan"))


def split_target(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Split logits (..., K) into the target class and the others.

    Returns:
        The log-odds of the target against the rest (...), and the log-probabilities (..., K) of
        the other classes among themselves, where the target's entry stands for log 0.
    """
    others = ops.where(mask, EXCLUDED, logits)
    normalizer = ops.logsumexp(others, axis=-1, keepdims=True)
    target = ops.sum(ops.where(mask, logits, 0.0), axis=-1)
    return target - ops.squeeze(normalizer, -1), others - normalizer


def fits(shape: Shape, other: Shape) -> bool:
    """Whether two static shapes agree, an unknown size fitting any."""
    return len(shape) == len(other) and all(
        a == b or None in (a, b) for a, b in zip(shape, other, strict=True)
    )
