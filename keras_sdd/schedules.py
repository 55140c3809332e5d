"""The recipes' learning rates."""

from collections.abc import Sequence

import keras

from keras_sdd._checks import check_number

__all__ = ["step_learning_rate"]


def step_learning_rate(
    initial: float, milestones: Sequence[float], steps_per_epoch: int, factor: float = 0.1
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that is multiplied by `factor` at each milestone.

    Args:
        initial: learning rate of the first epoch.
        milestones: numbers of finished epochs after which it drops, ascending, such as
            (150, 180, 210).
        steps_per_epoch: training steps in an epoch.
        factor: what each milestone multiplies by.

    Returns:
        A `keras.optimizers.schedules.PiecewiseConstantDecay`.

    Raises:
        ValueError: if the numbers are not positive or the milestones do not ascend.

    Examples:
        >>> schedule = keras_sdd.schedules.step_learning_rate(0.05, (150, 180), steps_per_epoch=10)
        >>> [round(float(schedule(step)), 5) for step in (1499, 1500, 1800)]
        [0.05, 0.005, 0.0005]
    """
    for name, value in (("initial", initial), ("factor", factor), ("steps", steps_per_epoch)):
        check_number(name, value, positive=True)
    if list(milestones) != sorted(set(milestones)) or any(m <= 0 for m in milestones):
        raise ValueError(
            f"`milestones` must be positive and ascend. Received: milestones={milestones!r}"
        )
    # Keras holds a value up to and including its boundary, and counts steps from 0.
    boundaries = [int(m * steps_per_epoch) - 1 for m in milestones]
    values = [initial * factor**i for i in range(len(boundaries) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
