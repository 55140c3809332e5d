"""Calibration, against plain loops in float64."""

import math

import keras
import numpy as np
import pytest

from keras_sdd.calibration import (
    CalibrationBins,
    expected_calibration_error,
    negative_log_likelihood,
)

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


def loop(labels, logits, num_bins):
    """Calibration error and negative log-likelihood, sample by sample."""
    bins, total = [[] for _ in range(num_bins)], 0.0
    for label, row in zip(labels, logits.tolist(), strict=True):
        p = [math.exp(x) for x in row]
        p = [x / sum(p) for x in p]
        total -= math.log(p[label])
        confidence = max(p)
        index = next(b for b in range(num_bins) if confidence <= (b + 1) / num_bins)
        bins[index].append((confidence, p.index(confidence) == label))
    error = 0.0
    for one in filter(None, bins):
        accuracy = sum(right for _, right in one) / len(one)
        error += len(one) * abs(accuracy - sum(c for c, _ in one) / len(one))
    return error / len(labels), total / len(labels)


@pytest.mark.parametrize("num_bins", [15, 1, 4])
def test_against_a_loop(num_bins):
    rng = np.random.default_rng(0)
    logits, labels = 2.0 * rng.standard_normal((200, 5)), rng.integers(0, 5, 200)
    error, likelihood = loop(labels, logits, num_bins)
    assert abs(expected_calibration_error(labels, logits, num_bins) - error) < 1e-12
    assert abs(negative_log_likelihood(labels, logits) - likelihood) < 1e-12


def test_batches_add_up():
    rng = np.random.default_rng(1)
    confidences, correct = rng.uniform(size=200), rng.integers(0, 2, 200)
    bins = CalibrationBins(5)
    for part in (slice(0, 70), slice(70, 71), slice(71, 200)):
        bins.add(confidences[part], correct[part])
    index = np.ceil(5 * confidences) - 1
    for b in range(5):
        own = index == b
        assert bins.counts[b] == own.sum() and bins.correct[b] == correct[own].sum()
        assert bins.confidences[b] == pytest.approx(confidences[own].sum(), rel=1e-12)


def test_known_values():
    logits = np.log([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    assert expected_calibration_error([0, 1, 0], logits) == pytest.approx((0.6 + 0.4) / 3)
    assert negative_log_likelihood([0], [[0.0, 0.0]]) == pytest.approx(math.log(2))
    halves = CalibrationBins(2)
    halves.add([0.5], [True])  # a confidence on an edge is of the bin below it
    assert halves.counts.tolist() == [1, 0]
    large = [[2e4, -2e4], [-2e4, 2e4]]
    assert expected_calibration_error([0, 0], large) == 0.5
    assert negative_log_likelihood([0, 0], large) == 2e4
    for measure in (expected_calibration_error, negative_log_likelihood):
        for x in (math.nan, math.inf):
            assert math.isnan(measure([0, 1], [[1.0, x], [0.0, 1.0]]))


@pytest.mark.parametrize(
    "labels, logits, match",
    [
        ([0, 2], np.zeros((2, 2)), "from 0 to 1. Received: 2 "),
        ([-1, 0], np.zeros((2, 2)), "Received: -1 "),
        ([0.5, 0], np.zeros((2, 2)), "Received: 0.5 "),
        ([0], np.zeros((2, 2)), r"labels \(1,\), logits \(2, 2\)"),
        ([], np.zeros((0, 2)), r"one or more samples.*\(0, 2\)"),
    ],
)
def test_bad_input(labels, logits, match):
    for measure in (expected_calibration_error, negative_log_likelihood):
        with pytest.raises(ValueError, match=match):
            measure(np.array(labels), logits)


def test_bad_bins():
    with pytest.raises(ValueError, match="num_bins=0"):
        expected_calibration_error([0], [[0.0, 1.0]], num_bins=0)
