"""The cells of the tables: the paper's, and those of configs; their lines beside finished runs."""

import dataclasses
import re
import statistics
import typing

from configs import (
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
TABLES = {
    table: file
    for file, module in _FILES.items()
    for table in module.TABLES
    if table != "labels_only"
}


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
    module = _FILES[TABLES[table]]
    sources = getattr(module, "SOURCES", {})
    alone, cells = {}, {}
    for name, figure in module.TABLES[table].items():
        file, arg = name.split(":") if ":" in name else (TABLES[table], name)
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


def summarize(values):
    """Return mean and sample standard deviation as text, or a dash."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def list_conditions(group):
    """Return what a `results.Group` ran under, its teacher aside, as texts."""
    conditions = [f"backend={group.backend}", f"protocol={group.protocol}"]
    conditions += ["smoke"] if group.smoke else []
    return conditions + (re.split(r", (?=[\w.]+=)", group.changes) if group.changes else [])


def find_shared(conditions):
    """Return the conditions that all of several lists have, in the order of the first."""
    first, *others = conditions or [[]]
    return [x for x in first if all(x in other for other in others)]


def list_teachers(groups):
    """Return the teachers that a pair of networks has in groups: pair -> digests."""
    teachers: dict = {}
    for group in groups:
        teachers.setdefault(group.cell.rpartition(",")[0], set()).add(group.teacher)
    return teachers


def make_rows(cells, groups):
    """Return the lines of a table, a group each, and what all groups ran under.

    Of a group, protocol and backend are named where the table has several, the teacher where its
    pair of networks has several, and smoke forms and changes always.

    Args:
        cells: as of `list_cells`.
        groups: those of the cells, as of `results.group_rows`.
    """
    one_file = len({name.split(":")[0] for name in cells}) == 1
    all_conditions = [list_conditions(group) for group in groups]
    shared = [x for x in find_shared(all_conditions) if x.startswith(("backend=", "protocol="))]
    teachers = list_teachers(groups)
    rows = []
    for name, cell in cells.items():
        own = sorted((group for group in groups if group.cell == name), key=_order)
        text = name.split(":")[1] if one_file else name
        if not any(is_plain(group) for group in own):
            rows.append(make_row(text, cell, []))
        for group in own:
            different = [x for x in list_conditions(group) if x not in shared]
            if len(teachers[name.rpartition(",")[0]]) > 1:
                different.append(name_teacher(group))
            label = f" ({', '.join(different)})" if different else ""
            rows.append(make_row(text + label, cell, groups[group]))
    return rows, shared


def name_teacher(group):
    """Return the teacher of a group as a text."""
    return f"teacher={group.teacher[:8] or 'unknown'}"


def is_plain(group):
    """Whether a group ran its cell's own config in full."""
    return not group.smoke and not group.changes


def _order(group):
    return (not is_plain(group), *group)


def make_row(name, cell, runs):
    """Return the fields of one line of the table."""
    figures = recipes.list_figures(cell.figure)
    fields = [name, " / ".join(f"{figure:.2f}" for figure in figures) or "-"]
    for when in ("last", "best"):
        text = summarize([run[f"{when}_accuracy"] for run in runs]) if cell.config else "no code"
        if len(figures) > 1 and runs:
            key = f"{when}_top5_accuracy"
            text += " / " + summarize([run[key] for run in runs if key in run])
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
