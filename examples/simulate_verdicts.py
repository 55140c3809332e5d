"""Show by simulation how far verdicts can be trusted, and how many seeds they take.

    python examples/simulate_verdicts.py
    python examples/simulate_verdicts.py --deviation=0.3,0.8 --difference=1.0

The first table compares a method with itself: how often is the verdict better or worse, which is
wrong? With several comparisons, how often is any of them wrong after Holm's correction? The second
says with how many seeds a difference is found in `--power` of the draws, for standard deviations
of the paired differences as measured; runs of `report_table.py --compare` show theirs.
"""

import dataclasses

import numpy as np
from absl import app, flags
from reports import tables, verdicts
from scipy import stats

NUM_SEEDS = (3, 5, 10)
# Accuracies come in steps of one test image.
NUM_TEST_IMAGES = 10_000
MAX_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class Draws:
    """How paired differences are drawn, in points of accuracy.

    Attributes:
        deviation: standard deviation of the differences.
        difference: their true mean; 0 for a method and itself.
        num_draws: how many verdicts are reached, or families of verdicts.
        seed: of the draws.
    """

    deviation: float
    difference: float = 0.0
    num_draws: int = 10_000
    seed: int = 0


def draw_differences(draws, *shape):
    """Return differences of accuracies, (num_draws, *shape)."""
    rng = np.random.default_rng([draws.seed, *shape])
    drawn = rng.normal(draws.difference, draws.deviation, (draws.num_draws, *shape))
    step = 100.0 / NUM_TEST_IMAGES
    return np.round(drawn / step) * step


def count_wrong(draws, num_seeds, num_comparisons=1):
    """Return how many families of comparisons without a difference have a wrong verdict."""
    wrong = 0
    for family in draw_differences(draws, num_comparisons, num_seeds):
        reached = verdicts.correct_verdicts([verdicts.compare(x) for x in family])
        wrong += any(verdict.word != "undecided" for verdict in reached)
    return wrong


def measure_power(draws, num_seeds):
    """Return the part of draws in which the difference is found, its sign included."""
    word = "better" if draws.difference > 0.0 else "worse"
    found = [verdicts.compare(x).word == word for x in draw_differences(draws, num_seeds)]
    return sum(found) / len(found)


def find_num_seeds(draws, power=0.8):
    """Return the least number of seeds that reaches a power, or None if 1000 do not."""
    low, high = verdicts.MIN_SEEDS, verdicts.MIN_SEEDS
    while measure_power(draws, high) < power:
        low, high = high + 1, 2 * high
        if high > MAX_SEEDS:
            return None
    while low < high:  # power grows with the seeds
        middle = (low + high) // 2
        if measure_power(draws, middle) >= power:
            high = middle
        else:
            low = middle + 1
    return high


def find_limit(num_draws):
    """Return the number of wrong verdicts that an exact test keeps to, 99 times of 100."""
    return int(stats.binom.ppf(0.99, num_draws, verdicts.LEVEL))


def report_errors(draws, families):
    """Return the table of wrong verdicts, comparing a method with itself."""
    limit = find_limit(draws.num_draws)
    rows = [["seeds", "comparisons", "wrong", f"of {draws.num_draws} (limit {limit})"]]
    for num_seeds in NUM_SEEDS:
        for num_comparisons in families:
            wrong = count_wrong(draws, num_seeds, num_comparisons)
            text = f"{100.0 * wrong / draws.num_draws:.1f} %"
            rows.append([str(num_seeds), str(num_comparisons), text, f"{wrong}"])
    return tables.format_table(rows)


def report_power(all_draws, power):
    """Return the table of the seeds that a difference takes."""
    rows = [["difference", "deviation", f"seeds for {100 * power:.0f} %", "with 5 seeds found in"]]
    for draws in all_draws:
        num_seeds = find_num_seeds(draws, power) or f"more than {MAX_SEEDS}"
        found = f"{100 * measure_power(draws, 5):.0f} %"
        rows.append([f"{draws.difference:g}", f"{draws.deviation:g}", str(num_seeds), found])
    return tables.format_table(rows)


def main(argv):
    """Print both tables."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    values = flags.FLAGS
    deviations = [float(x) for x in values.deviation]
    print(
        "A method compared with itself: families of comparisons with a wrong verdict, decided at "
        f"{100 * verdicts.LEVEL:g} % (a test of 5 % has 5 % of them)\n"
    )
    itself = Draws(deviations[0], 0.0, values.draws, values.seed)
    print(report_errors(itself, [1, values.comparisons]))
    print("\nSeeds that a difference of accuracies takes, in points\n")
    different = [Draws(x, values.difference, values.draws, values.seed) for x in deviations]
    print(report_power(different, values.power))


def check_deviations(words):
    """Whether a flag is a list of numbers above 0."""
    try:
        return bool(words) and all(float(word) > 0.0 for word in words)
    except ValueError:
        return False


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_list("deviation", "0.25,0.5,1.0", "Standard deviations of differences, points.")
    flags.register_validator("deviation", check_deviations, "must be numbers above 0, as 0.3,0.8")
    flags.DEFINE_float("difference", 0.5, "True difference, points.", lower_bound=0.01)
    flags.DEFINE_float("power", 0.8, "Part of draws.", lower_bound=0.05, upper_bound=0.99)
    flags.DEFINE_integer("comparisons", 10, "Comparisons made together.", lower_bound=2)
    flags.DEFINE_integer("draws", 10_000, "Number of draws.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the draws.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
