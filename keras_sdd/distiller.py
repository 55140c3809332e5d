"""`Distiller`: a Keras model that trains a student with labels and terms that read a teacher."""

import os
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_sdd import _backend
from keras_sdd._checks import check_marker, check_number, check_word
from keras_sdd._devices import check_prepared
from keras_sdd.callbacks import TellNaN, add_callback
from keras_sdd.first_batch import peek
from keras_sdd.frozen_teacher import check_pair, open_network
from keras_sdd.graphs import leave_no_trace
from keras_sdd.heads import class_logits, gives_probabilities
from keras_sdd.losses.cross_entropy import find_student_loss
from keras_sdd.metrics import view_metrics
from keras_sdd.networks import Network, with_size_of
from keras_sdd.student_state import StudentState
from keras_sdd.supervision import Supervision
from keras_sdd.terms.base import Term, add_scalar, check_reading, check_terms, to_number
from keras_sdd.typing import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_sdd")
class Distiller(StudentState):
    """Trains a student classifier with labels and with terms that compare it with a frozen teacher.

    The loss is student_loss_weight * (loss given to `compile`) + the weighted terms + the student's
    and the terms' own regularization. `evaluate` and `predict` run the student alone and see its
    class logits. Targets are labels, or a dict of `"labels"` and whatever the terms ask for; with
    `"teacher"`, what the terms read of the teacher as `compute_teacher_targets` gives it, the
    teacher does not run.

    Logged in training, besides the metrics of `compile`: `loss`, and its parts, weighted:
    `student_loss` and each term under its name. `SDDDistiller` is one with the paper's term.

    Labels are optional: `fit(x)` trains on the teacher alone, and images marked by `ignore_class`
    have no part in the loss on the labels, its mean and the metrics. Where a term asks for the
    label of such an image, it gets the class that the teacher predicts.

    Args:
        teacher: a built functional or Sequential Keras classifier, or a model with outputs
            `{"logits", "spatial_logits"}`, as `keras_sdd.expose_spatial_logits` makes it, or a
            `keras_sdd.StoredTeacher`. It is never changed.
        student: a Keras classifier like it, of the same input shape and classes.
        terms: list of `keras_sdd.terms.Term`, of different names. A term belongs to one distiller.
        student_loss_weight: weight of the loss on the labels; as an attribute a variable, and what
            is assigned to it holds from the next step on.
        fold_teacher: whether a copy of the teacher runs in training that has its batch norms
            folded into other layers, as by `keras_sdd.fold_batch_norm`. Where a layer stands in
            the way, it runs as given. Told at level INFO of the logger "keras_sdd".
        teacher_dtype: `"float32"`, `"bfloat16"` or `"float16"`, the precision in which the teacher
            runs in training; None for that of its layers.
        ignore_class: the label of images that have none, for example -1; of one-hot labels, a row
            of it. None if all images have a label.
        **kwargs: of `keras.Model`.

    Raises:
        ValueError: for models, terms or options that do not fit; the message says what was
            received.

    Examples:
        >>> teacher, student = (keras_sdd.models.build("small/cnn_8_16_32") for _ in range(2))
        >>> terms = [keras_sdd.terms.SP(weight=100.0), keras_sdd.terms.PKT()]
        >>> distiller = keras_sdd.Distiller(teacher, student, terms)
        >>> distiller.compile("sgd")  # then fit, as any Keras model
        >>> [x.name for x in distiller.metrics]  # what it logs
        ['loss', 'student_loss', 'sp_loss', 'pkt_loss']
        >>> tuple(distiller(np.ones((2, 32, 32, 3), "float32")).shape)  # the student's logits
        (2, 10)
    """

    def __init__(
        self,
        teacher: keras.layers.Layer,
        student: keras.Model,
        terms: Sequence[Term],
        student_loss_weight: float = 1.0,
        fold_teacher: bool = True,
        teacher_dtype: str | None = None,
        ignore_class: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_pair(teacher, student)
        # The policy decides on loss scaling; casting the inputs is left to the models.
        super().__init__(**{"dtype": student.dtype_policy, "autocast": False} | kwargs)
        self.teacher, self.student = teacher, student
        self.terms = check_terms(terms)
        self.fold_teacher = bool(fold_teacher)
        self.teacher_dtype = teacher_dtype
        self.ignore_class = check_marker("ignore_class", ignore_class)
        if teacher_dtype is not None:
            check_word("teacher_dtype", teacher_dtype, ("float32", "bfloat16", "float16"))
        weight = check_number("student_loss_weight", student_loss_weight)
        self._student_loss_weight = add_scalar(self, "student_loss_weight", weight)
        self._student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self._evaluates, self._has_labels = False, True  # what is under way
        self._supervision = Supervision(class_logits(student).shape[-1], ignore_class)
        with leave_no_trace(teacher, student):
            self._read_networks()
        for term in self.terms:
            term.fix()
        self.built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and hasattr(self, name):
            raise AttributeError(
                f"`{name}` of a distiller is fixed when it is built, as it is part of what a step "
                f"runs; build a new one. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    _fixed: tuple[str, ...] = (
        "teacher", "student", "terms", "fold_teacher", "teacher_dtype", "ignore_class",
    )  # fmt: skip

    def _read_networks(self) -> None:
        """Let the terms read both networks, and build what a step runs: one model of each."""
        student = Network(with_size_of(self.student, self.teacher))
        read = self._read_teacher(student)
        learned = {x.name: check_reading(x, x.read_student(student)) for x in self.terms}
        self._view = student  # of what the student owns, in an object that Keras does not look into
        student.select({"logits": student.logits} | learned)
        for term in self.terms:
            readings = (read[term.name], learned[term.name])
            term.build(*({name: x.shape for name, x in part.items()} for part in readings))

    def _read_teacher(self, student: Network) -> dict[str, dict[str, Tensor]]:
        """Let the terms read the teacher, and build what a step runs of it."""
        teacher = open_network(self.teacher, self.student)
        for term in self.terms:
            term.choose(teacher, student)
        read = {x.name: check_reading(x, x.read_teacher(teacher)) for x in self.terms}
        knows = any(type(x).find_teacher_logits is not Term.find_teacher_logits for x in self.terms)
        if self.ignore_class is not None and not knows:
            read["logits"] = {"logits": teacher.logits}
        self._frozen = teacher.freeze(read, self.fold_teacher, self.teacher_dtype)
        self._read_variables = self._identify_teacher()
        return read

    def _identify_teacher(self) -> list[int]:
        return [id(v) for v in self.teacher.variables]

    @property
    def student_loss_weight(self) -> keras.Variable:
        """The weight of the loss on the labels, a scalar variable."""
        return self._student_loss_weight

    @student_loss_weight.setter
    def student_loss_weight(self, value: float) -> None:
        self._student_loss_weight.assign(check_number("student_loss_weight", value))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        """Class logits (B, K) of the student; in training, a dict with what the terms read too.

        Args:
            inputs: images (B, ...).
            training: whether it is a training step's.

        Returns:
            Tensor (B, K); in training `{"logits": (B, K), TERM: {NAME: tensor}}`.
        """
        outputs = self._view.selection(inputs, training=training)
        return outputs if training else outputs["logits"]

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile` does.

        Args:
            optimizer: as in Keras.
            loss: loss of the student's logits on the labels; None for cross-entropy, whichever
                kind of labels comes.
            loss_weights: None; the weights are arguments of the distiller and of its terms.
            metrics: as in Keras. Those with `from_logits=True`, and accuracies, see the student's
                class logits; Keras's others, for example its cross-entropies, AUC and precision,
                see probabilities. What Keras does not know sees what the student gives that was
                given: probabilities where it ends in a softmax, logits elsewhere.
            weighted_metrics: the same, with sample weights.
            **kwargs: further arguments of `keras.Model.compile`.

        Raises:
            ValueError: if `loss` expects probabilities or multi-label targets, or is not one loss.
        """
        if loss_weights is not None:
            raise ValueError(
                "The weights of the loss are student_loss_weight of the distiller and those of its "
                f"terms, not loss_weights of compile. Received: loss_weights={loss_weights!r}"
            )
        check_pair(self.teacher, self.student)  # layers may have been set trainable since
        self._supervision.loss = find_student_loss(loss)
        given = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        self._supervision.metrics = given  # where Keras does not count them twice
        is_softmax = gives_probabilities(self.student)
        views = {name: view_metrics(x, is_softmax, self.ignore_class) for name, x in given.items()}
        # No loss: `compute_loss` has it, and Keras would want as many losses as `call` has outputs.
        super().compile(optimizer=optimizer, loss=None, **views, **kwargs)

    def get_compile_config(self) -> Config:
        config = super().get_compile_config()
        if config:
            given = self._supervision.metrics | {"loss": self._supervision.loss}
            config |= keras.saving.serialize_keras_object(given)
        return config

    def compile_from_config(self, config: Config) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        # As Keras's own: the weights of the optimizer that are loaded next need a place.
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Tensor = None,
        y: Tensor = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Train the student, as `keras.Model.fit` does; the first batch is looked at before.

        Without labels, `fit(x)`, it trains on the teacher alone.

        Args:
            x: images (B, ...), or a data set of (images, targets), as in Keras.
            y: labels (B,), (B, 1) or (B, K), or a dict of `"labels"` and what terms ask for.
            batch_size: as in Keras.
            epochs: as in Keras.
            verbose: as in Keras.
            callbacks: as in Keras.
            validation_split: as in Keras.
            validation_data: as in Keras.
            shuffle: as in Keras.
            class_weight: dict of class to the weight of its samples, whatever form labels have.
            **kwargs: further arguments of `keras.Model.fit`.

        Returns:
            `keras.callbacks.History`.

        Raises:
            ValueError: for labels that are none of [0, K), or targets that lack what a term needs.
            RuntimeError: if several devices are set up that do not know of it.
        """
        if self.compiled:
            check_prepared(self)
        self._weigh_classes(class_weight)
        if self.train_function is not None:  # else `make_train_function` does it
            self._frozen.follow(anyway=True)
        y = self._number_samples(x, y)
        x, images, targets = peek(x, y)
        self._check_batch(images, targets)
        self._has_labels = images is None or self._find_labels(targets) is not None
        callbacks = add_callback(callbacks, TellNaN())
        return super().fit(
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            **kwargs,
        )

    def train_on_batch(
        self,
        x: Tensor,
        y: Tensor = None,
        sample_weight: Tensor = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Train on one batch, as `keras.Model.train_on_batch` does.

        Args:
            x: images (B, ...).
            y: as for `fit`.
            sample_weight: as in Keras.
            class_weight: as for `fit`.
            return_dict: as in Keras.

        Returns:
            The logs, as in Keras.
        """
        self._weigh_classes(class_weight)
        self._has_labels = self._find_labels(y) is not None
        if self.train_function is None:
            self._frozen.check(x, y)
        return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def _number_samples(self, x: Tensor, y: Tensor) -> Any:
        """Targets of arrays with the number of each row, where a term asks for it."""
        wanted = any(term.needs_ids for term in self.terms)
        targets = self.name_targets(y)
        if not wanted or "ids" in targets or not hasattr(x, "shape"):
            return y
        return targets | {"ids": np.arange(len(x), dtype="int32")}

    def _find_labels(self, targets: Any) -> Any:
        return targets.get("labels") if isinstance(targets, dict) else targets

    def _weigh_classes(self, class_weight: dict[int, float] | None) -> None:
        if self._supervision.set_class_weight(class_weight):
            self.train_function = None  # they are constants of the step: Keras makes a new one

    def _check_batch(self, images: Tensor, targets: Any) -> None:
        """Raise a ValueError for wrong labels; give up a copy of the teacher that is none."""
        labels = self._find_labels(targets)
        if labels is not None:
            self._supervision.check(labels)
        for term in self.terms if images is not None else ():
            term.check_targets(self.name_targets(targets))
        if images is not None and self._frozen.check(images, targets):
            self.train_function = None

    def refresh_teacher(self) -> None:
        """Read the teacher again if its layers have other variables now, as after `quantize`.

        `fit` and `train_on_batch` begin with it. Weights need no such thing: a step computes with
        those of now.
        """
        if self._read_variables != self._identify_teacher():
            with leave_no_trace(self.teacher):
                self._read_teacher(self._view)
            self.train_function = None

    def make_train_function(self, force: bool = False) -> Any:
        """Keras's, which `train_on_batch` calls in every step and `fit` once."""
        check_prepared(self)
        self.refresh_teacher()
        self._frozen.follow(anyway=self.train_function is None)
        # What lies between loading and training may have drawn random numbers.
        _backend.set_random_state(self._loaded_random_state)
        return super().make_train_function(force)

    @property
    def teacher_targets_spec(self) -> dict[str, Any]:
        """What `compute_teacher_targets` gives, as symbolic tensors."""
        return {"teacher": self._frozen.outputs}

    def compute_teacher_targets(self, x: Tensor) -> dict[str, Any]:
        """What the terms read of the teacher, as targets that let a step do without it.

        Args:
            x: a batch of images.

        Returns:
            `{"teacher": {TERM: {NAME: array}}}`, NumPy float32 arrays (B, ...).
        """
        return {"teacher": self._frozen.predict(x)}

    def train_step(self, *state_and_data: Any) -> dict[str, Any]:
        """Add what the terms read of the teacher to the targets; hand on to Keras's own step."""
        *state, data = state_and_data  # on JAX, Keras hands the values of all variables first
        self._loaded_random_state = {}  # training goes on from it
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        targets = self._frozen.complete(self, state, x, self.name_targets(y))
        missing = [term.name for term in self.terms if term.name not in targets["teacher"]]
        if missing:
            raise ValueError(
                "The data set carries what some terms read of the teacher, and others have to be "
                f"there too: make its cache again. Received: nothing for {', '.join(missing)}"
            )
        weights = self._supervision.weigh(targets.get("labels"), _weights(sample_weight))
        return super().train_step(*state, (x, targets, weights))

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The total loss; `y` and `y_pred` are dicts in training, labels and logits otherwise.

        Args:
            x: not used.
            y: targets; see `name_targets`.
            y_pred: what `call` gives.
            sample_weight: (B,), or None.
            training: not used: `y_pred` tells.

        Returns:
            Scalar tensor.
        """
        targets, sample_weight = self.name_targets(y), _weights(sample_weight)
        labels = targets.get("labels")
        # What `call` gave tells, here and in `compute_metrics`, which Keras does not tell more.
        if not isinstance(y_pred, dict):
            if labels is None:
                raise ValueError("Evaluation needs labels: evaluate(x, y). Received: images alone")
            return self._supervision.compute(labels, y_pred, sample_weight) + self._regularize()
        supervised = self._supervision.compute(
            labels, y_pred["logits"], sample_weight, _backend.average_over_devices
        )
        total = self._student_loss_weight * supervised
        batch_size = ops.shape(y_pred["logits"])[0]
        self._student_loss_tracker.update_state(_backend.count_replicas() * total, batch_size)
        targets = self._label_all(targets)
        for term in self.terms:
            read, learned = targets["teacher"][term.name], y_pred[term.name]
            total = total + term.compute(read, learned, targets, sample_weight, batch_size)
        return total + self._regularize()

    def _label_all(self, targets: dict[str, Any]) -> dict[str, Any]:
        """Targets with the class that the teacher predicts where a label is missing."""
        labels, read = targets.get("labels"), targets["teacher"]
        if labels is not None and self.ignore_class is None:
            return targets
        found = [x.find_teacher_logits(read[x.name]) for x in self.terms]
        found = [x for x in (*found, read.get("logits", {}).get("logits")) if x is not None]
        if not found:  # no term reads them, and none was said to need them
            return targets
        return targets | {"labels": self._supervision.fill(labels, found[0])}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        # Without any label those of `compile` see nothing, and may never be built.
        counts = self._evaluates or self._has_labels
        return [x for x in super().metrics if counts or x.name != "compile_metrics"]

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None
    ) -> dict[str, Any]:
        """Update the metrics of `compile` with labels and logits, and collect all results.

        Args:
            x: as for `compute_loss`.
            y: as for `compute_loss`.
            y_pred: as for `compute_loss`.
            sample_weight: as for `compute_loss`.

        Returns:
            Dict of name to value.
        """
        training = isinstance(y_pred, dict)
        logits = y_pred["logits"] if training else y_pred
        labels = self.name_targets(y).get("labels")
        if labels is None:
            results = self.get_metrics_result()
        else:
            results = super().compute_metrics(x, labels, logits, _weights(sample_weight))
        return results if training else self._without_training(results)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the student, as `keras.Model.evaluate` does.

        Args:
            *args: of `keras.Model.evaluate`.
            **kwargs: of `keras.Model.evaluate`.

        Returns:
            The loss on the labels and the metrics of `compile`, as in Keras.
        """
        self._evaluates = True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._evaluates = False

    def export(
        self, filepath: str | os.PathLike[str], format: str = "tf_saved_model", **kwargs: Any
    ) -> None:
        """Export the student, as `keras.Model.export` does.

        Args:
            filepath: of `keras.Model.export`.
            format: of `keras.Model.export`.
            **kwargs: of `keras.Model.export`.
        """
        with leave_no_trace(self.student):
            self.student(self.student.input)  # of ONNX, Keras asks for a model that was called
        self.student.export(filepath, format=format, **kwargs)

    def get_metrics_result(self) -> dict[str, Any]:
        """All results. Keras reads them here, exact over replicas, if names are those of steps."""
        results = super().get_metrics_result()
        return self._without_training(results) if self._evaluates else results

    def _without_training(self, results: dict[str, float]) -> dict[str, Any]:
        """Leave out what only training updates."""
        trained = {"student_loss"} | {x.name for term in self.terms for x in term.metrics}
        return {name: value for name, value in results.items() if name not in trained}

    def name_targets(self, y: Tensor) -> dict[str, Any]:
        """The targets of a step as a dict: labels alone, or what the data set calls by name.

        Args:
            y: labels, a dict, or None.

        Raises:
            ValueError: for a dict without labels and without what the teacher gives.
        """
        targets = y if isinstance(y, dict) else {} if y is None else {"labels": y}
        unlabelled = {"ids", "teacher", "teacher_cells"}
        if "labels" not in targets and not targets.keys() <= unlabelled:
            raise ValueError(
                'Targets must be labels, or a dict of "labels" and, if it is to skip the teacher, '
                f"{self._skipping}. Received: a dict with keys {sorted(targets)}"
            )
        return targets

    _skipping = '"teacher"'

    def _regularize(self) -> Tensor:
        total = sum(ops.sum(ops.cast(loss, "float32")) for loss in self.losses)
        return total / _backend.count_replicas()

    def get_config(self) -> Config:
        serialize = keras.saving.serialize_keras_object
        parts = {name: serialize(getattr(self, name)) for name in ("teacher", "student")}
        parts["terms"] = [serialize(term) for term in self.terms]
        options = {
            name: getattr(self, name) for name in ("fold_teacher", "teacher_dtype", "ignore_class")
        }
        weight = {"student_loss_weight": to_number(self._student_loss_weight)}
        return super().get_config() | parts | options | weight

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})


def _weights(sample_weight: Tensor) -> Any:
    """Those of the samples; Keras repeats those of arrays for each of the targets by name."""
    return next(iter(keras.tree.flatten(sample_weight)), None)
