"""Print a table of the paper beside the finished runs, and the commands of the cells not run yet.

    python examples/report_table.py --table=2 --runs=runs

A run counts if its config is the cell's: whatever seed and reading were asked for, but no other
setting changed, and no smoke form. Methods that the paper compares with and that are not here have
`no code` for ours.

Tables 1 to 8 are the paper's, and `combinations` and `sp_on_cells` those of its appendix.
`published` is what authors publish of each method, and `fashion_mnist` our own study.
"""

import dataclasses
import json
import os
import pathlib
import re
import statistics
import sys
import typing

import config_keys
from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import (  # noqa: E402
    ablations,
    appendix,
    cifar100,
    cub200,
    fashion_mnist,
    imagenet,
    published,
    recipes,
)

_FILES = {
    module.__name__.split(".")[-1]: module
    for module in (cifar100, imagenet, cub200, ablations, appendix, published, fashion_mnist)
}
_TABLES = {
    table: file
    for file, module in _FILES.items()
    for table in module.TABLES
    if table != "labels_only"
}
# Keys that may differ from the cell's config: they say where, with what seed and how fast to run.
_FREE = {"seed", "data_dir", "teacher_checkpoint", "eval_batch_size", "deterministic"}
_FREE |= {"steps_per_execution", "jit_compile", "fold_teacher", "teacher_cache"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        figure: as in the tables of the configs.
        config: of the experiment, or None if its method is not here, or not for its pair.
        source: the program whose authors publish the figure, or "" in tables of the paper.
        unpublished: settings of the config that are a choice of ours.
    """

    figure: typing.Any
    config: typing.Any
    source: str = ""
    unpublished: tuple = ()


def list_cells(table, reading="official"):
    """Return the cells of a table, FILE:ARG -> `Cell`, its networks trained alone first."""
    module = _FILES[_TABLES[table]]
    sources = getattr(module, "SOURCES", {})
    alone, cells = {}, {}
    for name, figure in module.TABLES[table].items():
        file, arg = name.split(":") if ":" in name else (_TABLES[table], name)
        networks = _FILES[file].TABLES.get("labels_only", {})
        for network in (word for word in arg.split(",") if word in networks):
            source = "SDD" if sources else ""
            alone[f"{file}:{network}"] = _make_cell(file, network, networks, reading, source)
        source = sources.get(file, {}).get(arg.split(",")[-1] if "," in arg else "", "")
        cells[f"{file}:{arg}"] = _make_cell(file, arg, {arg: figure}, reading, source)
    cells = alone | cells
    # Of what is not here, authors give figures for some pairs.
    return {name: x for name, x in cells.items() if x.config or x.figure != "-" or not sources}


def _make_cell(file, arg, figures, reading, source):
    module, distils = _FILES[file], arg.count(",") == 2
    if distils and not module.EXPERIMENTS.has_code(arg):
        return Cell(figures[arg], None, source)
    config = module.get_config(arg, reading)
    if not distils or figures[arg] == "-":
        return Cell(figures[arg], config, source)
    unpublished = module.EXPERIMENTS.list_unpublished(arg, reading)
    return Cell(figures[arg], config, source, tuple(unpublished))


def read_runs(folder):
    """Return the results below a folder, each with the run's `config`."""
    runs = []
    for path in sorted(pathlib.Path(folder).rglob("result.json")):
        config = json.loads((path.parent / "config.json").read_text())
        runs.append(json.loads(path.read_text()) | {"config": config, "path": str(path.parent)})
    return runs


def summarize(values):
    """Return mean and sample standard deviation as text, or a dash."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def make_row(name, cell, runs):
    """Return the fields of one line of the table."""
    figures = recipes.list_figures(cell.figure)
    fields = [name, " / ".join(f"{figure:.2f}" for figure in figures) or "-"]
    for when in ("last", "best"):
        text = summarize([run[f"{when}_accuracy"] for run in runs]) if cell.config else "no code"
        if len(figures) > 1 and runs:
            text += " / " + summarize([run[f"{when}_top5_accuracy"] for run in runs])
        fields.append(text)
    return [*fields, str(len(runs)), cell.source]


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
            config = cells[run["cell"]].config
            changes = config_keys.find_changes(run["config"], config, _FREE)
            changes = ["smoke"] if run["smoke"] else changes
            if changes and not include_changed:
                left_out.append(f"{run['path']}: {', '.join(changes)}")
            else:
                counted[run["cell"]].append(run)
    one_file = len({name.split(":")[0] for name in cells}) == 1
    theirs = "published" if table == "published" else "paper"
    rows = [["experiment", theirs, "ours, last epoch", "ours, best epoch", "runs", "source"]]
    for name, runs in counted.items():
        rows.append(make_row(name.split(":")[1] if one_file else name, cells[name], runs))
    if not any(row[-1] for row in rows[1:]):  # all of the paper
        rows = [row[:-1] for row in rows]
    title = f"Table {table}" if re.fullmatch("[0-9]", table) else table
    parts = [
        f"{title}, reading {reading!r}: test accuracy in percent, mean ± sample standard "
        f"deviation over runs{', top-1 / top-5' if any(' / ' in row[1] for row in rows) else ''}",
        format_table(rows),
    ]
    if left_out:
        parts.append("Left out, as these keys differ from the cell's:\n" + "\n".join(left_out))
    parts += list_choices(cells)
    # What the paper prints a dash for it did not, or could not, run.
    due = [name for name, cell in cells.items() if cell.config and cell.figure != "-"]
    missing = [make_command(cells[name].config) for name in due if not counted[name]]
    if missing:
        parts.append(f"Not run yet ({len(missing)} of {len(due)}):\n" + "\n".join(missing))
    return "\n\n".join(parts)


def list_choices(cells):
    """Return a part of the report that names the settings no author publishes, or nothing."""
    chosen = {}
    for name, cell in cells.items():
        for setting in cell.unpublished:
            chosen.setdefault(setting, []).append(name)
    lines = [f"{setting}: {' '.join(names)}" for setting, names in sorted(chosen.items())]
    if not lines:
        return []
    return ["\n".join(["Settings that are our choice, as no author gives them:", *lines])]


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
    flags.DEFINE_enum("table", "2", list(_TABLES), "Which table.")
    flags.DEFINE_string("runs", "runs", "Folder below which the runs lie.")
    flags.DEFINE_enum("reading", "official", recipes.READINGS, "Of the runs to report.")
    flags.DEFINE_bool("include_changed", False, "Count runs with other changes and smoke forms.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
