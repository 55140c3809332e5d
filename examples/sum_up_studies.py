"""One table and one figure of several studies, from the files that their reports were made of.

    python examples/sum_up_studies.py --studies=docs/studies --names=digits,garments,fashion

A column is a pair of networks of a study. A field has the mean test accuracy after the last epoch,
in percent, and the difference to the method's plain form with half of its 95 % interval, and the
verdict of the study, corrected for all comparisons of that study. --figure=FILE draws the
differences of the scale-decoupled forms, every seed as a dot.
"""

import pathlib
import sys

from absl import app, flags
from matplotlib.figure import Figure
from reports import comparisons, results, tables, verdicts
from studies import report, tuning
from studies.arms import Layout, list_arms
from training import command_line

from configs import studies


def read_columns(folder, names):
    """Return the columns: (study, pair) -> arm -> (`report.Line`, comparison or None)."""
    columns = {}
    for name in names:
        study, place = studies.get_config(name), pathlib.Path(folder) / name
        layout = Layout(study, list_arms(study), place)
        layout.tuned = tuning.read_choices(place)
        lines, problems = report.read_lines(layout, results.read_csv(place / "results.csv"))
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
        found = report.compare_lines(lines)
        for line in lines:
            column = columns.setdefault((name, line.pair), {})
            column[line.arm.name] = (line, found.get((line.pair, line.arm.name)))
    return columns


def format_columns(columns):
    """Return the table as Markdown."""
    heads = [f"{name}: {pair.replace(',', ' to ')}" for name, pair in columns]
    seeds = [_count_seeds(column) for column in columns.values()]
    arms = list(dict.fromkeys(arm for column in columns.values() for arm in column))
    rows = [[arm, *(_format_field(x.get(arm)) for x in columns.values())] for arm in arms]
    return tables.format_table([["method", *heads], ["seeds", *seeds], *rows])


def _count_seeds(column):
    counts = sorted({len(line.rows) for line, _ in column.values()})
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))


def _format_field(found):
    if found is None or not found[0].rows:
        return "not run"
    line, comparison = found
    values = [row["last_accuracy"] for row in line.rows]
    text = f"{verdicts.compare(values).mean:.2f}"
    if comparison is None:
        return text
    verdict = comparison.verdict
    half = (verdict.high - verdict.low) / 2
    return f"{text}; {verdict.mean:+.2f} ± {half:.2f} {verdict.word}"


def draw_columns(columns, path):
    """Draw the differences of the scale-decoupled forms to their plain ones, a panel a column."""
    arms = [x for x in next(iter(columns.values())) if x.startswith("sd_")]
    size = (2 + 3.2 * len(columns), 1.4 + 0.45 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, ((name, pair), column) in zip(panels, columns.items(), strict=True):
        for place, arm in enumerate(arms):
            if arm in column and column[arm][1]:
                comparisons.draw_difference(panel, place, column[arm][1])
        panel.axvline(0.0, color="black", lw=1)
        panel.set_title(f"{name}\n{pair.replace(',', ' to ')}", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
    plain = {arm: x[0].arm.against for arm, x in next(iter(columns.values())).items()}
    panels[0].set_yticks(range(len(arms)), [f"{arm} less {plain[arm]}" for arm in arms])
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.supxlabel("difference in test accuracy, points", fontsize=10)
    words = "blue, round: better; orange, square: worse; grey: undecided"
    figure.suptitle(f"Dots: seeds; bar: mean, 95 % interval\n{words}", fontsize=10)
    figure.savefig(path, dpi=110)


def main(argv):
    """Print, and draw if asked to."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    values = flags.FLAGS
    command_line.quieten()
    try:
        columns = read_columns(values.studies, values.names)
    except (command_line.SetupError, LookupError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(format_columns(columns))
    if values.figure:
        draw_columns(columns, values.figure)


if __name__ == "__main__":
    flags.DEFINE_string("studies", "docs/studies", "Folder of the studies' folders.")
    flags.DEFINE_list("names", ["digits", "garments", "fashion"], "Studies of configs/studies.py.")
    flags.DEFINE_string("figure", None, "Where to draw them.")
    app.run(main)
