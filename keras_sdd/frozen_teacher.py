"""The frozen teacher: whether it fits a student, and what runs of it in a training step.

What stands for a teacher without being a model, as a `keras_sdd.StoredTeacher`, is a Keras layer
with two methods: `check_student(student)`, and `open_network()`, which gives what terms read of it,
with the members of `Network` and `freeze`. That in turn gives what has the members of
`FrozenTeacher`.
"""

import logging
from typing import Any

import keras
import numpy as np

from keras_sdd import _backend
from keras_sdd.folding import InferenceCopy, compare
from keras_sdd.graphs import structure
from keras_sdd.heads import check_classifier, class_logits
from keras_sdd.losses.base import fits
from keras_sdd.networks import Network, with_size_of

_logger = logging.getLogger("keras_sdd")


def check_pair(teacher, student):
    """Raise a ValueError if the two models cannot be teacher and student of each other."""
    if hasattr(teacher, "check_student"):
        return teacher.check_student(student)
    check_classifier(teacher)
    check_classifier(student)
    shared = {id(v) for v in teacher.weights} & {id(v) for v in list_trained(student)}
    if shared:
        names = [v.path for v in student.weights if id(v) in shared]
        raise ValueError(
            "Teacher and student must be different models, with no common weights that training "
            "changes, as the teacher is frozen. Give one of them a copy: "
            'model.save("copy.keras"); copy = keras.saving.load_model("copy.keras"). Or freeze '
            "what is common (layer.trainable = False). Received: "
            f"{len(names)} common weights, the first {names[0]!r}"
        )
    classes = [class_logits(model).shape[-1] for model in (teacher, student)]
    if classes[0] != classes[1]:
        raise ValueError(
            "Teacher and student must have the same number of classes. Received: teacher "
            f"{classes[0]}, student {classes[1]}"
        )
    inputs = [structure(model)[0] for model in (teacher, student)]
    names = [sorted(x) if isinstance(x, dict) else None for x in inputs]
    if names[0] != names[1] and (None not in names or len(teacher.inputs) > 1):
        raise ValueError(
            "Teacher and student must take inputs of the same names; wrap one of them: "
            "keras.Model({NAME: x}, model({OTHER_NAME: x})) with x = keras.Input(shape). Received: "
            f"teacher {names[0]}, student {names[1]}"
        )
    shapes = [[tuple(x.shape) for x in model.inputs] for model in (teacher, student)]
    if len(shapes[0]) != len(shapes[1]) or not all(map(fits, *shapes)):
        raise ValueError(
            "Teacher and student must take the same input shape; put a resizing layer in front of "
            f"one of them. Received: teacher {shapes[0]}, student {shapes[1]}"
        )


def list_trained(model):
    """The weights that training changes: trainable ones, and moving statistics."""
    layers = [x for x in model._flatten_layers() if x.trainable]
    norms = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
    return model.trainable_weights + [v for x in norms for v in x.non_trainable_weights]


def open_network(teacher, student):
    """What terms read of a teacher, for images of a student's size."""
    if hasattr(teacher, "open_network"):
        return teacher.open_network()
    return _TeacherNetwork(with_size_of(teacher, student), frozen=True)


class _TeacherNetwork(Network):
    def freeze(self, read, fold=True, dtype=None):
        """What runs of the teacher in a step, for what the terms read of it."""
        return FrozenTeacher(self.select(read), fold, dtype)


