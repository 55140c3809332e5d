"""`SDDDistiller`: a Keras model that trains a student with a teacher's cells."""

import types

import keras
import numpy as np
from keras import ops

from keras_sdd import _backend
from keras_sdd._checks import check_loss, check_number, check_scales, check_word
from keras_sdd.distribution import check_prepared
from keras_sdd.heads import class_logits, expose_cells
from keras_sdd.losses import KD, CrossEntropy, ScaleDecoupled
from keras_sdd.losses.cross_entropy import class_indices
from keras_sdd.teachers import check_pair, prepare_teacher

_TRACKED = ("student_loss", "distillation_loss", "complementary_fraction", "teacher_agreement")


class _Reduction(keras.losses.Loss):
    """Reduces per-sample values as Keras reduces any loss: weights, batch mean, replicas."""

    def call(self, values, _):
        return values


@keras.saving.register_keras_serializable(package="keras_sdd")
class SDDDistiller(keras.Model):
    """Trains a student classifier with labels and with a frozen teacher's regional logits.

    The loss is student_loss_weight * (loss given to `compile`) + distillation_weight *
    `ScaleDecoupled(distillation_loss)` + the student's own regularization (eq. 11 of the SDD
    paper). `evaluate` and `predict` run the student alone and see its class logits.

    Logged in training, besides the metrics of `compile`: `loss`; its terms, weighted,
    `student_loss` and `distillation_loss`; `complementary_fraction`, the part of the cells that is
    complementary; `teacher_agreement`, the part of the samples for which teacher and student
    predict the same class.

    Args:
        teacher, student: built functional or Sequential Keras classifiers of the same input shape
            and classes, or models with outputs `{"logits", "spatial_logits"}`, as
            `keras_sdd.expose_spatial_logits` makes them. The teacher is never changed.
        distillation_loss: a `keras_sdd.losses.LogitLoss`; `KD()` if None.
        scales: the scales M. (1,) is plain KD, DKD or NKD, for any classifier.
        consistent_weight, complementary_weight: weights of the two kinds of cells; the second is
            beta of the paper.
        consistency, reduction: as for `keras_sdd.losses.ScaleDecoupled`.
        pooling: as for `keras_sdd.pool_cells`.
        student_loss_weight: weight of the loss on the labels.
        distillation_weight: weight of the distillation term; alpha of the paper.
        warmup_steps: number of training steps over which the distillation weight grows linearly:
            step k, counted from 1, has min(k / warmup_steps, 1) of it. 0 for none.
        fold_teacher: whether a copy of the teacher runs in training that has its batch norms
            folded into other layers, as by `keras_sdd.fold_batch_norm`. Where a layer stands in
            the way, it runs as given. Told at level INFO of the logger "keras_sdd".
        teacher_dtype: `"float32"`, `"bfloat16"` or `"float16"`, the precision in which the teacher
            runs in training; None for that of its layers.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: for models or options that do not fit; the message says what was received.

    Source: "Scale Decoupled Distillation" (CVPR 2024).
    """

    def __init__(
        self,
        teacher,
        student,
        distillation_loss=None,
        scales=(1, 2, 4),
        consistent_weight=1.0,
        complementary_weight=2.0,
        consistency="label",
        pooling="direct",
        reduction="mean",
        student_loss_weight=1.0,
        distillation_weight=1.0,
        warmup_steps=0,
        fold_teacher=True,
        teacher_dtype=None,
        **kwargs,
    ):
        check_pair(teacher, student)
        # The policy decides on loss scaling; casting the inputs is left to the models.
        super().__init__(**{"dtype": student.dtype_policy, "autocast": False} | kwargs)
        self.teacher = teacher
        self.student = student
        self.scales = check_scales(scales)
        self.pooling = check_word("pooling", pooling, ("direct", "nested"))
        self.scale_decoupled_loss = ScaleDecoupled(
            KD() if distillation_loss is None else distillation_loss,
            consistent_weight,
            complementary_weight,
            consistency,
            reduction,
            include_global=1 in self.scales,
        )
        self.student_loss_weight = check_number("student_loss_weight", student_loss_weight)
        self.distillation_weight = check_number("distillation_weight", distillation_weight)
        self.warmup_steps = check_number("warmup_steps", warmup_steps)
        self.fold_teacher = bool(fold_teacher)
        self.teacher_dtype = teacher_dtype
        if teacher_dtype is not None:
            check_word("teacher_dtype", teacher_dtype, ("float32", "bfloat16", "float16"))
        self._build_networks()
        # Part of the state of a step, so that the ramp survives tracing, resuming and saving.
        self._warmup_step = self.add_weight(
            name="warmup_step", initializer="zeros", trainable=False, autocast=False,
            dtype="float32", aggregation="only_first_replica",
        )  # fmt: skip
        self._trackers = {name: keras.metrics.Mean(name=name) for name in _TRACKED}
        self._reduce = _Reduction(name="distillation", dtype="float32")
        self._evaluates = False
        self.built = True

    def _build_networks(self):
        """Build what a step runs: teacher's cells, student's logits and cells."""
        copy = prepare_teacher(self.teacher, self.fold_teacher, self.teacher_dtype)
        cell_scales = (1, *(m for m in self.scales if m != 1))
        teacher, student = (
            expose_cells(model, cell_scales, self.pooling)
            for model in (copy.model if copy else self.teacher, self.student)
        )
        # Hidden from Keras's tracking: other views of what the two models own.
        self._networks = types.SimpleNamespace(
            teacher=keras.Model(teacher.input, teacher.output["cells"]),
            student=student,
            teacher_copy=copy,
            is_stale=False,  # whether weights were loaded that the copy does not have
        )

    def call(self, inputs, training=False):
        """Class logits (B, K) of the student; in training, a dict with its cells (B, N, K) too."""
        outputs = self._networks.student(inputs, training=training)
        return outputs if training else outputs["logits"]

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, **kwargs):
        """Configure training, as `keras.Model.compile` does.

        Args:
            optimizer, metrics: as in Keras; metrics see the student's class logits.
            loss: loss of the student's logits on the labels; None for cross-entropy, whichever
                kind of labels comes.
            loss_weights: None; the weights are arguments of the distiller.
            **kwargs: further arguments of `keras.Model.compile`.

        Raises:
            ValueError: if `loss` expects probabilities or multi-label targets, or is not one loss.
        """
        if loss_weights is not None:
            raise ValueError(
                "Pass student_loss_weight and distillation_weight to SDDDistiller instead of "
                f"loss_weights to compile. Received: loss_weights={loss_weights!r}"
            )
        self._student_loss = check_loss(CrossEntropy() if loss is None else loss)
        super().compile(optimizer=optimizer, loss=None, metrics=metrics, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config["loss"] = keras.saving.serialize_keras_object(self._student_loss)
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, **kwargs):
        """Train the student, as `keras.Model.fit` does; labels in an array are checked first."""
        if self.compiled:
            check_prepared(self)
        self.refresh_teacher()  # the teacher itself may have been trained or loaded
        if isinstance(y, np.ndarray):
            num_classes = class_logits(self.student).shape[-1]
            indices = ops.convert_to_numpy(class_indices(ops.convert_to_tensor(y), num_classes))
            wrong = np.flatnonzero((indices < 0) | (indices >= num_classes))
            if wrong.size:
                raise ValueError(
                    f"Labels must be classes in [0, {num_classes}), or one-hot or soft rows that "
                    f"sum to 1 (multi-label targets are not supported). Received: {wrong.size} "
                    f"others, the first y[{wrong[0]}] = {y[wrong[0]]}"
                )
        return super().fit(x, y, *args, **kwargs)

    def refresh_teacher(self):
        """Compute the folded teacher from the teacher's weights of now.

        `fit` begins with it, and so does the first step after `compile` or after loading weights
        into the distiller. It is for `train_on_batch` with a teacher that was changed by hand.
        """
        self._networks.is_stale = False
        if self._networks.teacher_copy:
            self._networks.teacher_copy.refresh()

    def make_train_function(self, force=False):
        """Keras's, which `train_on_batch` calls in every step and `fit` once."""
        if self.train_function is None or self._networks.is_stale:
            self.refresh_teacher()
        return super().make_train_function(force)

    @property
    def teacher_cells_shape(self):
        """(N, K) of the teacher's cells of a sample."""
        return tuple(self._networks.teacher.output.shape[1:])

    def compute_teacher_cells(self, x):
        """The teacher's cells as in training: NumPy float32 (B, N, K) for a batch `x`."""
        if self._networks.is_stale:
            self.refresh_teacher()
        cells = self._networks.teacher.predict_on_batch(x)
        # Every replica of a TensorFlow strategy computes the whole batch.
        return np.asarray(ops.convert_to_numpy(cells[: len(x)]), "float32")

    def train_step(self, *state_and_data):
        """Add the teacher's cells to the targets and hand on to Keras's own training step."""
        *state, data = state_and_data
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not (isinstance(y, dict) and "teacher_cells" in y):
            x = keras.tree.map_structure(ops.convert_to_tensor, x)
            cells = _backend.run_teacher(self, self._networks.teacher, state, x)
            y = {"labels": _labels(y), "teacher_cells": cells}
        return super().train_step(*state, (x, y, sample_weight))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss; `y` and `y_pred` are dicts in training, labels and logits otherwise."""
        labels = _labels(y)
        if not isinstance(y_pred, dict):
            return self._supervised(labels, y_pred, sample_weight) + self._regularization()
        cells, teacher_cells = y_pred["cells"], y["teacher_cells"]
        indices = class_indices(ops.convert_to_tensor(labels), cells.shape[-1])
        values = self.scale_decoupled_loss(indices, teacher_cells, cells)
        weight = self.distillation_weight * self._advance_warmup()
        distillation = weight * self._reduce(values, values, sample_weight)
        supervised = self._supervised(labels, y_pred["logits"], sample_weight)
        supervised = self.student_loss_weight * supervised
        predicted = ops.argmax(y_pred["logits"], axis=-1)
        complementary = self.scale_decoupled_loss.complementary(indices, teacher_cells)
        batch = ops.shape(predicted)[0]
        replicas = _backend.count_replicas()
        self._trackers["student_loss"].update_state(replicas * supervised, batch)
        self._trackers["distillation_loss"].update_state(replicas * distillation, batch)
        self._trackers["complementary_fraction"].update_state(complementary)
        self._trackers["teacher_agreement"].update_state(
            ops.argmax(teacher_cells[:, 0], axis=-1) == predicted
        )
        return supervised + distillation + self._regularization()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update the metrics of `compile` with labels and logits, and collect all results."""
        training = isinstance(y_pred, dict)
        logits = y_pred["logits"] if training else y_pred
        results = super().compute_metrics(x, _labels(y), logits, sample_weight)
        return results if training else self._without_trackers(results)

    def evaluate(self, *args, **kwargs):
        """Evaluate the student, as `keras.Model.evaluate` does."""
        self._evaluates = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluates = False

    def get_metrics_result(self):
        """All results. Keras reads them here, exact over replicas, if names are those of steps."""
        results = super().get_metrics_result()
        return self._without_trackers(results) if self._evaluates else results

    def _without_trackers(self, results):
        """Leave out what only training updates."""
        return {name: value for name, value in results.items() if name not in self._trackers}

    def _supervised(self, labels, logits, sample_weight):
        if isinstance(self._student_loss, keras.losses.Loss):
            return self._student_loss(labels, logits, sample_weight)
        values = self._student_loss(labels, logits)
        return self._reduce(values, values, sample_weight)

    def _regularization(self):
        total = sum(ops.sum(ops.cast(loss, "float32")) for loss in self.losses)
        return total / _backend.count_replicas()

    def _advance_warmup(self):
        """Count a step and return its part of the distillation weight."""
        if not self.warmup_steps:
            return 1.0
        step = ops.minimum(self._warmup_step + 1.0, self.warmup_steps)
        self._warmup_step.assign(step)
        return step / self.warmup_steps

    # The teacher is frozen whatever `trainable` says of it: only the student counts as trainable.

    @property
    def trainable_variables(self):
        return self.student.trainable_variables if self.trainable else []

    @property
    def non_trainable_variables(self):
        # Of the teacher, those that the step reads.
        others = _without(self.variables, self.trainable_variables + self.teacher.variables)
        return others + self._networks.teacher.variables

    @property
    def trainable_weights(self):
        return self.student.trainable_weights if self.trainable else []

    @property
    def non_trainable_weights(self):
        return _without(self.weights, self.trainable_weights)

    def zero_grad(self, set_to_none=True):
        """Forget the gradients of PyTorch; Keras would look for some in the teacher every step."""
        for variable in self.trainable_variables:
            variable.value.grad = None

    # Keras saves no state of random layers; a run with dropout resumes exactly only with it.

    def _saved_state(self):
        seeds = _without(self.student.variables, self.student.weights)
        names = [f"random_state_{i}" for i in range(len(seeds))]
        return dict(zip(names, seeds, strict=True)) | {"warmup_step": self._warmup_step}

    def save_own_variables(self, store):
        for name, variable in self._saved_state().items():
            store[name] = variable

    def load_own_variables(self, store):
        for name, variable in self._saved_state().items():
            variable.assign(store[name])
        self._networks.is_stale = True  # the teacher's weights come with these

    def get_config(self):
        loss = self.scale_decoupled_loss
        names = (
            *("scales", "pooling", "student_loss_weight", "distillation_weight", "warmup_steps"),
            *("fold_teacher", "teacher_dtype"),
        )
        loss_names = ("consistent_weight", "complementary_weight", "consistency", "reduction")
        serialize = keras.saving.serialize_keras_object
        return (
            super().get_config()
            | {name: getattr(self, name) for name in names}
            | {name: getattr(loss, name) for name in loss_names}
            | {"teacher": serialize(self.teacher), "student": serialize(self.student)}
            | {"distillation_loss": serialize(loss.loss)}
        )

    @classmethod
    def from_config(cls, config):
        parts = ("teacher", "student", "distillation_loss")
        deserialize = keras.saving.deserialize_keras_object
        return cls(**config | {name: deserialize(config[name]) for name in parts})


def _without(variables, left_out):
    ids = {id(v) for v in left_out}
    return [v for v in variables if id(v) not in ids]


def _labels(y):
    """The labels among the targets of a step, or of a data set that carries teacher cells."""
    if y is None:
        raise ValueError("SDDDistiller needs labels: fit(x, y), or a data set of (x, y).")
    if not isinstance(y, dict):
        return y
    if "labels" not in y:
        raise ValueError(
            'Targets must be labels, or a dict {"labels", "teacher_cells"}. Received: a dict with '
            f"keys {sorted(y)}"
        )
    return y["labels"]
