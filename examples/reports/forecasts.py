"""Forecasts of what SDD gives over KD, from what a teacher says of the cells of images.

A file of pairs has a line for every pair of networks of finished studies: numbers of the teacher's
and a student's cells, as "teacher accuracy 4", and the mean gains of every arm over `kd`, in
points, as "validation_gain SD-KD, M={1,2}".
"""

import csv
import dataclasses
import re

import numpy as np
from scipy import stats

from reports import tables

PLAIN = "kd"
SCALES = (1, 2, 4)
# Of `keras_sdd.CellStatistics`; the last needs a student.
STATISTICS = (
    *("complementary_label", "complementary_global", "accuracy", "calibration_error", "entropy"),
    *("negative_log_likelihood", "cell_agreement", "vote_accuracy", "mean_accuracy", "divergence"),
)
_GAIN = re.compile(r"(test|validation)_gain (.*)")
_PERMUTATIONS = 20_000
_LEVEL = 0.05
_MIN_PAIRS = 3  # a line goes through any two


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A line through the gains of an arm over one number of the teachers' cells.

    Attributes:
        arm: its name.
        number: the one whose ranks go with the gains most closely.
        slope, intercept: of the line, in points; Theil and Sen's, which one odd pair cannot turn.
    """

    arm: str
    number: str
    slope: float
    intercept: float

    def predict(self, numbers):
        """Return the forecast gain over `kd` in points."""
        return self.intercept + self.slope * numbers[self.number]


def name_numbers(inspection):
    """Return what an `Inspection` says, by name; what there is not is left out."""
    return {
        f"{row['network']} {name} {row['scale']}": row[name]
        for row in inspection.rows()
        for name in STATISTICS
        if row[name] == row[name]  # some have no value for one cell, or for a teacher
    }


def write_rows(path, rows):
    """Write the pairs, a line each."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()}
            )


def read_rows(path):
    """Return the pairs of a file of `write_rows`, numbers as numbers.

    Raises:
        OSError: if there is none.
        ValueError: if it has no pair, or something else than a number where one belongs.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"A file of pairs has one or more. Received: {path} without any")
    texts = ("study", "pair")
    try:
        return [{key: x if key in texts else float(x) for key, x in row.items()} for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, collect it anew: {error}") from error


def list_arms(rows):
    """Return the arms that gains are given of."""
    matches = (_GAIN.fullmatch(key) for key in rows[0])
    return list(dict.fromkeys(match[2] for match in matches if match))


def correlate(rows, gain, networks=("teacher", "student")):
    """Return Spearman's correlation of every number with a gain, the strongest first.

    Returns:
        A list of (name, correlation). Numbers that are the same in all pairs are left out.
    """
    gains = [row[gain] for row in rows]
    names = [key for key in rows[0] if key.partition(" ")[0] in networks]
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    found = [(name, correlate_ranks(x, gains)) for name, x in columns.items() if np.ptp(x) > 0]
    return sorted(found, key=lambda x: -abs(x[1]))


def _center_ranks(values):
    ranks = stats.rankdata(values)
    return ranks - ranks.mean()


def correlate_ranks(values, others):
    """Return Spearman's rank correlation; 0 where all values are equal."""
    first, second = _center_ranks(values), _center_ranks(others)
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float(first @ second / scale) if scale else 0.0


def find_p(values, others):
    """Return the p of a rank correlation, two-sided, of a permutation test.

    Correlations of few pairs have no good approximation.
    """
    first, second = _center_ranks(values), _center_ranks(others)
    random = np.random.default_rng(0)
    shuffled = np.abs(random.permuted(np.tile(second, (_PERMUTATIONS, 1)), axis=1) @ first)
    reached = np.sum(shuffled >= abs(first @ second) - 1e-9)
    return float((1 + reached) / (1 + _PERMUTATIONS))


def fit(rows, arm):
    """Return the `Forecast` of an arm, from its gains on validation images.

    Only the teachers' numbers are used: a forecast comes before there is a student.

    Raises:
        ValueError: if no number differs between the pairs.
    """
    gain = f"validation_gain {arm}"
    found = correlate(rows, gain, ("teacher",))
    if not found:
        raise ValueError(f"All {len(rows)} pairs have the same numbers: nothing foretells a gain.")
    number = found[0][0]
    line = stats.theilslopes([row[gain] for row in rows], [row[number] for row in rows])
    return Forecast(arm, number, float(line.slope), float(line.intercept))


