"""Verdicts on paired runs: known values, what must stay undecided, and simulations."""

import math

import keras
import numpy as np
import pytest
import simulate_verdicts
from reports import verdicts
from scipy import stats

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


def test_hand_numbers():
    # Mean 2, deviation 1: t = 2 sqrt(3); with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2), and
    # the quantile of 0.975 is 0.95 sqrt(2 / (1 - 0.95^2)).
    verdict = verdicts.compare([1.0, 2.0, 3.0])
    half = 0.95 * math.sqrt(2.0 / (1.0 - 0.95**2)) / math.sqrt(3.0)
    assert verdict.mean == 2.0 and verdict.num_seeds == 3 and verdict.word == "undecided"
    np.testing.assert_allclose(
        [verdict.low, verdict.high, verdict.p],
        [2.0 - half, 2.0 + half, 1.0 - math.sqrt(12.0 / 14.0)],
    )


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 30])
def test_paired_test_is_scipys(num_seeds):
    rng = np.random.default_rng(num_seeds)
    first, second = rng.normal(70.0, 1.0, (2, num_seeds))
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    rows = [
        [{"seed": i, "cell": "c", "last_accuracy": x} for i, x in enumerate(accuracies)]
        for accuracies in (first, second)
    ]
    verdict, alone = verdicts.compare_groups(*rows)
    assert not alone
    np.testing.assert_allclose(
        [verdict.p, verdict.corrected_p, verdict.low, verdict.high],
        [expected.pvalue, expected.pvalue, *interval],
    )


def test_words():
    differences = np.array([1.0, 1.2, 0.9])
    assert verdicts.compare(differences).word == "better"
    assert verdicts.compare(-differences).word == "worse"
    # p is between the level and 5 %
    between = verdicts.compare([1.0, 2.0, 1.2, 0.3])
    assert verdicts.LEVEL < between.p < 0.05 < 1.0 and between.word == "undecided"
    two = verdicts.compare([1.0, 1.001])
    assert two.p < 0.001 and two.word == "undecided"


@pytest.mark.parametrize("differences", [[0.5], [0.0] * 5, [0.3, 0.1 + 0.2, 70.3 - 70.0]])
def test_no_spread_is_undecided(differences):
    verdict = verdicts.compare(differences)
    assert verdict.word == "undecided" and verdict.num_seeds == len(differences)
    assert all(map(math.isnan, (verdict.low, verdict.high, verdict.p, verdict.corrected_p)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "one finite difference a seed"),
        (([1.0, float("nan")],), "one finite difference a seed"),
        (([[1.0, 2.0]],), "one finite difference a seed"),
    ],
)
def test_bad_differences_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        verdicts.compare(*arguments)


def test_holm():
    # 4 x 0.005; 3 x 0.01; 2 x 0.03; 0.04 is less than the one before, and rises to it.
    np.testing.assert_allclose(
        verdicts.correct_holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
    )
    # What has no p counts as a comparison.
    np.testing.assert_allclose(verdicts.correct_holm([math.nan, 0.02, 0.7]), [math.nan, 0.06, 1.0])


def test_words_go_by_corrected_p():
    lone = [verdicts.compare([0.5, 0.6, 0.8]), verdicts.compare([-1.0, -1.02, -0.98])]
    assert [x.word for x in lone] == ["better", "worse"]
    family = verdicts.correct_verdicts([*lone, verdicts.compare([0.5, 0.5, 0.5])])
    assert [x.word for x in family] == ["undecided", "worse", "undecided"]
    np.testing.assert_allclose(family[0].corrected_p, 2 * lone[0].p)
    assert family[0].p == lone[0].p and (family[0].low, family[0].high) == (
        lone[0].low,
        lone[0].high,
    )


def make_rows(accuracies):
    return [{"seed": seed, "cell": "c", "path": f"r{seed}", "x": x} for seed, x in accuracies]


def test_pairs_are_of_equal_seeds():
    first = make_rows([(2, 73.0), (0, 71.0), (7, 0.0), (1, 72.5)])
    second = make_rows([(0, 70.0), (1, 71.0), (2, 71.0), (9, 0.0)])
    differences, alone = verdicts.pair_by_seed(first, second, "x")
    assert differences == {0: 1.0, 1: 1.5, 2: 2.0} and alone == [7, 9]
    verdict, alone = verdicts.compare_groups(first, second, "x")
    assert (verdict.mean, verdict.num_seeds, alone) == (1.5, 3, [7, 9])


@pytest.mark.parametrize(
    ("second", "key", "message"),
    [
        ([(0, 1.0), (0, 2.0)], "x", "one run a seed. Received twice: r0"),
        ([(0, None)], "x", "r0 has no finite number 'x'"),
        ([(0, 1.0)], "y", "r0 has no finite number 'y'"),
        ([(5, 1.0)], "x", r"no seed in common. Received: seeds \[0, 5\]"),
    ],
)
def test_what_cannot_be_paired_is_refused(second, key, message):
    with pytest.raises(ValueError, match=message):
        verdicts.compare_groups(make_rows([(0, 1.0)]), make_rows(second), key)


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_a_method_against_itself(num_seeds):
    # Of 1000 draws at most 5 % are wrong. The level is not far below: an exact test of 3.5 % has 22
    # or more in 99 of 100 cases.
    draws = simulate_verdicts.Draws(0.5, num_draws=1000)
    assert 22 <= simulate_verdicts.count_wrong(draws, num_seeds) <= 50
    # Likewise 15 of 250 families in 99 of 100; without Holm's correction it would be about 80.
    families = simulate_verdicts.Draws(0.5, num_draws=250)
    assert simulate_verdicts.count_wrong(families, num_seeds, num_comparisons=10) <= 15


def test_power():
    # The noncentral t distribution gives the power of 10 seeds, and of 9.
    exact = [
        stats.nct.sf(stats.t.ppf(1 - verdicts.LEVEL / 2, n - 1), n - 1, math.sqrt(n))
        for n in (11, 12)
    ]
    assert exact[0] < 0.8 < exact[1]
    draws = simulate_verdicts.Draws(0.5, difference=0.5, num_draws=1000)
    assert simulate_verdicts.find_num_seeds(draws) in (11, 12, 13)
    measured = simulate_verdicts.measure_power(draws, 12)
    assert abs(measured - exact[1]) < 3.0 * math.sqrt(0.8 * 0.2 / 1000)
    assert "| 0.5        | 0.5 " in simulate_verdicts.report_power([draws], 0.8)
