"""What of a distiller trains, what several devices average, and what is saved beside weights."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_sdd import _backend


class StudentState(keras.Model):
    """A model of which a student and terms train, and a teacher does not.

    A subclass has `teacher`, `student`, `terms`, the variable `student_loss_weight`, and `_frozen`,
    a `FrozenTeacher`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._loaded_random_state: dict[str, np.ndarray] = {}

    # The teacher is frozen whatever `trainable` says of it: student and terms train.

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        parts = (self.student, *self.terms) if self.trainable else ()
        return [v for part in parts for v in part.trainable_variables]

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        # Of the teacher, those that the step reads.
        others = _without(self.variables, self.trainable_variables + self.teacher.variables)
        return others + self._frozen.variables

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        return self.trainable_variables

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        return _without(self.weights, self.trainable_weights)

    @property
    def moving_statistics(self) -> list[keras.Variable]:
        """Variables that devices average, as each sees its own part of a batch."""
        layers = [x for term in self.terms for x in term._flatten_layers(include_self=False)]
        norms = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
        parts = (self.student, *norms)
        return [v for part in parts for v in part.non_trainable_variables]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of PyTorch, as its trainer asks for in every step.

        Keras's own would look for some in the teacher, too.
        """
        for variable in self.trainable_variables:
            variable.value.grad = None

    # Keras saves no state of random layers; a run with dropout resumes exactly only with it.

    def _random_state(self) -> dict[str, Any]:
        parts = (self.student, *self.terms)
        seeds = [v for part in parts for v in _without(part.variables, part.weights)]
        return {f"random_state_{i}": seed for i, seed in enumerate(seeds)}

    def save_own_variables(self, store: Any) -> None:
        seeds = self._random_state()
        for name, variable in seeds.items():
            store[name] = variable
        for name, array in _backend.get_random_state().items() if seeds else ():
            store[name] = array
        store["student_loss_weight"] = self.student_loss_weight

    def load_own_variables(self, store: Any) -> None:
        for name, variable in self._random_state().items():
            variable.assign(store[name])
        self.student_loss_weight.assign(store["student_loss_weight"])
        names = store.keys() & _backend.get_random_state().keys()
        self._loaded_random_state = {name: np.array(store[name]) for name in names}
        _backend.set_random_state(self._loaded_random_state)


def _without(
    variables: Iterable[keras.Variable], left_out: Iterable[keras.Variable]
) -> list[keras.Variable]:
    ids = {id(v) for v in left_out}
    return [v for v in variables if id(v) not in ids]
