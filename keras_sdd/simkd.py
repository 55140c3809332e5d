"""SimKD's student: it predicts through a projector and its teacher's classifier."""

import keras
from keras import layers

from keras_sdd.graphs import leave_no_trace, rebuild
from keras_sdd.networks import Network
from keras_sdd.normalization import BatchNorm
from keras_sdd.typing import Shape


def reuse_classifier(teacher: keras.Model, student: keras.Model) -> keras.Model:
    """Give a student its teacher's classifier, behind a projector of its last map.

    The projector, a layer named `"projector"`, is three convolutions of size 1, 3 and 1, each with
    batch norm and ReLU. The pooling and the classifier are a copy of the teacher's, frozen. What
    comes before is the student's own, its weights shared with `student`. `keras_sdd.terms.SimKD`
    trains it.

    Args:
        teacher: built functional classifier, not nested in another model, with channels last.
        student: built functional classifier. Where its last map is larger than the teacher's, by a
            whole factor, it is averaged to that size.

    Returns:
        A functional model from the student's inputs to the logits that the teacher's classifier
        gives. It keeps the projector for good: it is what is to be saved and used.

    Raises:
        ValueError: for models without a last map that is pooled, and maps whose sizes do not fit.

    Source: Chen et al., "Knowledge Distillation with the Reused Teacher Classifier" (CVPR 2022).

    Examples:
        >>> teacher = keras_sdd.models.build("small/cnn_8_16_32")
        >>> student = keras_sdd.models.build("small/cnn_8_16_32")
        >>> student = keras_sdd.reuse_classifier(teacher, student)
        >>> student.get_layer("projector").output.shape, student.output.shape
        ((None, 8, 8, 32), (None, 10))
        >>> terms = [keras_sdd.terms.SimKD()]
        >>> distiller = keras_sdd.Distiller(teacher, student, terms, student_loss_weight=0.0)
    """
    with leave_no_trace(teacher):
        end, (height, width, channels) = _find_end(teacher)
        network = Network(student)
        maps = network.feature(_find_last(network))
        factors = _find_factors(maps.shape[1:3], (height, width), student)
        if factors != (1, 1):
            maps = layers.AveragePooling2D(
                factors, data_format="channels_last", name="to_size_of_teacher"
            )(maps)
        maps = _make_projector(maps.shape[1:], channels)(maps)
        # Made for the student's size, which may be smaller.
        inputs = keras.Input(maps.shape[1:], dtype=maps.dtype)
        classifier = keras.models.clone_model(end, input_tensors=inputs)
        classifier.set_weights(end.get_weights())
        classifier.trainable = False
        return rebuild(student, classifier(maps), "reused")


def _find_last(network: Network) -> str:
    if network.last_map is None:
        raise ValueError(
            "SimKD projects the last map (B, H, W, C) of the student to the teacher's. Received: "
            f"the model {network.source.name!r}, in which everything runs through no map"
        )
    return network.last_map


def _find_end(teacher: keras.Model) -> tuple[keras.Model, Shape]:
    """A model from the teacher's last map to its logits, and the size of the map."""
    network = Network(teacher, frozen=True)
    maps = network.feature(_find_last(network))
    try:
        return keras.Model(maps, teacher.output, name="reused_classifier"), maps.shape[1:]
    except ValueError as error:
        raise ValueError(
            "The classifier of the teacher must follow its last map in one functional model with "
            "channels last: give the model without others around it, as keras_sdd.models.build "
            f"makes it. Received: {teacher.name!r}, {network.last_map!r} as the last map"
        ) from error


def _find_factors(given: Shape, wanted: Shape, student: keras.Model) -> tuple[int, ...]:
    """By how much the student's map is to be averaged, (1, 1) where it is no larger."""
    if None in (*given, *wanted):
        fits = False
    elif all(a <= b for a, b in zip(given, wanted, strict=True)):
        return (1, 1)
    else:
        fits = all(a % b == 0 for a, b in zip(given, wanted, strict=True))
    if not fits:
        raise ValueError(
            "The student's last map must be no larger than the teacher's, or by a whole factor, "
            f"and of known size. Received: {tuple(given)} of {student.name!r}, {tuple(wanted)} of "
            "the teacher"
        )
    return tuple(a // b for a, b in zip(given, wanted, strict=True))


def _make_projector(shape: Shape, channels: int) -> keras.Model:
    steps = []
    for size, width in ((1, channels // 2), (3, channels // 2), (1, channels)):
        # Uniform in +-1 / sqrt(fan in), as PyTorch has it.
        initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        steps += [
            layers.Conv2D(
                width, size, padding="same", use_bias=False, kernel_initializer=initializer,
                data_format="channels_last",
            ),
            BatchNorm(momentum=0.9, epsilon=1e-5),
            layers.ReLU(),
        ]  # fmt: skip
    return keras.Sequential([keras.Input(shape), *steps], name="projector")
