"""What every logit loss must do, held against its float64 formula."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from backends import BACKEND, evaluate, value_and_gradient
from keras import ops

from keras_sdd.losses import LogitLoss, ScaleDecoupled

LEADING, NUM_CLASSES = (5, 1, 3), 7


@dataclasses.dataclass
class Case:
    """A row of the table of losses.

    Attributes:
        loss: the loss.
        formula: of one position, from (label, teacher (K,), student (K,)); if the loss relates
            samples, of a batch, from (labels (B,), teacher (B, K), student (B, K)), to one value or
            one per sample.
        reads_labels: whether a label outside the classes must give NaN.
        vanishes: whether a student like its teacher has no loss.
        least: the fewest classes that the loss can do with.
        holds: whether the formula takes the student's logits that have no gradient as `held`.
        rounding: what is added in float32 to a value, of whatever size.
    """

    loss: LogitLoss
    formula: Callable
    reads_labels: bool = False
    vanishes: bool = True
    least: int = 2
    holds: bool = False
    rounding: float = 1e-5

    def compute(self, labels, teacher, student, held=None):
        """The formula at every position (B, ...) of logits (B, ..., K)."""
        teacher, student = (x.astype("float64") for x in (teacher, student))
        values = np.zeros(labels.shape)
        related = self.loss.relates_samples
        for index in np.ndindex(*labels.shape[1 if related else 0 :]):
            at = (slice(None), *index) if related else index
            options = (
                {"held": held[at].astype("float64")} if self.holds and held is not None else {}
            )
            values[at] = self.formula(labels[at], teacher[at], student[at], **options)
        return values


def draw(seed, *shape, scale=3.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def draw_labels(seed, shape, num_classes):
    return np.random.default_rng(seed).integers(0, num_classes, shape)


def check_values(case):
    """At every leading position, of float32 and float16, and where the labels are wrong."""
    teacher, student = draw(1, *LEADING, NUM_CLASSES), draw(2, *LEADING, NUM_CLASSES)
    labels = draw_labels(3, LEADING, NUM_CLASSES)
    value = evaluate(case.loss, labels, teacher, student)
    assert value.dtype == "float32" and value.shape == LEADING
    expected = case.compute(labels, teacher, student)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=case.rounding)
    same = evaluate(case.loss, labels, teacher, teacher)
    assert not case.vanishes or np.abs(same).max() < 1e-5
    wrong = labels.copy()
    wrong[1, 0, 2], wrong[2, 0, 0] = NUM_CLASSES, -1
    is_nan = np.isnan(evaluate(case.loss, wrong, teacher, student))
    np.testing.assert_array_equal(is_nan, (wrong != labels) & case.reads_labels)
    for logits in (teacher, student):
        kept, logits[3, 0, 1, 2] = logits[3, 0, 1, 2], np.nan  # not hidden, nor spread
        is_nan = np.isnan(evaluate(case.loss, labels, teacher, student))
        assert is_nan[3, 0, 1] and not is_nan[:, 0, ::2].any()
        assert case.loss.relates_samples or is_nan.sum() == 1
        logits[3, 0, 1, 2] = kept
    half = [x.astype("float16") for x in (1e3 * teacher, 1e3 * student)]
    if BACKEND == "jax":  # would compile it all again for a cast that every loss shares
        half = [x.astype("float32") for x in half]
    value = evaluate(case.loss, labels, *half)
    expected = case.compute(labels, *half)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def make_total(case, labels):
    """A function of both logits (2, B, K), teacher's first, to the weighted sum of the loss."""
    weights = np.linspace(0.5, 1.5, len(labels)).astype("float32")

    def total(logits):
        teacher = ops.stop_gradient(logits[0])
        return ops.sum(case.loss(labels, teacher, logits[1]) * ops.convert_to_tensor(weights))

    def formula(teacher, student, held):
        return np.sum(weights * case.compute(labels, teacher, student, held))

    return total, formula


def check_gradient(case, shape):
    """Value and gradient of ordinary logits (B, K); that those of extreme ones are finite."""
    labels = draw_labels(6, shape[:1], shape[-1])
    total, formula = make_total(case, labels)
    logits = draw(7, 2, *shape)
    value, gradient = value_and_gradient(total, logits)
    teacher, student = logits.astype("float64")
    np.testing.assert_allclose(value, formula(teacher, student, student), rtol=2e-5, atol=1e-5)
    size, rng, step = np.linalg.norm(gradient[1]), np.random.default_rng(8), 1e-5
    for _ in range(3):
        direction = rng.standard_normal(shape)
        up, down = (
            formula(teacher, student + sign * step * direction, student) for sign in (1, -1)
        )
        expected = (up - down) / (2 * step)
        atol = 1e-4 * size + case.rounding / 4
        np.testing.assert_allclose(np.sum(gradient[1] * direction), expected, rtol=1e-4, atol=atol)
    uniform = np.random.default_rng(9).uniform(-1e4, 1e4, (2, *shape)).astype("float32")
    value, gradient = value_and_gradient(total, uniform)
    teacher, student = uniform.astype("float64")
    np.testing.assert_allclose(value, formula(teacher, student, student), rtol=1e-4, atol=1e-3)
    assert np.isfinite(gradient).all()
    constant = np.full(shape, 1e4, "float32")
    for pair in ([constant, -constant], [logits[0], constant], [constant, logits[1]]):
        value, gradient = value_and_gradient(total, np.stack(pair))
        assert np.isfinite(value) and np.isfinite(gradient).all()
    if case.vanishes:
        _, gradient = value_and_gradient(total, np.stack([logits[0], logits[0]]))
        np.testing.assert_allclose(gradient[1], 0.0, atol=2e-5)


def check_scale_decoupled(case):
    teacher, student = draw(10, 4, 5, NUM_CLASSES), draw(11, 4, 5, NUM_CLASSES)
    labels = draw_labels(12, 4, NUM_CLASSES)
    scaled = ScaleDecoupled(case.loss, 0.5, 2.0, "label", "sum")
    value = evaluate(scaled, labels, teacher, student)
    cells = case.compute(np.repeat(labels[:, None], 5, 1), teacher, student)
    right = teacher.argmax(-1) == labels[:, None]
    weights = np.where(right == right[:, :1], 0.5, 2.0)
    np.testing.assert_allclose(value, (weights * cells).sum(1), rtol=2e-5, atol=1e-5)


def check_saving(case):
    config = keras.saving.serialize_keras_object(case.loss)
    restored = keras.saving.deserialize_keras_object(config)
    assert type(restored) is type(case.loss) and repr(restored) == repr(case.loss)
    again = type(case.loss).from_config(case.loss.get_config())
    assert repr(again) == repr(case.loss)
    assert restored.relates_samples == case.loss.relates_samples
