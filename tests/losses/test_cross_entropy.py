"""The loss on the labels: every kind of label, and what is none."""

import keras
import numpy as np
import pytest
import reference
from backends import evaluate

from keras_sdd.losses import CrossEntropy
from losses.harness import draw


def test_cross_entropy_takes_every_kind_of_label():
    logits, labels = draw(20, 4, 6), np.array([0, 5, 2, 2])
    one_hot = np.eye(6, dtype="float32")[labels]
    expected = [-reference.log_softmax(z.astype("float64"))[k] for z, k in zip(logits, labels)]  # noqa: B905
    for y in (labels, labels[:, None], labels.astype("float32"), one_hot, one_hot.astype("int32")):
        np.testing.assert_allclose(
            evaluate(CrossEntropy(), y, logits), np.mean(expected), rtol=1e-5
        )
    weights = np.array([0.0, 1.0, 2.0, 0.5], "float32")
    weighted = evaluate(CrossEntropy(), labels, logits, weights)
    np.testing.assert_allclose(weighted, np.mean(weights * expected), rtol=1e-5)
    soft = 0.9 * one_hot + 0.1 / 6
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(
        evaluate(CrossEntropy(), soft, logits), evaluate(keras_loss, soft, logits), rtol=1e-5
    )


@pytest.mark.parametrize(
    "labels",
    [
        [-1, 0],
        [6, 0],
        [0.5, 0],
        [[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]],
        [[2, -1, 0, 0, 0, 0]] * 2,
    ],
)
def test_cross_entropy_of_no_label_is_nan(labels):
    assert np.isnan(evaluate(CrossEntropy(), np.array(labels), draw(21, 2, 6)))
