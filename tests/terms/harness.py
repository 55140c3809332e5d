"""What every term of the loss must do: `check_term` holds one against its float64 formula."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from backends import BACKEND, to_numpy, value_and_gradient
from keras import ops
from small_classifiers import build_cnn, copy_weights, draw_data, spread_predictions

from keras_sdd import Distiller

X, Y = draw_data()
WEIGHTS = np.random.default_rng(3).uniform(0.0, 2.0, len(X)).astype("float32")


@dataclasses.dataclass
class Case:
    """A row of the table of terms.

    Attributes:
        build: makes the term.
        formula: from the term's weights by name, the readings of teacher and student (dicts of
            float64 arrays) and the labels to a value per sample, or one for all: unweighted.
        gradient_of: the reading of the student that the gradient is checked for.
    """

    build: Callable
    formula: Callable
    gradient_of: str = "map0"


def build_distiller(case, policy="float32"):
    """A distiller of this one term that learns nothing: what it logs is of its first weights."""
    keras.utils.set_random_seed(5)
    teacher = spread_predictions(build_cnn(8, "teacher"))
    keras.config.set_dtype_policy(policy)
    student = build_cnn(4, "student", batch_norm=False)
    keras.config.set_dtype_policy("float32")
    distiller = Distiller(teacher, student, [case.build()])
    optimizer = keras.optimizers.SGD(0.0, momentum=0.9)
    distiller.compile(optimizer, metrics=["accuracy"], jit_compile=BACKEND == "jax")
    return distiller


def fit(distiller, **options):
    return distiller.fit(X, Y, len(X), shuffle=False, verbose=0, **options).history


def named_weights(term):
    """A term's weights in float64, by the end of their path."""
    return {v.path.split("/", 1)[-1]: to_numpy(v.value).astype("float64") for v in term.weights}


def read(distiller):
    """What the term reads of both networks for X, in float64."""
    (term,) = distiller.terms
    teacher = distiller._frozen.predict(X)[term.name]
    student = distiller(X, training=True)[term.name]
    to_float64 = lambda x: to_numpy(ops.cast(x, "float32")).astype("float64")  # noqa: E731
    return [keras.tree.map_structure(to_float64, x) for x in (teacher, student)]


def check_term(case, tmp_path):
    """Check value, sample weights, gradient, precision, evaluation, training and saving."""
    distiller = build_distiller(case)
    (term,) = distiller.terms
    (teacher, student), weight = read(distiller), float(term.weight)

    def compute():  # with what it remembers now
        return weight * case.formula(named_weights(term), teacher, student, Y)

    values = compute()
    # One run with weights and one without, which trains too: every run is a compilation.
    if np.ndim(values):
        check_value(distiller, term, np.mean(WEIGHTS * values), sample_weight=WEIGHTS)
    else:
        check_value(distiller, term, values)
    check_gradient(case, term, teacher, student)
    check_precision(case)
    values = compute()
    logged = check_training_and_saving(distiller, tmp_path)
    if np.ndim(values):
        np.testing.assert_allclose(logged, values.mean(), rtol=1e-4)


def check_value(distiller, term, expected, **options):
    logs = fit(distiller, **options)
    np.testing.assert_allclose(logs[term.name][0], expected, rtol=1e-4)
    total = logs["student_loss"][0] + logs[term.name][0]
    np.testing.assert_allclose(logs["loss"][0], total, rtol=1e-5)
    results = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    assert sorted(results) == ["accuracy", "loss"]  # without the term


def check_gradient(case, term, teacher, student):
    """Against the difference of the formula along a random direction."""
    as_float32 = lambda x: {name: value.astype("float32") for name, value in x.items()}  # noqa: E731
    inputs, weights = (as_float32(teacher), as_float32(student)), named_weights(term)

    def mean_of(reading):
        targets = {"labels": ops.convert_to_tensor(Y), "ids": ops.arange(len(Y))}
        readings = [keras.tree.map_structure(ops.convert_to_tensor, x) for x in inputs]
        readings[1][case.gradient_of] = reading
        with keras.StatelessScope():  # what the term remembers and logs stays as it is
            return ops.mean(term(*readings, targets, training=True))

    _, gradient = value_and_gradient(mean_of, inputs[1][case.gradient_of])
    reading = student[case.gradient_of]
    rng = np.random.default_rng(4)
    for _ in range(3):
        direction = rng.standard_normal(reading.shape)
        step = 1e-8 * np.abs(reading).max()  # so small that few units change sides

        def moved(factor, direction=direction, step=step):
            changed = student | {case.gradient_of: reading + factor * step * direction}
            return np.mean(case.formula(weights, teacher, changed, Y))

        expected = (moved(1) - moved(-1)) / (2 * step)
        size = np.linalg.norm(gradient) * np.linalg.norm(direction) / np.sqrt(direction.size)
        np.testing.assert_allclose(np.sum(gradient * direction), expected, atol=5e-4 * size)


def check_precision(case):
    distiller = build_distiller(case, "mixed_bfloat16")
    distiller.run_eagerly = BACKEND == "tensorflow"  # the step is traced once elsewhere
    (term,) = distiller.terms
    teacher, student = read(distiller)
    expected = np.mean(case.formula(named_weights(term), teacher, student, Y))
    logged = fit(distiller)[term.name][0]
    np.testing.assert_allclose(logged, float(term.weight) * expected, rtol=0.02)


def check_training_and_saving(distiller, tmp_path):
    """What the term learns moves, comes back from a file, and is not the student's.

    Returns what was logged of the term at its first weights.
    """
    (term,) = distiller.terms
    before, frozen = copy_weights(term), copy_weights(distiller.teacher)
    own = {id(v) for v in term.variables}
    assert not own & {id(v) for v in distiller.student.variables}
    distiller.optimizer.learning_rate = 1e-3
    (logged,) = fit(distiller)[term.name]
    for variable, value in zip(term.trainable_variables, before_of(term, before), strict=True):
        assert (to_numpy(variable.value) != value).any(), variable.path
    for actual, expected in zip(copy_weights(distiller.teacher), frozen, strict=True):
        np.testing.assert_array_equal(actual, expected)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert repr(loaded.terms) == repr(distiller.terms)
    assert fit(loaded) == fit(distiller)  # to the last digit
    for actual, expected in zip(copy_weights(loaded), copy_weights(distiller), strict=True):
        np.testing.assert_array_equal(actual, expected)
    return logged


def before_of(term, values):
    ids = {id(v): value for v, value in zip(term.weights, values, strict=True)}
    return [ids[id(v)] for v in term.trainable_variables]
