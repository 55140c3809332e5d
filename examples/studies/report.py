"""What a study came to: a table with verdicts, the numbers as CSV files, and figures.

report.md      a table for each pair of networks
results.csv    every run, a line each; `--results=results.csv` makes the report of it
curves.csv     loss and accuracy on validation images, epoch by epoch, means over the seeds
accuracy.png   every run as a dot
verdicts.png   every difference to the plain form as a dot
curves.png     the same as curves.csv
"""

import csv
import dataclasses
import json
import math
import statistics

from matplotlib.figure import Figure
from reports import comparisons, results, tables, verdicts
from training import records

_HEAD = (
    *("method", "test accuracy, %", "95 % interval", "seeds", "ECE, %", "NLL", "as the teacher, %"),
    *("against", "difference", "95 % interval ", "p, Holm", "verdict"),
)
_CURVES = ("student_loss", "val_accuracy")
_COLOURS = ("#000000", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999")


@dataclasses.dataclass(frozen=True)
class Line:
    """An arm on a pair of networks, with its runs."""

    pair: str
    arm: object
    rows: list


def read_lines(layout, rows):
    """Return the lines of the pairs of a study, and problems with what does not fit it.

    Args:
        layout: `arms.Layout`.
        rows: as of `results.read_rows` or `results.read_csv`.
    """
    groups = results.group_rows(rows)
    lines, problems, used = [], [], set()
    for pair in layout.study.pairs:
        for arm in layout.arms.values():
            config = layout.make_run(pair, arm, 0).load_config()
            changes = results.describe_changes(json.loads(config.to_json()))
            found = [x for x in groups if (x.cell, x.changes) == (config.cell, changes)]
            used |= set(found)
            found.sort(key=lambda group: len(groups[group]), reverse=True)
            # Of other backends or teachers, say: no part of the same figure.
            problems += [f"{pair}, {arm.name}: left out, {x}" for x in found[1:]]
            lines.append(Line(pair, arm, groups[found[0]] if found else []))
    problems += [f"no arm of the study: {x}" for x in groups if x not in used]
    return lines, problems


def compare_lines(lines):
    """Return (pair, arm) -> `comparisons.Comparison` with the arm's plain form, Holm-corrected."""
    named = {(line.pair, line.arm.name): line for line in lines}
    found = {}
    for key, line in named.items():
        other = named.get((line.pair, line.arm.against))
        if other is None or not line.rows or not other.rows:
            continue
        differences, alone = verdicts.pair_by_seed(line.rows, other.rows)
        if differences:
            verdict = verdicts.compare(list(differences.values()))
            name = f"{line.arm.name} : {line.arm.against}"
            found[key] = comparisons.Comparison(
                line.pair,
                name,
                (f"teacher={line.rows[0]['teacher']}",),
                differences,
                tuple(alone),
                verdict,
            )
    corrected = verdicts.correct_verdicts([x.verdict for x in found.values()])
    return {
        key: dataclasses.replace(x, verdict=verdict)
        for (key, x), verdict in zip(found.items(), corrected, strict=True)
    }


def make_row(line, comparison):
    """Return the fields of a line of the table."""
    if not line.rows:
        return [line.arm.name, "not run", *["-"] * (len(_HEAD) - 2)]
    accuracies = [row["last_accuracy"] for row in line.rows]
    interval = verdicts.compare(accuracies)
    fields = [
        line.arm.name,
        f"{interval.mean:.2f}",
        _write_interval(interval, ""),
        str(len(accuracies)),
    ]
    for key, digits in (("last_ece", 1), ("last_nll", 3), ("last_teacher_agreement", 1)):
        values = [row[key] for row in line.rows if key in row]
        fields.append(f"{statistics.mean(values):.{digits}f}" if values else "-")
    if comparison is None:
        return [*fields, *["-"] * 5]
    verdict = comparison.verdict
    p = "-" if math.isnan(verdict.corrected_p) else f"{verdict.corrected_p:.2g}"
    against = [line.arm.against, f"{verdict.mean:+.2f}", _write_interval(verdict, "+")]
    return [*fields, *against, p, verdict.word]


def _write_interval(verdict, sign):
    if math.isnan(verdict.low):
        return "-"
    return f"{verdict.low:{sign}.2f} to {verdict.high:{sign}.2f}"


def format_report(layout, lines, found, problems):
    """Return the report as Markdown."""
    study = layout.study
    parts = [
        f"# {study.name}",
        f"`python examples/study.py --config=configs/studies.py:{study.name}`: "
        f"experiments of `configs/{study.experiments}.py`. "
        "Accuracy on the test images after the last epoch; differences are paired by seed, with "
        "Student's interval and the p of a paired t-test "
        f"after Holm's correction for the {len(found)} comparisons here.",
    ]
    for pair in study.pairs:
        rows = [make_row(x, found.get((pair, x.arm.name))) for x in lines if x.pair == pair]
        parts += [f"## {pair.replace(',', ' to ')}", tables.format_table([list(_HEAD), *rows])]
    short = [
        f"{x.pair}, {x.arm.name}: {len(x.rows)} of {study.seeds}"
        for x in lines
        if len(x.rows) < study.seeds
    ]
    for title, texts in (("Not all run", short), ("Problems", problems)):
        if texts:
            parts.append("\n".join([f"## {title}", "", *(f"- {text}" for text in texts)]))
    return "\n\n".join(parts)


def read_curves(layout):
    """Return (pair, arm) -> epoch by epoch, a dict of means over the seeds that are there."""
    curves = {}
    for pair in layout.study.pairs:
        for arm in layout.arms.values():
            runs = [layout.make_run(pair, arm, seed) for seed in range(layout.study.seeds)]
            logs = [records.read_log(run.workdir) for run in runs if run.is_finished]
            if logs:
                # With labels only, the loss is that of the labels.
                curves[pair, arm.name] = [
                    {x: statistics.mean(row.get(x, row["loss"]) for row in rows) for x in _CURVES}
                    for rows in zip(*logs, strict=True)
                ]
    return curves


def write_curves(path, curves):
    """Write the curves, a line an epoch."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("pair", "arm", "epoch", *_CURVES))
        for (pair, arm), rows in curves.items():
            for epoch, row in enumerate(rows, 1):
                writer.writerow((pair, arm, epoch, *(f"{row[x]:.5g}" for x in _CURVES)))


def draw_curves(path, curves, pairs):
    """Draw loss on the labels and accuracy on validation images, of the first arms."""
    figure = Figure(figsize=(12, 4 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), 2, squeeze=False)
    for row, pair in zip(axes, pairs, strict=True):
        shown = [key for key in curves if key[0] == pair][: len(_COLOURS)]
        for panel, name in zip(row, _CURVES, strict=True):
            for colour, key in zip(_COLOURS, shown, strict=False):
                values = [x[name] for x in curves[key]]
                panel.plot(range(1, len(values) + 1), values, color=colour, label=key[1])
            panel.set_xlabel("epoch")
            panel.spines[["top", "right"]].set_visible(False)
        row[0].set(
            ylabel="loss on the labels, times its weight",
            yscale="log",
            title=pair.replace(",", " to "),
        )
        row[1].set(ylabel="accuracy on validation images", title="means over seeds")
        row[1].legend(frameon=False)
    figure.savefig(path, dpi=100)


def draw_accuracies(path, lines, pairs):
    """Draw every run as a dot, a panel for each pair of networks, with means and intervals."""
    arms = list(dict.fromkeys(line.arm.name for line in lines))
    figure = Figure(figsize=(1.5 + 5 * len(pairs), 1.2 + 0.32 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for panel, pair in zip(panels, pairs, strict=True):
        for line in (x for x in lines if x.pair == pair and x.rows):
            place, values = arms.index(line.arm.name), [row["last_accuracy"] for row in line.rows]
            panel.scatter(values, [place] * len(values), s=22, color="#0072b2", lw=0, zorder=3)
            verdict = verdicts.compare(values)
            panel.plot(verdict.mean, place, "D", color="#d55e00", markersize=5)
            if not math.isnan(verdict.low):
                panel.plot([verdict.low, verdict.high], [place] * 2, color="#d55e00", lw=2)
        panel.set(xlabel="test accuracy, %", title=pair.replace(",", " to "))
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.suptitle("Dots: seeds. Diamond and bar: mean, 95 % interval")
    figure.savefig(path, dpi=100)


def write_report(layout, folder, csv_path=None):
    """Write all files of the report, and return its text.

    Args:
        layout: `arms.Layout`.
        folder: of the files.
        csv_path: results of earlier; None for those of the finished runs, curves included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if csv_path:
        rows, problems = results.read_csv(csv_path), []
    else:
        rows, problems = results.read_rows(layout.folder / "runs")
        results.write_csv(folder / "results.csv", rows)
        curves = read_curves(layout)
        write_curves(folder / "curves.csv", curves)
        draw_curves(folder / "curves.png", curves, layout.study.pairs)
    lines, unknown = read_lines(layout, rows)
    found = compare_lines(lines)
    draw_accuracies(folder / "accuracy.png", lines, layout.study.pairs)
    if found:
        comparisons.draw_comparisons(list(found.values()), folder / "verdicts.png")
    text = format_report(layout, lines, found, problems + unknown)
    records.write_text(folder / "report.md", text + "\n")
    return text
