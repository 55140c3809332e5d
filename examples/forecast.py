"""What of a teacher's cells foretells whether SDD helps, and which scales? From finished studies.

    python examples/forecast.py --collect=scales_digits,scales_garments,scales_fashion \\
        --pairs=docs/studies/pairs.csv
    python examples/forecast.py --pairs=docs/studies/pairs.csv --figure=docs/studies/pairs.png

The first inspects, on validation images, the teacher of every pair of the studies and its first KD
student, and writes one line a pair: these numbers, and the mean gains of every arm over `kd`, on
validation and on test images. The second prints Spearman's rank correlation of each number with
the gains over the pairs, with the p of a permutation test; how far forecasts of pairs that were
left out follow what was measured; and the regret of scales: fixed ones, forecast ones and those
that were best on validation images. --figure draws the gains.
"""

import pathlib
import statistics
import sys

from absl import app, flags
from drawings.palette import COLOURS
from matplotlib.figure import Figure
from ml_collections import config_dict
from reports import forecasts, results, tables
from studies import arms as study_arms
from studies.report import read_lines
from training import command_line, data_sets, machine, networks, records

import keras_sdd
from configs import studies


def collect_study(name, folder):
    """Return a row for every pair of networks of a study of which all runs are there."""
    study = studies.get_config(name)
    layout = study_arms.Layout(study, study_arms.list_arms(study), folder)
    rows, _ = results.read_rows(folder / "runs")
    lines, _ = read_lines(layout, rows)
    found = []
    for pair in study.pairs:
        own = {line.arm.name: line.rows for line in lines if line.pair == pair}
        missing = [arm for arm, x in own.items() if len(x) < study.seeds]
        if missing:
            print(f"{name}, {pair}: left out, runs of {', '.join(missing)} are missing.")
            continue
        found.append({"study": name, "pair": pair} | _average(own) | inspect_pair(layout, pair))
    return found


def _average(rows):
    """Return the mean gains of the arms of a pair over the plain one, in points."""
    found = {"seeds": len(rows[forecasts.PLAIN])}
    for kind, key in (("test", "last_accuracy"), ("validation", "last_validation_accuracy")):
        means = {arm: statistics.mean(row[key] for row in x) for arm, x in rows.items()}
        found |= {
            f"{kind}_gain {arm}": x - means[forecasts.PLAIN]
            for arm, x in means.items()
            if arm != forecasts.PLAIN
        }
    return found


def inspect_pair(layout, pair):
    """Return what the cells of a pair say on the validation images, as NETWORK NAME SCALE."""
    run = layout.make_run(pair, layout.arms[forecasts.PLAIN], 0)
    # As it ran: a study may have been told where its data lie.
    config = config_dict.ConfigDict(records.read_json(run.workdir / "config.json"))
    machine.setup_devices(config)
    _, images = data_sets.load_data(config)
    shape = images.element_spec[0].shape[1:]
    teacher = networks.load_teacher(config, shape)
    student = networks.load_network(run.workdir / "last.keras", config, config.student, shape)
    found = keras_sdd.inspect_cells(teacher, images, forecasts.SCALES, student, verbose=0)
    return forecasts.name_numbers(found)


def report(rows, strongest=8):
    """Return the tables of gains, correlations, forecasts and regrets as Markdown."""
    arms = forecasts.list_arms(rows)
    lines = [["study", "pair", "seeds", *arms]]
    for row in rows:
        gains = [f"{row[f'test_gain {arm}']:+.2f}" for arm in arms]
        lines.append([row["study"], row["pair"], f"{row['seeds']:.0f}", *gains])
    means = (statistics.mean(row[f"test_gain {arm}"] for row in rows) for arm in arms)
    lines.append(["mean", "", "", *(f"{x:+.2f}" for x in means)])
    parts = ["Gains over KD on test images, points:", tables.format_table(lines)]
    for arm in arms:
        gain = f"test_gain {arm}"
        found = forecasts.correlate(rows, gain)
        lines = [["number", "rank correlation", "p"]]
        for name, rho in found[:strongest]:
            p = forecasts.find_p([row[name] for row in rows], [row[gain] for row in rows])
            lines.append([name, f"{rho:+.2f}", f"{p:.2g}"])
        parts.append(f"{arm}: the strongest {strongest} of {len(found)} numbers, {len(rows)} pairs")
        parts.append(tables.format_table(lines))
    lines = [["arm", "without the pair", "p", "without its data", "p"]]
    for arm, found in forecasts.summarize(rows).items():
        lines.append([arm, *(x for rho, p in found.values() for x in (f"{rho:+.2f}", f"{p:.2g}"))])
    parts.append("Forecast against measured gains on test images, rank correlation:")
    parts.append(tables.format_table(lines))
    lines = [["scales", "mean regret", "largest"]]
    for way, regrets in forecasts.measure_regrets(rows).items():
        lines.append([way, f"{statistics.mean(regrets):.2f}", f"{max(regrets):.2f}"])
    parts.append("What other scales, or KD, would have given more, points:")
    parts.append(tables.format_table(lines))
    return "\n\n".join(parts)


def draw_gains(rows, path):
    """Draw the gains over KD on test images, a line a pair, the scales side by side."""
    arms = forecasts.list_arms(rows)
    figure = Figure(figsize=(9, 1.6 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.0, color="0.6", linewidth=1)
    for arm, colour, marker in zip(arms, COLOURS, "os^Dv<", strict=False):
        gains = [row[f"test_gain {arm}"] for row in rows]
        options = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 7}
        mean = f"{arm}: {statistics.mean(gains):+.2f} on average"
        axes.plot(gains, range(len(rows)), label=mean, **options)
    labels = [f"{row['study']}: {row['pair'].replace(',', ' to ')}" for row in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.grid(color="0.9", axis="y")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("gain over KD on test images, points")
    axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, frameon=False)
    figure.savefig(path, dpi=100)


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
            rows = [row for x in names for row in collect_study(x, folder / x)]
            if not rows:
                raise ValueError(f"No pair of {', '.join(names)} in {folder} has all its runs.")
            forecasts.write_rows(path, rows)
        rows = forecasts.read_rows(path)
        text = report(rows)
    except (command_line.SetupError, LookupError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    if values.figure:
        draw_gains(rows, values.figure)
    print(text)


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_list("collect", [], "Studies of configs/studies.py to read and inspect anew.")
    flags.DEFINE_string("studies", "studies", "Folder of the studies' folders.")
    flags.DEFINE_string("pairs", "docs/studies/pairs.csv", "File with a line a pair.")
    flags.DEFINE_string("figure", None, "Draw the gains into this file.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