class FrozenTeacher:
    """What runs of a teacher in a training step: the tensors that the terms read, and no more.

    Read first, then folded: what a term reads is the value of the layer that it names. It is the
    teacher of now in every step, whatever changes its weights. A plain object, so that Keras tracks
    the teacher that the user gave alone.

    Args:
        network: functional model of the tensors that are read, on the teacher's own layers.
        fold: whether its batch norms are folded.
        dtype: `"float32"`, `"bfloat16"`, `"float16"`, or None for that of the teacher's layers.

    Attributes:
        copy: the `InferenceCopy` that runs; None if the teacher's own layers do.
        outputs: those of the network, symbolic, in a nested dict.
        model: what runs, as a model of its own.
        takes_cells: whether targets named `"teacher_cells"` are for it.
    """

    takes_cells = False

    def __init__(self, network, fold=True, dtype=None):
        self.outputs = network.output
        self._given, self._dtype = network, dtype
        self.copy = _copy_for_inference(network, fold, dtype)
        self._is_checked = self.copy is None or self.copy.is_certain
        self._versions: Any = None
        self.model = Undisturbed(network, self.copy)

    @property
    def variables(self):
        """Those that the step reads."""
        return self.model.variables

    def follow(self, anyway=False):
        """Bring copied weights up to date where the step does not compute them itself.

        With `anyway` also where no version tells of a change, as after an exchange of devices.
        """
        if self.copy is not None and _backend.TELLS_VERSIONS:
            versions = _backend.read_versions(self.copy.variables)
            if anyway or versions != self._versions:
                self.copy.refresh()
                self._versions = versions

    def complete(self, distiller, state, x, targets):
        """Targets with what the terms read of the teacher, as `"teacher"`.

        Args:
            distiller: in whose training step it is.
            state: what Keras hands the step before the data.
            x: images of the batch.
            targets: dict; where it has them, the teacher does not run.
        """
        if "teacher" in targets:
            return targets
        x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        return targets | {"teacher": _backend.run_teacher(distiller, self, state, x)}

    def check(self, x, targets=None):
        """Compare the copy with the teacher once, on some images `x`; without it where they differ.

        Returns:
            Whether the copy was given up.
        """
        if self._is_checked:
            return False
        self._is_checked = True
        self.follow()
        images = keras.tree.map_structure(lambda y: keras.ops.convert_to_tensor(y[:2]), x)
        error = compare(self.model, self._given, images)
        limit = 1e-3 if self._dtype in (None, "float32") else 0.2
        if error <= limit:
            return False
        reason = "as some layer is more than its config and weights"
        if self._dtype == "float16" and not np.isfinite(error):
            reason = "as float16 ends at 65504; try bfloat16"
        _logger.warning(
            "The teacher %r is used as given: a copy of it for inference has outputs that differ by"
            " %.2g of the largest, %s.",
            self._given.name, error, reason,
        )  # fmt: skip
        self.copy = None
        self.model = Undisturbed(self._given)
        return True

    def predict(self, x):
        """Outputs for a batch: NumPy arrays in float32, structured as those of the network."""
        self.check(x)
        self.follow()
        outputs = self.model.predict_on_batch(x)
        size = len(keras.tree.flatten(x)[0])
        # Every replica of a TensorFlow strategy computes the whole batch.
        return keras.tree.map_structure(
            lambda y: np.asarray(keras.ops.convert_to_numpy(y[:size]), "float32"), outputs
        )


class Undisturbed(keras.Model):
    """A frozen model that computes with weights of now, and changes none whatever a layer does.

    Args:
        model: the functional model.
        copy: the `InferenceCopy` that runs in its place; None for the model itself.
    """

    def __init__(self, model, copy=None):
        super().__init__(name=model.name, autocast=False)
        self.copy = copy
        self._model = model if copy is None else copy.model
        self.built = True

    def call(self, inputs, training=False):
        # Of an outer scope, on JAX: the values of the step.
        values = [(v, v.value) for v in self._model.variables]
        if self.copy is not None and not _backend.TELLS_VERSIONS:
            values += self.copy.compute()
        with keras.StatelessScope(state_mapping=values):
            return self._model(inputs, training=False)

    @property
    def variables(self):
        if self.copy is None:
            return self._model.variables
        kept = self._model.variables if _backend.TELLS_VERSIONS else []
        return list({id(v): v for v in (*kept, *self.copy.variables)}.values())

    @property
    def trainable_variables(self):
        return []

    @property
    def non_trainable_variables(self):
        return self.variables


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