def predict_left_out(rows, arm, key):
    """Return the forecast of every pair's gain from the pairs that have another `key`.

    Args:
        key: "pair" leaves a pair out, "study" all pairs of its data.

    Raises:
        ValueError: if fewer than three others are left.
    """
    found = []
    for row in rows:
        others = [x for x in rows if (x["study"], x[key]) != (row["study"], row[key])]
        if len(others) < _MIN_PAIRS:
            raise ValueError(
                f"Forecasts are tried on pairs that they do not know, and need {_MIN_PAIRS} others "
                f"of other studies. Received: {len(rows)} in all, {len(others)} without {key} "
                f"{row[key]}. Collect more studies."
            )
        found.append(fit(others, arm).predict(row))
    return found


def measure_regrets(rows):
    """Return the regrets of ways to choose scales: what the best arm has more on test images.

    The ways are every arm for all pairs, `kd` among them; the arm of the largest forecast gain,
    without the pair and without its data; and the best arm on validation images, which has to train
    a student with each.

    Returns:
        A dict of the way to the regrets of all pairs, in points.
    """
    arms = [PLAIN, *list_arms(rows)]

    def measure(kind):
        return [
            {arm: 0.0 if arm == PLAIN else row[f"{kind}_gain {arm}"] for arm in arms}
            for row in rows
        ]

    def predict(key):
        columns = {arm: predict_left_out(rows, arm, key) for arm in arms if arm != PLAIN}
        columns[PLAIN] = [0.0] * len(rows)
        return [{arm: columns[arm][i] for arm in arms} for i in range(len(rows))]

    gains = measure("test")
    ways = {arm: [arm] * len(rows) for arm in arms}
    values = {
        "forecast without the pair": predict("pair"),
        "forecast without its data": predict("study"),
        "best on validation images": measure("validation"),
    }
    ways |= {way: [max(x, key=x.get) for x in rows] for way, rows in values.items()}
    return {
        way: [max(gain.values()) - gain[arm] for gain, arm in zip(gains, chosen, strict=True)]
        for way, chosen in ways.items()
    }


def summarize(rows):
    """Return how far forecasts of left out pairs followed the measured gains on test images.

    Returns:
        A dict of the arm to a dict of "pair" and "study", of what was left out, to (rank
        correlation, p).
    """
    found = {}
    for arm in list_arms(rows):
        gains = [row[f"test_gain {arm}"] for row in rows]
        found[arm] = {}
        for key in ("pair", "study"):
            predicted = predict_left_out(rows, arm, key)
            found[arm][key] = correlate_ranks(predicted, gains), find_p(predicted, gains)
    return found


def describe(rows, trust, inspection):
    """Return the forecasts for a teacher as text, with how far such forecasts can be trusted.

    Args:
        rows: the pairs that forecasts are made from.
        trust: what `summarize` says of them.
        inspection: of the teacher, at the scales 1, 2 and 4.
    """
    numbers, arms = name_numbers(inspection), list_arms(rows)
    if not {f"teacher accuracy {m}" for m in SCALES} <= numbers.keys():
        return "No forecast of SDD's gain: it needs the cells of --scales=1,2,4."
    forecasts = {arm: fit(rows, arm) for arm in arms}
    gains = {arm: forecast.predict(numbers) for arm, forecast in forecasts.items()}
    lines = [["arm", "gain over KD", "by", "rank correlation", "p"]]
    for arm in arms:
        rho, p = trust[arm]["study"]
        line = [arm, f"{gains[arm]:+.2f}", forecasts[arm].number, f"{rho:+.2f}", f"{p:.2g}"]
        lines.append(line)
    doubt = max(trust[arm]["study"][1] for arm in arms) >= _LEVEL
    words = " Trust it as little as its p says: above 0.05 it may be chance." if doubt else ""
    return (
        f"Forecast of SDD's gain in points of accuracy, from {len(rows)} pairs of networks:\n"
        f"{tables.format_table(lines)}\n"
        "Rank correlation: of forecasts without a pair's data with what was then measured."
        f"{words}\n{_advise(rows, gains)}"
    )


def _advise(rows, gains):
    """Say which arm to take: the best of the forecasts, if such choices lost less than one arm."""
    lost = {way: np.mean(regrets) for way, regrets in measure_regrets(rows).items()}
    fixed, forecast = min([PLAIN, *gains], key=lost.get), lost["forecast without its data"]
    losses = (
        f"Chosen by such forecasts, the scales of these pairs were {forecast:.2f} points from "
        f"the best on average; {fixed} for all of them {lost[fixed]:.2f}"
    )
    if lost[fixed] <= forecast:
        return f"{losses}. So take that, whatever is forecast."
    best = max(gains, key=gains.get)
    return f"{losses}. By the forecast: {best if gains[best] > 0 else PLAIN}."
