"""Which runs are compared with which, and the lines and the figure of what comes out."""

import dataclasses
import math

from matplotlib.figure import Figure

from configs import methods, recipes
from reports import tables, verdicts

_HEAD = ("networks", "methods", "seeds", "mean difference", "95 % interval", "p", "p, Holm", "word")
# Colours that the colour-blind tell apart, and markers for print without colours.
_STYLES = {"better": ("#0072b2", "o"), "worse": ("#d55e00", "s"), "undecided": ("#6b6b6b", "D")}
# Keys that say what a method is; the others must be equal on both sides.
_OF_METHODS = ("terms.", "student_loss_weight=")
# What runs with labels only have no part in.
_OF_TEACHERS = "teacher"


@dataclasses.dataclass(frozen=True)
class Side:
    """One group as a side of comparisons.

    Attributes:
        group: a `results.Group`.
        method: its name.
        networks: FILE:TEACHER,STUDENT, or FILE:STUDENT with labels only.
        shared: conditions that the other side must have too, the teacher first if there is one.
        changes: of the method itself.
    """

    group: tuple
    method: str
    networks: str
    shared: tuple
    changes: tuple


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One method less another, seed by seed.

    Attributes:
        networks: FILE:TEACHER,STUDENT.
        methods: both, with what was changed of them.
        conditions: of all runs, the teacher first.
        differences: seed -> difference of the test accuracies after the last epoch, in points.
        alone: seeds that only one method has.
        verdict: with p corrected for all comparisons that were made together.
    """

    networks: str
    methods: str
    conditions: tuple
    differences: dict
    alone: tuple
    verdict: verdicts.Verdict


def parse_pairs(words):
    """Return pairs of methods from texts like "sd_kd:kd".

    Raises:
        LookupError: for an unknown method, with the near ones.
        ValueError: for another form, a method with itself, or a pair that is given twice.
    """
    pairs = []
    for word in words:
        names = tuple(word.strip().split(":"))
        if len(names) != 2 or names[0] == names[1] or set(names) in map(set, pairs):
            raise ValueError(
                "Pass different pairs of two methods each, as --compare=sd_kd:kd,sd_dkd:dkd. "
                f"Received: {','.join(words)!r}"
            )
        for part in [part for name in names for part in name.split("+")]:
            recipes.pick("method", part, [*methods.METHODS, "ce"])
        pairs.append(names)
    return pairs


def compare_all(groups, pairs, networks=None):
    """Compare methods on every pair of networks that has runs of both.

    Sides differ in the method alone, the settings of its terms and the weight of the labels
    included. Labels only, `ce`, is compared with the methods of every teacher.

    Args:
        groups: as of `results.group_rows`.
        pairs: as of `parse_pairs`.
        networks: FILE:TEACHER,STUDENT, the pairs to look at; None for all.

    Returns:
        A list of `Comparison`, and a list of lines on runs that could not be compared.
    """
    sides = [side for group, rows in groups.items() if (side := _make_side(group, rows))]
    found, problems = [], []
    for name_a, name_b in pairs:
        sides_a, sides_b = ([x for x in sides if x.method == name] for name in (name_a, name_b))
        matched: set = set()
        for a, b in ((a, b) for a in sides_a for b in sides_b if _match(a, b)):
            pair = max(a.networks, b.networks, key=lambda text: text.count(","))
            if networks is None or pair in networks:
                matched |= {a, b}
                found.append(_compare(a, b, pair, groups))
        for side in [*sides_a, *sides_b]:
            # The other side speaks for runs with labels only: some are teachers.
            among = side.method != "ce" and (networks is None or side.networks in networks)
            if among and side not in matched:
                other = name_b if side.method == name_a else name_a
                under = ", ".join(side.shared)
                problems.append(f"{side.group.cell}: no runs of {other} under {under}")
    problems += [f"{x.networks}, {x.methods}: no seed in common" for x in found if not x.verdict]
    found = [x for x in found if x.verdict]
    corrected = verdicts.correct_verdicts([x.verdict for x in found])
    found = [dataclasses.replace(x, verdict=y) for x, y in zip(found, corrected, strict=True)]
    problems += [
        f"{x.networks}, {x.methods}: without a partner, seeds {', '.join(map(str, x.alone))}"
        for x in found
        if x.alone
    ]
    return found, problems


def _make_side(group, rows):
    """Return the side that a group is, or None if its cell is not of that form."""
    method = rows[0]["method"]
    networks = group.cell if method == "ce" else group.cell.removesuffix(f",{method}")
    if networks.count(",") != (method != "ce") or (method != "ce" and networks == group.cell):
        return None
    conditions = tables.list_conditions(group)
    changes = tuple(x for x in conditions if x.startswith(_OF_METHODS))
    shared = [tables.name_teacher(group)] if method != "ce" else []
    shared += [x for x in conditions if x not in changes]
    return Side(group, method, networks, tuple(shared), changes)


def _match(a, b):
    if "ce" not in (a.method, b.method):
        whole = (a.group.teacher, a.group.reading) == (b.group.teacher, b.group.reading)
        return whole and a.networks == b.networks and a.shared == b.shared
    alike = a.group.reading == b.group.reading and _find_student(a) == _find_student(b)
    return alike and _drop_teacher(a) == _drop_teacher(b)


def _find_student(side):
    file, _, names = side.networks.rpartition(":")
    return file, names.split(",")[-1]


def _drop_teacher(side):
    return [x for x in side.shared if not x.startswith(_OF_TEACHERS)]


def _compare(a, b, networks, groups):
    differences, alone = verdicts.pair_by_seed(groups[a.group], groups[b.group])
    names = (f"{x.method} ({', '.join(x.changes)})" if x.changes else x.method for x in (a, b))
    verdict = verdicts.compare(list(differences.values())) if differences else None
    conditions = max(a.shared, b.shared, key=len)
    return Comparison(networks, " : ".join(names), conditions, differences, tuple(alone), verdict)


def find_shared(comparisons):
    """Return the conditions that all comparisons have, teachers aside."""
    return tables.find_shared([x.conditions for x in map(_without_teacher, comparisons)])


def _without_teacher(comparison):
    kept = tuple(x for x in comparison.conditions if not x.startswith("teacher="))
    return dataclasses.replace(comparison, conditions=kept)


def label_networks(comparisons):
    """Return the networks of each comparison, with those conditions that not all share."""
    shared, teachers = find_shared(comparisons), {}
    for x in comparisons:
        teachers.setdefault(x.networks, set()).add(x.conditions[0])
    labels = []
    for x in comparisons:
        several = len(teachers[x.networks]) > 1
        different = [
            y for y in x.conditions if y not in shared and (several or not y == x.conditions[0])
        ]
        labels.append(f"{x.networks} ({', '.join(different)})" if different else x.networks)
    return labels


def format_comparisons(comparisons):
    """Return the comparisons as a table in Markdown."""
    rows = [list(_HEAD)]
    for label, x in zip(label_networks(comparisons), comparisons, strict=True):
        verdict = x.verdict
        interval = "-" if math.isnan(verdict.low) else f"{verdict.low:+.2f} to {verdict.high:+.2f}"
        ps = ["-" if math.isnan(p) else f"{p:.2g}" for p in (verdict.p, verdict.corrected_p)]
        mean = f"{verdict.mean:+.2f}"
        rows.append([label, x.methods, str(verdict.num_seeds), mean, interval, *ps, verdict.word])
    return tables.format_table(rows)


def draw_comparisons(comparisons, path):
    """Draw every seed's difference as a dot, with the mean and its interval beside them."""
    height = 1.9 + 0.62 * len(comparisons)
    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots()
    for place, x in enumerate(comparisons):
        draw_difference(axes, place, x)
    axes.axvline(0.0, color="black", lw=1)
    labels = [
        f"{label}\n{x.methods}: {x.verdict.word}, n = {x.verdict.num_seeds}"
        for label, x in zip(label_networks(comparisons), comparisons, strict=True)
    ]
    axes.set_yticks(range(len(labels)), labels, fontsize=10)
    axes.set_ylim(len(labels) - 0.5, -0.5)  # the first one above
    axes.set_xlabel("difference in test accuracy, first method less second, points", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.suptitle(f"{_sum_up(comparisons)}\ndots: seeds; marker and bar: mean, 95 % interval")
    figure.savefig(path, dpi=120)


def draw_difference(axes, place, comparison):
    """Draw the dots of a comparison's seeds, and below them mean and interval, at a height."""
    verdict, (colour, marker) = comparison.verdict, _STYLES[comparison.verdict.word]
    values = list(comparison.differences.values())
    axes.scatter(values, [place - 0.14] * len(values), s=36, color=colour, alpha=0.6, lw=0)
    axes.plot(verdict.mean, place + 0.14, marker, color=colour, markersize=8)
    if not math.isnan(verdict.low):
        axes.plot([verdict.low, verdict.high], [place + 0.14] * 2, color=colour, lw=2)


def _sum_up(comparisons):
    words = [x.verdict.word for x in comparisons]
    if len(words) == 1:
        return (
            f"{comparisons[0].methods} is {words[0]} at the level of {100 * verdicts.LEVEL:.1f} %"
        )
    counts = ", ".join(f"{words.count(word)} {word}" for word in _STYLES)
    level = f"Holm's correction, level {100 * verdicts.LEVEL:.1f} %"
    return f"Of {len(words)} comparisons: {counts} ({level})"
