"""CTKD: distillation of logits at a temperature that is learned against the student."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdd._checks import check_integers, check_number
from keras_sdd.losses import KD
from keras_sdd.terms.base import add_scalar
from keras_sdd.terms.sdd import SDD
from keras_sdd.typing import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class CTKD(SDD):
    """Curriculum temperature: `SDD` with a temperature that is learned to make the term greater.

    T = lowest + span * sigmoid(theta); the term is T^2 * loss(cells / T) of both networks. Theta is
    trained with the student, but its gradient is multiplied by a factor that goes from 0 to -1, by
    a cosine over `ramp_steps`: theta ascends. The optimizer's weight decay acts on it too.

    Besides what `SDD` logs, it logs `temperature`; under another name than the default one that
    begins with the name.

    Args:
        loss: as for `SDD`, at the temperature 1; `KD(temperature=1.0)` if None.
        scales: the scales M; (1,), the logits of the whole image, is the authors' method.
        consistent_weight: as for `SDD`.
        complementary_weight: as for `SDD`.
        consistency: as for `SDD`.
        pooling: as for `SDD`.
        reduction: as for `SDD`.
        start: theta before the first step; T is 15.6 then by default.
        lowest: lower bound of T, greater than 0.
        span: how far above that T may come, 0 or greater.
        ramp_steps: number of training steps to the whole factor: step k, counted from 1, has
            -(1 - cos(pi * min(k / ramp_steps, 1))) / 2. 0 for -1 from the first one on.
        weight: as for `Term`.
        warmup_steps: as for `Term`.
        name: as for `Term`.

    Raises:
        ValueError: for options that do not fit; the message says what was received.

    Source: Li et al., "Curriculum Temperature for Knowledge Distillation" (AAAI 2023), with the
    global temperature.

    Examples:
        >>> term = keras_sdd.terms.CTKD(start=0.0, lowest=1.0, span=20.0, ramp_steps=2)
        >>> round(float(keras.ops.convert_to_numpy(term.temperature)), 2)  # 1 + 20 sigmoid(0)
        11.0
        >>> round(float(term.gradient_factor), 2)  # of the first step
        -0.5
    """

    def __init__(
        self,
        loss: Callable[..., Tensor] | None = None,
        scales: Sequence[int] = (1,),
        consistent_weight: float = 1.0,
        complementary_weight: float = 2.0,
        consistency: str = "label",
        pooling: str = "direct",
        reduction: str = "mean",
        start: float = 1.0,
        lowest: float = 1.0,
        span: float = 20.0,
        ramp_steps: int = 0,
        weight: float = 1.0,
        warmup_steps: int = 0,
        name: str = "ctkd_loss",
    ) -> None:
        super().__init__(
            KD(temperature=1.0) if loss is None else loss, scales, consistent_weight,
            complementary_weight, consistency, pooling, reduction, weight, warmup_steps, name,
        )  # fmt: skip
        self.start = _check_start(start)
        self.lowest = check_number("lowest", lowest, positive=True)
        self.span = check_number("span", span)
        check_integers(0, ramp_steps=ramp_steps)
        self.ramp_steps = int(ramp_steps)
        self.theta = self.add_weight(
            name="theta", shape=(), initializer=keras.initializers.Constant(self.start),
            dtype="float32", autocast=False,
        )  # fmt: skip
        self._ramp_step = add_scalar(self, "ramp_step", 0.0)
        prefix = "" if self.name == "ctkd_loss" else f"{self.name}_"
        self._temperature = keras.metrics.Mean(name=f"{prefix}temperature")

    @property
    def temperature(self) -> Tensor:
        """T, of now: a tensor ()."""
        theta = ops.convert_to_tensor(self.theta)
        return self.lowest + self.span * ops.sigmoid(theta)

    @property
    def gradient_factor(self) -> Tensor:
        """What the next step multiplies the gradient of theta by, from 0 to -1: a tensor ()."""
        if not self.ramp_steps:
            return ops.convert_to_tensor(np.float32(-1.0))
        part = ops.minimum((self._ramp_step + 1.0) / self.ramp_steps, 1.0)
        return (ops.cos(math.pi * part) - 1.0) / 2.0

    def call(
        self, teacher: dict[str, Tensor], student: dict[str, Tensor], targets: dict[str, Any]
    ) -> Tensor:
        temperature, factor = self.temperature, self.gradient_factor
        self._temperature.update_state(temperature)
        fixed = ops.stop_gradient(temperature)
        temperature = fixed + factor * (temperature - fixed)
        teacher, student = (
            x | {"cells": ops.cast(x["cells"], "float32") / temperature} for x in (teacher, student)
        )
        return temperature**2 * super().call(teacher, student, targets)

    def _advance(self) -> Tensor:
        if self.ramp_steps:
            self._ramp_step.assign(ops.minimum(self._ramp_step + 1.0, self.ramp_steps))
        return super()._advance()

    def get_config(self) -> Config:
        names = ("start", "lowest", "span", "ramp_steps")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _check_start(start: Any) -> float:
    try:
        number = math.nan if isinstance(start, (bool, str)) else float(start)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`start` must be a finite number. Received: start={start!r}")
    return number
