"""Metrics of `compile` on a student of logits: what they expect of it, and whose labels count."""

import keras
from keras import ops

from keras_sdd.losses.labels import class_indices, find_ignored, replace_labels

# Of scores in any order-preserving form.
_OF_ORDER = (
    "SparseCategoricalAccuracy", "CategoricalAccuracy", "TopKCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
)  # fmt: skip


def view_metrics(metrics, gives_probabilities, ignore_class):
    """Let each metric see what it expects, and labelled samples alone.

    Args:
        metrics: as `keras.Model.compile` takes them, in any structure.
        gives_probabilities: whether the student as the user gave it ends in a softmax, and what
            Keras does not know expects its output.
        ignore_class: the label of samples without one, or None.

    Returns:
        The same structure; what needs no view of its own is left as it is.
    """

    def view(metric):
        if metric is None or (ignore_class is None and _is_accuracy(metric)):
            return metric
        found = _resolve(metric)
        probable = _expects_probabilities(found, gives_probabilities)
        return (
            metric if not probable and ignore_class is None else View(found, probable, ignore_class)
        )

    return keras.tree.map_structure(view, metrics)


def _is_accuracy(metric):
    return isinstance(metric, str) and metric.lower() in ("accuracy", "acc")


def _resolve(metric):
    """The metric that Keras means, under the name that it logs."""
    if isinstance(metric, keras.metrics.Metric):
        return metric
    if _is_accuracy(metric):
        accuracy = keras.metrics.MeanMetricWrapper(_match_classes, name=metric)
        accuracy._direction = "up"  # by it, callbacks that watch a metric know what is better
        return accuracy
    found = keras.metrics.get(metric)
    name = metric if isinstance(metric, str) else getattr(found, "__name__", type(found).__name__)
    if not isinstance(found, keras.metrics.Metric):
        return keras.metrics.MeanMetricWrapper(found, name=name)
    found.name = name
    return found


def _match_classes(labels, logits):
    indices = class_indices(ops.convert_to_tensor(labels), logits.shape[-1])
    return ops.cast(ops.equal(indices, ops.cast(ops.argmax(logits, axis=-1), "int32")), "float32")


def _expects_probabilities(metric, gives_probabilities):
    try:
        config = metric.get_config()
    except NotImplementedError:  # of a metric of the user's
        config = {}
    if config.get("from_logits"):
        return False
    function = (
        getattr(metric, "_fn", None) if type(metric).__name__ == "MeanMetricWrapper" else None
    )
    kind = type(metric) if function is None else function
    if not getattr(kind, "__module__", "").startswith("keras.src."):
        return gives_probabilities and function is not _match_classes
    return getattr(kind, "__name__", "").title().replace("_", "") not in [
        x.title() for x in _OF_ORDER
    ]


class View(keras.metrics.Metric):
    """A metric that is updated with what it expects.

    Args:
        metric: the metric.
        probable: whether it gets class probabilities in the place of logits.
        ignore_class: the label of samples that it does not get; None for none.
    """

    def __init__(self, metric, probable, ignore_class):
        super().__init__(name=metric.name, dtype=metric.dtype)
        self.metric = metric
        self.probable, self.ignore_class = probable, ignore_class
        if hasattr(metric, "_direction"):
            self._direction = metric._direction

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = map(ops.convert_to_tensor, (y_true, y_pred))
        if self.ignore_class is not None:
            num_classes = y_pred.shape[-1]
            ignored = find_ignored(y_true, self.ignore_class, num_classes)
            y_true = replace_labels(y_true, ignored, ops.zeros_like(ignored, "int32"), num_classes)
            counted = ops.cast(ops.logical_not(ignored), "float32")
            if sample_weight is not None:
                counted = counted * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
            sample_weight = counted
        if self.probable:
            y_pred = ops.softmax(ops.cast(y_pred, "float32"))
        self.metric.update_state(y_true, y_pred, sample_weight=sample_weight)

    def result(self):
        return self.metric.result()

    def reset_state(self):
        self.metric.reset_state()
