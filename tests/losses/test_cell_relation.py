"""The relation between the cells of a scale; in a distiller it is a row of the table of terms."""

import numpy as np
import pytest
import reference_losses
from backends import evaluate, value_and_gradient
from keras import ops

from keras_sdd.losses import CellRelation
from losses.harness import draw

LABELS = np.zeros(3, "int32")


@pytest.mark.parametrize("scales, num_cells", [((1, 2, 4), 21), ((4, 1, 2), 21), ((2, 3), 14)])
def test_formula(scales, num_cells):
    teacher, student = (draw(seed, 3, num_cells, 6) for seed in (1, 2))
    value = evaluate(CellRelation(1.5, scales), LABELS, teacher, student)
    assert value.dtype == "float32"
    pairs = zip(teacher.astype("float64"), student.astype("float64"), strict=True)
    expected = [reference_losses.cell_relation(*pair, scales, 1.5) for pair in pairs]
    np.testing.assert_allclose(value, expected, rtol=2e-5)


def test_own_weights_and_extremes():
    teacher, student = (draw(seed, 3, 21, 6) for seed in (1, 2))
    losses = [CellRelation(scale_weights=x) for x in ((0, 1, 0), (5, 0, 1), (1 / 6, 2 / 6, 3 / 6))]
    second, third, whole = (evaluate(x, LABELS, teacher, student) for x in losses)
    np.testing.assert_allclose(second / 3 + third / 2, whole, rtol=1e-5)
    largest = np.random.default_rng(3).uniform(-1e4, 1e4, teacher.shape).astype("float16")

    def total(cells):
        return ops.sum(losses[2](LABELS, ops.stop_gradient(cells[0]), cells[1]))

    zeros = np.zeros_like(teacher)
    for pair in ((largest, student), (zeros, student), (teacher, zeros), (zeros, zeros)):
        value, gradient = value_and_gradient(total, np.stack(pair).astype("float32"))
        assert np.isfinite(value) and np.isfinite(gradient).all()
    value, gradient = value_and_gradient(total, np.stack([teacher, teacher]))
    np.testing.assert_allclose(value, 0.0, atol=1e-7)
    np.testing.assert_allclose(gradient[1], 0.0, atol=1e-6)
