"""Print a table of the paper beside the finished runs, and the commands of the cells not run yet.

    python examples/report_table.py --table=2 --runs=runs
    python examples/report_table.py --table=2 --compare=sd_kd:kd,sd_dkd:dkd --figure=verdicts.png

A line is a cell, and the runs that are equal in everything but the seed. Runs whose config is not
the cell's, and smoke forms, have lines of their own that say what differs. Methods that the paper
compares with and that are not here have `no code` for ours.

Tables 1 to 8 are the paper's, and `combinations` and `sp_on_cells` those of its appendix.
`published` is what authors publish of each method, and `fashion_mnist` our own study.

With --compare=A:B, A is compared with B on every pair of networks of the table, paired by seed;
`ce` is labels only. --results=FILE.csv takes the runs from a file of `results.write_csv`, and
compares on all pairs of networks in it.
"""

import os
import re
import sys

from absl import app, flags
from reports import comparisons, results, tables, verdicts

from configs import recipes


def report_table(table, rows, problems=(), reading="official"):
    """Return the text of the report on a table.

    Args:
        table: one of `tables.TABLES`.
        rows: of runs, as of `results.read_rows`.
        problems: lines on what could not be read.
        reading: of the runs to report.
    """
    cells = tables.list_cells(table, reading)
    counted = [row for row in rows if row["cell"] in cells and row["reading"] == reading]
    groups = results.group_rows(counted)
    lines, shared = tables.make_rows(cells, groups)
    theirs = "published" if table == "published" else "paper"
    lines.insert(
        0, ["experiment", theirs, "ours, last epoch", "ours, best epoch", "runs", "source"]
    )
    if not any(line[-1] for line in lines[1:]):  # all of the paper
        lines = [line[:-1] for line in lines]
    parts = [
        f"{name_table(table)}, reading {reading!r}: test accuracy in percent, mean ± sample "
        "standard deviation over runs"
        f"{', top-1 / top-5' if any(' / ' in line[1] for line in lines) else ''}",
        tables.format_table(lines),
        *list_shared(shared),
        *tables.list_choices(cells),
    ]
    # What the paper prints a dash for it did not, or could not, run.
    due = [name for name, cell in cells.items() if cell.config and cell.figure != "-"]
    run = {group.cell for group in groups if tables.is_plain(group)}
    missing = [tables.make_command(cells[name].config) for name in due if name not in run]
    if missing:
        parts.append(f"Not run yet ({len(missing)} of {len(due)}):\n" + "\n".join(missing))
    return "\n\n".join(parts + list_problems(problems))


def report_comparisons(compared, problems=()):
    """Return the text of the report on comparisons, as of `comparisons.compare_all`."""
    parts = ["No runs can be compared."]
    if compared:
        parts = [
            "Test accuracy after the last epoch, first method less second, points, paired by seed",
            comparisons.format_comparisons(compared),
            "Intervals and p are of Student's paired t-test, each on its own; the word goes by p "
            f"after Holm's correction for the {len(compared)} of this table, at {verdicts.LEVEL}.",
            *list_shared(comparisons.find_shared(compared)),
        ]
    return "\n\n".join(parts + list_problems(problems))


def name_table(table):
    """Return what a table is called in a title."""
    return f"Table {table}" if re.fullmatch("[0-9]", table) else table


def list_shared(conditions):
    """Return a part of the report on what all runs ran under, or nothing."""
    return [f"All runs: {', '.join(conditions)}"] if conditions else []


def list_problems(problems):
    """Return a part of the report that names what is not in it, or nothing."""
    return ["\n".join(["Problems:", *problems])] if problems else []


def list_networks(table):
    """Return the pairs of networks of a table, as FILE:TEACHER,STUDENT."""
    cells = tables.list_cells(table)
    return {name.rpartition(",")[0] for name in cells if name.count(",") == 2}


def load_rows(values):
    """Return the rows that the flags name, and the problems of reading them."""
    if values.results and values.runs:
        raise ValueError(
            "Pass --runs or --results, not both. "
            f"Received: --runs={values.runs} --results={values.results}"
        )
    if values.results:
        return results.read_csv(values.results), []
    folder = values.runs or "runs"
    if not os.path.isdir(folder):
        print(f"There is no folder {folder!r} yet.\n")
    return results.read_rows(folder)


def main(argv):
    """Print the report."""
    values = flags.FLAGS
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    try:
        print(make_report(values))
    except (LookupError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def make_report(values):
    """Return the text of the report that the flags ask for, its figure drawn."""
    if values.figure and not values.compare:
        raise ValueError(
            f"--figure shows comparisons: pass --compare too. Received: --figure={values.figure}"
        )
    pairs = comparisons.parse_pairs(values.compare)
    rows, problems = load_rows(values)
    if not pairs:
        return report_table(values.table, rows, problems, values.reading)
    groups = results.group_rows([row for row in rows if row["reading"] == values.reading])
    networks = None if values.results else list_networks(values.table)
    compared, uncompared = comparisons.compare_all(groups, pairs, networks)
    if values.figure and compared:
        comparisons.draw_comparisons(compared, values.figure)
    return report_comparisons(compared, [*problems, *uncompared])


def define_flags():
    """Define the flags of the program."""
    flags.DEFINE_enum("table", "2", list(tables.TABLES), "Which table.")
    flags.DEFINE_string("runs", None, "Folder below which the runs lie; by default runs.")
    flags.DEFINE_string("results", None, "CSV file of runs, instead of --runs.")
    flags.DEFINE_enum("reading", "official", recipes.READINGS, "Of the runs to report.")
    flags.DEFINE_list("compare", [], "Pairs of methods to compare, as sd_kd:kd,sd_dkd:dkd.")
    flags.DEFINE_string("figure", None, "File of a figure of the comparisons.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
