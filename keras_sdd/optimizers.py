"""The recipes' optimizer: stochastic gradient descent as PyTorch defines it."""

from typing import Any

import keras
from keras import ops

from keras_sdd._checks import check_number
from keras_sdd.typing import Config, Tensor

__all__ = ["SGD"]


@keras.saving.register_keras_serializable(package="keras_sdd")
class SGD(keras.optimizers.Optimizer):
    """SGD with momentum and L2 weight decay inside the gradient.

    g = gradient + weight_decay * w;  v = momentum * v + g;  w = w - learning_rate * v.

    `keras.optimizers.SGD` differs twice: its weight decay is decoupled from the gradient, and its
    momentum buffer holds learning rates, so that it keeps old ones after a step of the schedule.
    The decay covers every trainable variable, batch norms and biases included.

    Args:
        learning_rate: number or `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: 0 or greater.
        weight_decay: coefficient of w in the gradient, 0 or greater.
        nesterov: whether the step looks ahead, w = w - learning_rate * (g + momentum * v).
        name: of the optimizer.
        **kwargs: of `keras.optimizers.Optimizer`, for example `global_clipnorm`. Gradients are
            clipped before the decay is added.

    Raises:
        ValueError: if `momentum` or `weight_decay` is negative or not finite.

    Source: `torch.optim.SGD`, dampening 0.

    Examples:
        >>> optimizer = keras_sdd.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.5)
        >>> weight, gradient = keras.Variable(1.0), keras.ops.ones(())
        >>> for _ in range(2):  # 1 - 0.1 * 1.5, then v = 0.9 * 1.5 + 1 + 0.5 * 0.85
        ...     optimizer.apply([gradient], [weight])
        ...     print(round(float(keras.ops.convert_to_numpy(weight)), 4))
        0.85
        0.5725
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = check_number("momentum", momentum)
        # Not `weight_decay`: the base class would apply that, decoupled.
        self.coupled_weight_decay = check_number("weight_decay", weight_decay)
        self.nesterov = bool(nesterov)

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.momentums = []
        if self.momentum:
            self.momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Any) -> None:
        learning_rate = ops.cast(learning_rate, variable.dtype)
        step = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay:
            step = ops.add(step, ops.multiply(variable, self.coupled_weight_decay))
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            gradient, step = step, ops.add(ops.multiply(velocity, self.momentum), step)
            self.assign(velocity, step)
            if self.nesterov:
                step = ops.add(gradient, ops.multiply(step, self.momentum))
        self.assign_sub(variable, ops.multiply(step, learning_rate))

    def get_config(self) -> Config:
        return super().get_config() | {
            "momentum": self.momentum,
            "weight_decay": self.coupled_weight_decay,
            "nesterov": self.nesterov,
        }
