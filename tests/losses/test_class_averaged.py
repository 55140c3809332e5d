"""Cells averaged within the teacher's classes; in a distiller it is a row of the table of terms."""

import numpy as np
import pytest
import reference
import reference_losses
from backends import evaluate, value_and_gradient
from keras import ops

from keras_sdd.losses import DIST, DKD, KD, ClassAveraged
from losses.harness import draw

LABELS = np.array([0, 2, 5])


@pytest.mark.parametrize("merge", [True, False])
def test_formula_and_gradient(merge):
    teacher, student = (draw(seed, 3, 17, 6) for seed in (1, 2))
    loss = ClassAveraged(DKD(), merge)

    def compute(teacher, student):
        cells = zip(LABELS, teacher, student, strict=True)
        return [reference_losses.class_averaged(*x, reference.dkd, merge) for x in cells]

    def total(cells):
        return ops.sum(loss(LABELS, ops.stop_gradient(cells[0]), cells[1]))

    value = evaluate(loss, LABELS, teacher, student)
    assert value.dtype == "float32"
    exact = [x.astype("float64") for x in (teacher, student)]
    np.testing.assert_allclose(value, compute(*exact), rtol=2e-5)
    _, gradient = value_and_gradient(total, np.stack([teacher, student]))
    direction = np.random.default_rng(3).standard_normal(student.shape)
    moved = [np.sum(compute(exact[0], exact[1] + x * direction)) for x in (1e-5, -1e-5)]
    np.testing.assert_allclose(
        np.sum(gradient[1] * direction), (moved[0] - moved[1]) / 2e-5, rtol=1e-4
    )
    # The same function: JAX has compiled it.
    for pair in ((1e4 * teacher, student), (teacher, 0 * student), (0 * teacher, 1e4 * student)):
        value, gradient = value_and_gradient(total, np.stack(pair).astype("float32"))
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_one_class_is_the_mean_and_many_are_the_cells():
    teacher, student = (draw(seed, 3, 17, 20, scale=1.0) for seed in (4, 5))
    alike, apart = teacher.copy(), teacher.copy()
    alike[..., 7] += 50.0
    apart[:, np.arange(17), np.arange(17)] += 50.0
    merged, each = ClassAveraged(KD(), True), ClassAveraged(KD(), False)
    mean = evaluate(KD(), LABELS, alike[:, 1:].mean(1), student[:, 1:].mean(1))
    for loss in (merged, each):
        np.testing.assert_allclose(evaluate(loss, LABELS, alike, student), mean, rtol=1e-4)
    of_cells = evaluate(KD(), np.zeros((3, 17), "int32"), apart, student)[:, 1:].mean(1)
    np.testing.assert_allclose(evaluate(each, LABELS, apart, student), of_cells, rtol=1e-4)
    mean = evaluate(KD(), LABELS, apart[:, 1:].mean(1), student[:, 1:].mean(1))
    np.testing.assert_allclose(evaluate(merged, LABELS, apart, student), mean, rtol=1e-4)
    assert np.abs(mean / of_cells - 1).min() > 0.1  # so that the two are told apart


def test_size_of_a_group_does_not_count():
    """Three cells of one class weigh as much as one of another."""
    cells = np.zeros((1, 5, 3), "float32")
    cells[0, 1:4, 0] = [1.0, 2.0, 6.0]
    cells[0, 4, 1] = 5.0
    student = draw(6, 1, 5, 3)
    means = student[:, 1:4].mean(1), student[:, 4]
    expected = evaluate(KD(1.0), [0], np.array([[1.5, 2.5, 0.0]]), sum(means) / 2)
    value = evaluate(ClassAveraged(KD(1.0)), [0], cells, student)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_loss_that_relates_samples():
    teacher, student = (draw(seed, 3, 5, 6) for seed in (7, 8))
    loss = ClassAveraged(DIST(), merge=False)
    assert loss.relates_samples and np.isfinite(evaluate(loss, LABELS, teacher, student)).all()
