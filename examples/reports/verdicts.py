"""Whether one method is better than another, from runs of both with the same seeds.

Runs with the same seed start from the same weights and see the same batches, so that they are
compared as pairs: what a seed does to both falls out of the difference.
"""

import dataclasses
import math

import numpy as np
from scipy import special

MIN_SEEDS = 3
CONFIDENCE = 0.95  # of intervals
# A test of 5 % would decide 50 of 1000 comparisons of a method with itself on average, and often
# more. At this level more than 50 come once in 200 times; see simulate_verdicts.py.
LEVEL = 0.035


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What paired differences say.

    Attributes:
        mean: of the differences.
        low, high: ends of Student's 95 % interval of the mean; NaN where there is none.
        p: of the two-sided paired t-test; NaN where there is none.
        num_seeds: number of differences.
        word: "better" if they are above zero, "worse" if below, or "undecided".
        corrected_p: p after Holm's correction, which `word` goes by; p if compared alone.
    """

    mean: float
    low: float
    high: float
    p: float
    num_seeds: int
    word: str
    corrected_p: float


def compare(differences):
    """Return the verdict on differences of two methods, paired by seed.

    The test is Student's. Flipping signs at random needs no normal distribution, but its least p
    is 2 / 2**n, 0.0625 of five seeds: it could never decide what few seeds can show. Differences
    of a method with itself are symmetric, for which the t-test keeps its level well; see
    simulate_verdicts.py.

    Args:
        differences: one number a seed, the method's less the other's.

    Returns:
        A `Verdict`, undecided with fewer than three seeds, and if all differences are equal:
        without a spread there is neither an interval nor a test.

    Raises:
        ValueError: for no differences, and other than finite ones.
    """
    values = np.asarray(differences, dtype="float64")
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"Pass one finite difference a seed, or more. Received: {differences!r}")
    mean, low, high, p = float(values.mean()), math.nan, math.nan, math.nan
    # Equal but for the rounding of percentages.
    if np.ptp(values) > 1e-9 * max(1.0, abs(mean)):
        # What `scipy.stats.ttest_rel` does, in a thirtieth of its time: simulations call it often.
        freedom, error = values.size - 1, float(values.std(ddof=1)) / math.sqrt(values.size)
        half = error * float(special.stdtrit(freedom, 0.5 + 0.5 * CONFIDENCE))
        low, high = mean - half, mean + half
        p = 2.0 * float(special.stdtr(freedom, -abs(mean) / error))
    word = _choose_word(mean, p, values.size)
    return Verdict(mean, low, high, p, values.size, word, p)


def _choose_word(mean, p, num_seeds):
    if num_seeds < MIN_SEEDS or not p < LEVEL:  # NaN is not
        return "undecided"
    return "better" if mean > 0.0 else "worse"


def correct_holm(p_values):
    """Return p-values after Holm's correction, which bounds the risk of any wrong one.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
    of Statistics 6 (1979).

    Args:
        p_values: of the comparisons made together. NaN stays, and counts as a comparison.
    """
    order = np.argsort(p_values)  # NaN last
    corrected, largest = [math.nan] * len(order), 0.0
    for rank, index in enumerate(order):
        if not math.isnan(p_values[index]):
            largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
            corrected[index] = largest
    return corrected


def correct_verdicts(verdicts):
    """Return verdicts that were reached together with words by p after Holm's correction."""
    corrected = correct_holm([verdict.p for verdict in verdicts])
    return [
        dataclasses.replace(
            verdict,
            corrected_p=p,
            word=_choose_word(verdict.mean, p, verdict.num_seeds),
        )
        for verdict, p in zip(verdicts, corrected, strict=True)
    ]


def pair_by_seed(rows_a, rows_b, key="last_accuracy"):
    """Return seed -> difference of `key`, the first rows' less the others', and seeds left over.

    Args:
        rows_a, rows_b: rows of two groups, as of `results.group_rows`.
        key: of a number in both.

    Returns:
        A dict in the order of seeds, and a list of the seeds that only one of the groups has.

    Raises:
        ValueError: if a group has a seed twice, or a row no such number.
    """
    values_a, values_b = _index_by_seed(rows_a, key), _index_by_seed(rows_b, key)
    common = sorted(values_a.keys() & values_b.keys())
    return {x: values_a[x] - values_b[x] for x in common}, sorted(values_a.keys() ^ values_b.keys())


def _index_by_seed(rows, key):
    values: dict = {}
    for row in rows:
        name = row.get("path") or f"{row.get('cell')}, seed {row['seed']}"
        if row["seed"] in values:
            raise ValueError(f"A group has one run a seed. Received twice: {name}")
        if not isinstance(row.get(key), (int, float)) or not math.isfinite(row[key]):
            raise ValueError(f"{name} has no finite number {key!r}. Received: {row.get(key)!r}")
        values[row["seed"]] = row[key]
    return values


def compare_groups(rows_a, rows_b, key="last_accuracy"):
    """Return the verdict on two groups of runs, and the seeds that have no partner.

    Args:
        rows_a, rows_b: rows of two groups, as of `results.group_rows`.
        key: of a number of which more is better.

    Raises:
        ValueError: if no seed is common, and as `pair_by_seed` does.
    """
    differences, alone = pair_by_seed(rows_a, rows_b, key)
    if not differences:
        raise ValueError(f"The groups have no seed in common. Received: seeds {alone}")
    return compare(list(differences.values())), alone
