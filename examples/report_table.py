"""Print a table of the paper beside the finished runs, and the commands of the cells not run yet.

    python examples/report_table.py --table=2 --runs=runs

A run counts if its config is the cell's: whatever seed and reading were asked for, but no other
setting changed, and no smoke form. `--table=fashion_mnist` is our own study.
"""

import json
import os
import pathlib
import re
import statistics
import sys

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import ablations, cifar100, cub200, fashion_mnist, imagenet, recipes  # noqa: E402

_FILES = {
    "1": cifar100,
    "2": cifar100,
    "3": imagenet,
    "4": imagenet,
    "5": cub200,
    "6": ablations,
    "7": ablations,
    "8": ablations,
    "fashion_mnist": fashion_mnist,
}
# Keys that may differ from the cell's config: they say where, with what seed and how fast to run.
_FREE = {"seed", "data_dir", "teacher_checkpoint", "eval_batch_size", "deterministic"}
_FREE |= {"steps_per_execution", "jit_compile", "fold_teacher", "teacher_cache"}


def list_cells(table, reading="official"):
    """Return the cells of a table, FILE:ARG -> config, its networks trained alone first."""
    module = _FILES[table]
    file = module.__name__.split(".")[-1]
    args = list(module.TABLES[table])
    alone = module.TABLES.get("labels_only", {})
    networks = dict.fromkeys(word for arg in args for word in arg.split(",") if word in alone)
    return {f"{file}:{arg}": module.get_config(arg, reading) for arg in (*networks, *args)}


def read_runs(folder):
    """Return the results below a folder, each with the run's `config`."""
    runs = []
    for path in sorted(pathlib.Path(folder).rglob("result.json")):
        config = json.loads((path.parent / "config.json").read_text())
        runs.append(json.loads(path.read_text()) | {"config": config, "path": str(path.parent)})
    return runs


def find_changes(run, config):
    """Return the keys in which a run's config differs from its cell's, the free ones aside."""
    expected = json.loads(config.to_json())
    keys = (expected.keys() | run["config"].keys()) - _FREE
    return sorted(key for key in keys if expected.get(key) != run["config"].get(key))


def summarize(values):
    """Return mean and sample standard deviation as text, or a dash."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def make_row(cell, config, runs):
    """Return the fields of one line of the table."""
    figures = (config.paper_accuracy, config.paper_top5_accuracy)
    paper = " / ".join(f"{figure:.2f}" for figure in figures if figure is not None) or "-"
    fields = [cell.split(":")[1], paper]
    for when in ("last", "best"):
        text = summarize([run[f"{when}_accuracy"] for run in runs])
        if figures[1] is not None and runs:
            text += " / " + summarize([run[f"{when}_top5_accuracy"] for run in runs])
        fields.append(text)
    return [*fields, str(len(runs))]


def format_table(rows):
    """Return rows, the first of which is the head, as aligned Markdown."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(map(str.ljust, row, widths)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def make_command(config):
    """Return the one line that runs a cell."""
    file, arg = config.cell.split(":")
    program = "train_teacher" if config.method == "ce" else "distill"
    reading = "" if config.reading == "official" else f" --config.reading={config.reading}"
    return f"python examples/{program}.py --config=configs/{file}.py:{arg}{reading}"


def report_table(table, folder, reading="official", include_changed=False):
    """Return the text of the report."""
    cells = list_cells(table, reading)
    counted, left_out = {cell: [] for cell in cells}, []
    for run in read_runs(folder):
        if run["cell"] in cells and run["reading"] == reading:
            changes = ["smoke"] if run["smoke"] else find_changes(run, cells[run["cell"]])
            if changes and not include_changed:
                left_out.append(f"{run['path']}: {', '.join(changes)}")
            else:
                counted[run["cell"]].append(run)
    rows = [["experiment", "paper", "ours, last epoch", "ours, best epoch", "runs"]]
    rows += [make_row(cell, cells[cell], runs) for cell, runs in counted.items()]
    title = f"Table {table}" if re.fullmatch("[0-9]", table) else table
    parts = [
        f"{title}, reading {reading!r}: test accuracy in percent, mean ± sample standard "
        f"deviation over runs{', top-1 / top-5' if '/' in rows[-1][1] else ''}",
        format_table(rows),
    ]
    if left_out:
        parts.append("Left out, as these keys differ from the cell's:\n" + "\n".join(left_out))
    missing = [make_command(cells[cell]) for cell, runs in counted.items() if not runs]
    if missing:
        parts.append(f"Not run yet ({len(missing)} of {len(cells)}):\n" + "\n".join(missing))
    return "\n\n".join(parts)


def main(argv):
    """Print the report."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    values = flags.FLAGS
    if not os.path.isdir(values.runs):
        print(f"There is no folder {values.runs!r} yet.\n")
    print(report_table(values.table, values.runs, values.reading, values.include_changed))


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_enum("table", "2", list(_FILES), "Which table.")
    flags.DEFINE_string("runs", "runs", "Folder below which the runs lie.")
    flags.DEFINE_enum("reading", "official", recipes.READINGS, "Of the runs to report.")
    flags.DEFINE_bool("include_changed", False, "Count runs with other changes and smoke forms.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
