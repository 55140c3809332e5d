"""How far the confidence of a classifier can be trusted: NumPy, float64, outside of steps."""

import numpy as np
from numpy.typing import ArrayLike

from keras_sdd._checks import check_integers

__all__ = [
    "CalibrationBins",
    "expected_calibration_error",
    "log_softmax",
    "negative_log_likelihood",
]


def expected_calibration_error(labels: ArrayLike, logits: ArrayLike, num_bins: int = 15) -> float:
    """Compute the mean distance between confidence and accuracy.

    Predictions are sorted into bins of equal width by their confidence, the largest probability;
    the distances |accuracy - mean confidence| of the bins are averaged by their counts.

    Args:
        labels: integers (N,), class indices.
        logits: floats (N, K).
        num_bins: bins of the confidence, 1 or more.

    Returns:
        A float from 0 to 1; NaN if a logit is NaN or +inf.

    Raises:
        ValueError: if the shapes do not fit, there are none, or a label is no class.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), eq. 3.

    Examples:
        >>> logits = np.log([[0.8, 0.2], [0.8, 0.2]])  # 80 % sure of class 0, right once of two
        >>> round(keras_sdd.calibration.expected_calibration_error([0, 1], logits), 4)
        0.3
    """
    bins = CalibrationBins(num_bins)
    labels, logits = check_labelled_logits(labels, logits)
    confidences = np.exp(np.max(log_softmax(logits), axis=-1))
    bins.add(confidences, np.argmax(logits, axis=-1) == labels)
    return bins.error


def negative_log_likelihood(labels: ArrayLike, logits: ArrayLike) -> float:
    """Compute the mean of -log softmax(logits)[label].

    Args:
        labels: integers (N,), class indices.
        logits: floats (N, K).

    Returns:
        A float, 0 or greater; NaN if a logit is NaN or +inf.

    Raises:
        ValueError: as `expected_calibration_error`.

    Examples:
        >>> logits = np.log([[0.8, 0.2], [0.8, 0.2]])
        >>> round(keras_sdd.calibration.negative_log_likelihood([0, 0], logits), 4)  # -ln 0.8
        0.2231
    """
    labels, logits = check_labelled_logits(labels, logits)
    log_p = log_softmax(logits)
    return float(-np.mean(np.take_along_axis(log_p, labels[:, None], 1)))


class CalibrationBins:
    """Sums of predictions, bin by bin of their confidence, to which batches are added.

    Bin b of M has the confidences in (b / M, (b + 1) / M].

    Args:
        num_bins: M, 1 or more.

    Attributes:
        counts: predictions (M,).
        confidences: sums (M,) of their confidence.
        correct: how many (M,) were right.

    Raises:
        ValueError: if `num_bins` is not a positive integer.

    Examples:
        >>> bins = keras_sdd.calibration.CalibrationBins(num_bins=2)
        >>> bins.add(np.array([0.4, 0.9]), np.array([True, True]))  # of a batch
        >>> bins.add(np.array([0.7]), np.array([False]))
        >>> bins.counts.tolist(), bins.correct.tolist()
        ([1.0, 2.0], [1.0, 1.0])
        >>> round(bins.error, 4)  # (0.6 + |1 - 1.6|) / 3
        0.4
    """

    def __init__(self, num_bins: int = 15) -> None:
        check_integers(1, num_bins=num_bins)
        self.counts, self.confidences, self.correct = np.zeros((3, num_bins))

    def add(self, confidences: np.ndarray, correct: np.ndarray) -> None:
        """Count predictions: how likely each is said to be (N,), and whether it is right (N,).

        Args:
            confidences: floats (N,) from 0 to 1, the largest probability of each prediction.
            correct: booleans (N,), whether it is the label.
        """
        num_bins = len(self.counts)
        edges = np.linspace(0, 1, num_bins + 1)[1:]
        index = np.minimum(np.searchsorted(edges, confidences), num_bins - 1)  # NaN: the last bin
        self.counts += np.bincount(index, minlength=num_bins)
        self.confidences += np.bincount(index, confidences, num_bins)
        self.correct += np.bincount(index, correct, num_bins)

    @property
    def error(self) -> float:
        """The expected calibration error of all that was added."""
        return float(np.sum(np.abs(self.correct - self.confidences)) / np.sum(self.counts))


def log_softmax(logits: ArrayLike) -> np.ndarray:
    """Log-probabilities (..., K) of logits (..., K), in float64; NaN where one is +inf.

    Args:
        logits: floats (..., K).

    Returns:
        float64 array (..., K).

    Examples:
        >>> np.exp(keras_sdd.calibration.log_softmax(np.log([[1.0, 3.0]]))).round(4).tolist()
        [[0.25, 0.75]]
    """
    logits = np.asarray(logits, "float64")
    with np.errstate(invalid="ignore"):
        shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def check_labelled_logits(labels: ArrayLike, logits: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) as int64 and logits (N, K) as float64.

    Raises:
        ValueError: if the shapes do not fit, there are none, or a label is no class.
    """
    labels, logits = np.asarray(labels), np.asarray(logits, "float64")
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or 0 in logits.shape:
        raise ValueError(
            "Expected labels (N,) and logits (N, K) of one or more samples. Received: labels "
            f"{labels.shape}, logits {logits.shape}"
        )
    num_classes = logits.shape[1]
    wrong = ~((labels >= 0) & (labels < num_classes) & (labels == np.floor(labels)))
    if wrong.any():
        raise ValueError(
            f"Labels must be class indices from 0 to {num_classes - 1}. Received: "
            f"{labels[wrong][0]} among them"
        )
    return labels.astype("int64"), logits
