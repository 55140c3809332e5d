"""What of a teacher's cells foretells whether SDD helps, and which scales? From finished studies.

    python examples/forecast.py --collect=scales_digits,scales_garments,scales_fashion \\
        --pairs=docs/studies/pairs.csv
    python examples/forecast.py --pairs=docs/studies/pairs.csv

The first inspects, on validation images, the teacher of every pair of the studies and its first KD
student, and writes one line a pair: these numbers, and the mean gains of every arm over `kd`, on
validation and on test images. The second prints Spearman's rank correlation of each number with
the gains over the pairs, with the p of a permutation test, and the regret of scales, fixed ones
and those that were best on validation images.
"""

import csv
import pathlib
import re
import statistics
import sys

import numpy as np
from absl import app, flags
from reports import results, tables
from scipy import stats
from studies import arms as study_arms
from studies.report import read_lines
from training import command_line, data_sets, machine, networks

import keras_sdd
from configs import studies

SCALES = (1, 2, 4)
PLAIN = "kd"
_STATISTICS = (
    *("complementary_label", "complementary_global", "accuracy", "calibration_error", "entropy"),
    *("negative_log_likelihood", "cell_agreement", "vote_accuracy", "mean_accuracy", "divergence"),
)
_GAIN = re.compile(r"(test|validation)_gain (.*)")
_PERMUTATIONS = 20_000


def collect_study(name, folder):
    """Return a row for every pair of networks of a study of which all is there."""
    study = studies.get_config(name)
    layout = study_arms.Layout(study, study_arms.list_arms(study), folder)
    rows, _ = results.read_rows(folder / "runs")
    lines, _ = read_lines(layout, rows)
    found = []
    for pair in study.pairs:
        own = {line.arm.name: line.rows for line in lines if line.pair == pair}
        if all(own.values()):
            found.append({"study": name, "pair": pair} | _average(own) | inspect_pair(layout, pair))
    return found


def _average(rows):
    """Return the mean gains of the arms of a pair over the plain one, in points."""
    found = {"seeds": min(map(len, rows.values()))}
    for kind, key in (("test", "last_accuracy"), ("validation", "last_validation_accuracy")):
        means = {arm: statistics.mean(row[key] for row in x) for arm, x in rows.items()}
        found |= {
            f"{kind}_gain {arm}": x - means[PLAIN] for arm, x in means.items() if arm != PLAIN
        }
    return found


def inspect_pair(layout, pair):
    """Return what the cells of a pair say on the validation images, as SCALE NETWORK NAME."""
    config = layout.make_run(pair, layout.arms[PLAIN], 0).load_config()
    machine.setup_devices(config)
    _, images = data_sets.load_data(config)
    shape = images.element_spec[0].shape[1:]
    teacher = networks.load_teacher(config, shape)
    run = layout.make_run(pair, layout.arms[PLAIN], 0)
    student = networks.load_network(run.workdir / "last.keras", config, config.student, shape)
    inspection = keras_sdd.inspect_cells(teacher, images, SCALES, student, verbose=0)
    return {
        f"{row['network']} {name} {row['scale']}": row[name]
        for row in inspection.rows()
        for name in _STATISTICS
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
    """Return the pairs of a file of `write_rows`, numbers as numbers."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    texts = ("study", "pair")
    return [{key: x if key in texts else float(x) for key, x in row.items()} for row in rows]


def correlate(rows, gain):
    """Return Spearman's correlation of every number with a gain, the strongest first.

    Returns:
        A list of (name, correlation, p), p of a two-sided permutation test.
    """
    gains = np.array([row[gain] for row in rows])
    names = [key for key in rows[0] if re.match("(teacher|student) ", key)]
    found = []
    for name in names:
        values = np.array([row[name] for row in rows])
        if np.ptp(values) > 0:
            found.append((name, *_test_ranks(values, gains)))
    return sorted(found, key=lambda x: -abs(x[1]))


def _test_ranks(values, gains):
    first, second = (stats.rankdata(x) - (len(gains) + 1) / 2 for x in (values, gains))
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    random = np.random.default_rng(0)
    shuffled = random.permuted(np.tile(second, (_PERMUTATIONS, 1)), axis=1) @ first / scale
    rho = float(first @ second / scale)
    return rho, float((1 + np.sum(np.abs(shuffled) >= abs(rho) - 1e-12)) / (1 + _PERMUTATIONS))


def list_arms(rows):
    """Return the arms that gains are given of."""
    matches = (_GAIN.fullmatch(key) for key in rows[0])
    return list(dict.fromkeys(match[2] for match in matches if match))


def measure_regrets(rows):
    """Return, for fixed scales and for those chosen on validation images, the mean regret.

    The regret of a choice is what the best arm of a pair, `kd` among them, has more on the test
    images, in points.

    Returns:
        A dict of the choice to the regrets of all pairs.
    """
    arms = [PLAIN, *list_arms(rows)]

    def gain(row, kind, arm):
        return 0.0 if arm == PLAIN else row[f"{kind}_gain {arm}"]

    best = [max(gain(row, "test", arm) for arm in arms) for row in rows]
    regrets = {
        arm: [top - gain(row, "test", arm) for top, row in zip(best, rows, strict=True)]
        for arm in arms
    }
    chosen = [max(arms, key=lambda arm, row=row: gain(row, "validation", arm)) for row in rows]
    regrets["best on validation images"] = [
        top - gain(row, "test", arm) for top, row, arm in zip(best, rows, chosen, strict=True)
    ]
    return regrets


def report(rows, strongest=8):
    """Return the tables of gains, correlations and regrets as Markdown."""
    arms = list_arms(rows)
    lines = [["study", "pair", "seeds", *arms]]
    for row in rows:
        gains = [f"{row[f'test_gain {arm}']:+.2f}" for arm in arms]
        lines.append([row["study"], row["pair"], f"{row['seeds']:.0f}", *gains])
    parts = ["Gains over KD on test images, points:", tables.format_table(lines)]
    for arm in arms:
        found = correlate(rows, f"test_gain {arm}")
        lines = [["number", "rank correlation", "p"]]
        lines += [[name, f"{rho:+.2f}", f"{p:.2g}"] for name, rho, p in found[:strongest]]
        parts += [f"{arm}: the strongest {strongest} of {len(found)} numbers, {len(rows)} pairs"]
        parts.append(tables.format_table(lines))
    lines = [["scales", "mean regret", "largest"]]
    for name, regrets in measure_regrets(rows).items():
        lines.append([name, f"{statistics.mean(regrets):.2f}", f"{max(regrets):.2f}"])
    parts += [
        "What other scales, or KD, would have given more, points:",
        tables.format_table(lines),
    ]
    return "\n\n".join(parts)


def main(argv):
    """Collect if asked to, and report."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    values, path = flags.FLAGS, pathlib.Path(flags.FLAGS.pairs)
    command_line.quieten()
    try:
        if values.collect:
            names = values.collect
            folder = pathlib.Path(values.studies)
            write_rows(path, [row for x in names for row in collect_study(x, folder / x)])
        rows = read_rows(path)
    except (command_line.SetupError, LookupError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    if not rows:
        sys.exit(f"error: {path} has no pair of which all arms are run.")
    print(report(rows))


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_list("collect", [], "Studies of configs/studies.py to read and inspect anew.")
    flags.DEFINE_string("studies", "studies", "Folder of the studies' folders.")
    flags.DEFINE_string("pairs", "docs/studies/pairs.csv", "File with a line a pair.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
