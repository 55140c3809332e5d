"""Teachers of other classes than the student's, or of the same in another order."""

import operator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sdd._checks import find_near
from keras_sdd.graphs import rebuild
from keras_sdd.heads import check_classifier, class_logits, find_logits, is_exposed
from keras_sdd.regions import LinearLayer, RegionClassifier
from keras_sdd.typing import Config, Shape, Tensor


def select_classes(
    model: keras.Model, indices: list[int] | list[str], names: list[str] | None = None
) -> keras.Model:
    """Make a classifier of some classes of another one, in an order of choice.

    A teacher of ImageNet's classes teaches a student of a few of them so, and one whose classes are
    sorted otherwise any student. What regions' logits are does not change, and a linear head stays
    linear. All weights are shared with `model`, none copied.

    Args:
        model: a built functional or Sequential classifier of K classes; also one that `from_torch`,
            `from_jax` or `expose_spatial_logits` made.
        indices: for each class of the student, in its order, the number of the class in `model`; or
            its name, if `names` are given.
        names: those of the K classes of `model`, in its order.

    Returns:
        A functional model on the inputs of `model` that gives logits (B, len(indices)), without a
        last softmax; of an exposed model both outputs.

    Raises:
        ValueError: for a class that `model` does not have or that comes twice, fewer than two
            classes, or names that are not K.

    Examples:
        >>> model = keras_sdd.models.build("small/cnn_8_16_32", num_classes=4)
        >>> names = ["cat", "dog", "horse", "zebra"]
        >>> teacher = keras_sdd.teachers.select_classes(model, ["zebra", "cat"], names)  # or [3, 0]
        >>> images = np.ones((1, 32, 32, 3), "float32")
        >>> both = [keras.ops.convert_to_numpy(x(images))[0] for x in (model, teacher)]
        >>> bool(np.all(both[0][[3, 0]] == both[1]))
        True
    """
    check_classifier(model)
    chosen = _find_indices(indices, names, class_logits(model).shape[-1])
    if not is_exposed(model):
        logits, _ = find_logits(model)
        selection = ClassSelection(chosen, dtype=logits.dtype, name="selected_classes")
        return rebuild(model, selection(logits), "selected")
    outputs = {}
    for name, x in model.output.items():
        selection = ClassSelection(chosen, dtype=x.dtype, name=f"selected_classes_of_{name}")
        # Among the layers of regions, so that the pooling before them is found.
        outputs[name] = RegionClassifier(selection, name=f"selected_{name}")([x])
    return rebuild(model, outputs, "selected")


@keras.saving.register_keras_serializable(package="keras_sdd")
class ClassSelection(LinearLayer):
    """Some of the logits (..., K), by their indices."""

    def __init__(self, indices: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.indices = tuple(indices)

    def call(self, inputs: Tensor) -> Tensor:
        return ops.take(inputs, np.array(self.indices, "int32"), axis=-1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], len(self.indices))

    def get_config(self) -> Config:
        return super().get_config() | {"indices": self.indices}


def _find_indices(indices: Any, names: Any, num_classes: int) -> list[int]:
    """Return the numbers of the chosen classes."""
    chosen = list(indices)
    if names is not None:
        chosen = _look_up(chosen, list(names), num_classes)
    try:
        chosen = [operator.index(i) for i in chosen]
    except TypeError:
        raise ValueError(
            "`indices` must be integers, or names of classes if `names` has those of all classes "
            f"of the model. Received: indices={indices!r}, names={names!r}"
        ) from None
    wrong = [i for i in chosen if not 0 <= i < num_classes]
    twice = [i for i in dict.fromkeys(chosen) if chosen.count(i) > 1]
    if wrong or twice or len(chosen) < 2:
        received = f"{twice[0]} twice" if twice and not wrong else repr((wrong or chosen)[:1])
        raise ValueError(
            f"`indices` must be two or more different classes from 0 to {num_classes - 1}. "
            f"Received: {received}"
        )
    return chosen


def _look_up(chosen: list[Any], names: list[str], num_classes: int) -> list[int]:
    if len(names) != num_classes:
        raise ValueError(
            f"`names` must be those of all {num_classes} classes of the model. Received: "
            f"{len(names)} names"
        )
    found = []
    for name in chosen:
        if names.count(name) != 1:
            near = ", ".join(map(repr, find_near(name, map(str, names)))) or "none"
            count = "no class" if name not in names else "several classes"
            raise ValueError(
                f"The model has {count} of this name; near names: {near}. Received: {name!r}"
            )
        found.append(names.index(name))
    return found
