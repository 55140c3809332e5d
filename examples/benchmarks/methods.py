"""The programs that `benchmark.py` knows, in groups, and what the steps of the methods cost.

A program is a method of `configs/methods.py`, a sum of such, or one of `PROGRAMS`. This module
imports neither Keras nor a backend.
"""

from configs import methods

# Those that are timed if none are asked for: what tables call them.
PROGRAMS = {
    "kd": "KD",
    "sd_kd_12": "SD-KD {1,2}",
    "sd_kd": "SD-KD",
    "sd_dkd": "SD-DKD",
    "sd_nkd": "SD-NKD",
    "sd_kd_cached": "SD-KD, cached teacher",
    "sd_kd+fitnet": "SD-KD with FitNet",
    "sd_kd+sp": "SD-KD with SP",
    "sd_kd_bfloat16": "SD-KD, teacher in bfloat16",
    "keras_kd": "`keras.distillation`, KD",
    "supervised": "student alone, labels only",
    "teacher": "teacher's forward pass",
    "folded_teacher": "teacher's forward pass, batch norms folded",
}
# Method: class of the authors' code, whether it takes their `_sdd` networks.
AUTHORS = {
    "kd": ("KD", False),
    "sd_kd": ("SDD_KD", True),
    "dkd": ("DKD", False),
    "sd_dkd": ("SDD_DKD", True),
    "nkd": ("NKD", False),
    "sd_nkd": ("SDD_NKD", True),
    "fitnet": ("FITNET", False),
    "at": ("AT", False),
    "sp": ("SP", False),
    "rkd": ("RKD", False),
    "pkt": ("PKT", False),
    "crd": ("CRD", False),
    "reviewkd": ("REVIEWKD", False),
}
ALL = "methods"
# SimKD changes the student, and so is no row of terms.
METHODS = tuple(dict.fromkeys((*methods.METHODS, "simkd")))
# The paper's Table 9, milliseconds of a batch, resnet32x4 to resnet8x4; it does not say on what.
TABLE_9 = {"crd": 41, "reviewkd": 26, "kd": 11, "sd_kd": 11}
# What a step may cost at most, in steps of KD; of losses between logits, and of others.
_LOGITS_AIM = 1.05
_AIMS = dict.fromkeys(("fitnet", "at", "sp", "rkd", "pkt"), 1.15) | {"crd": 1.6, "reviewkd": 2.0}
# Those that should be faster than the authors' programs, and where.
_FASTER = {(x, backend) for x in ("crd", "reviewkd") for backend in ("tensorflow", "torch")}
_TITLES = {
    "step over KD": "Step of a method over KD's, in turns with it.",
    "authors' step over ours": "The authors' step on PyTorch over ours, in turns with it.",
    "memory over KD": "Peak memory of the process beyond the built program, over KD's.",
    "authors' memory over ours": "Peak memory of the authors' process, likewise, over ours.",
}


def is_program(name):
    """Whether --programs may have a name."""
    return name in (*PROGRAMS, ALL) or _is_method(name)


def name_program(program):
    """Return what tables call a program."""
    if program.startswith("reference_"):
        return f"authors' PyTorch code, {name_program(program.removeprefix('reference_'))}"
    return PROGRAMS.get(program, f"`{program}`")


def make_groups(names, with_reference, at_once):
    """Return the programs in groups that are timed together.

    KD is the first of every group, for ratios of medians of the same turns. A method and the
    authors' program of it are in one group.

    Args:
        names: programs, or `ALL` for all methods.
        with_reference: whether to add the authors' programs.
        at_once: programs of a group, 3 or more.
    """
    groups: list[list[str]] = []
    wanted = [x for name in names for x in (METHODS if name == ALL else (name,))]
    for name in dict.fromkeys(wanted):
        unit = [name, *([f"reference_{name}"] if with_reference and name in AUTHORS else [])]
        if not groups or len(groups[-1]) + len(unit) > at_once:
            groups.append(["kd"])
        groups[-1] += [x for x in unit if x != "kd"]
    return [group for index, group in enumerate(groups) if len(group) > 1 or index == 0]


def group_results(results):
    """Return (backend, group) -> program -> result."""
    groups: dict = {}
    for result in results:
        key = result["backend"], result.get("group")
        groups.setdefault(key, {})[result["program"]] = result
    return groups


def compare_methods(results):
    """Return figure -> method -> backend -> value, each of the turns of one group.

    The figures are step and memory over KD's, and the authors' over ours. Memory is the peak of
    the process beyond that of the built program.
    """
    figures: dict = {}
    for (backend, _), measured in group_results(results).items():
        for program, result in measured.items():
            if not _is_method(program):
                continue
            others = {"kd": measured.get("kd"), "authors": measured.get(f"reference_{program}")}
            for key, name in (("median", "step"), ("added_memory", "memory")):
                pairs = {
                    f"{name} over KD": (result, others["kd"]),
                    f"authors' {name} over ours": (others["authors"], result),
                }
                for figure, (upper, lower) in pairs.items():
                    if upper and lower and lower[key]:
                        row = figures.setdefault(figure, {}).setdefault(program, {})
                        row.setdefault(backend, upper[key] / lower[key])
    return figures


def _is_method(program):
    return all(part in METHODS for part in program.split("+"))


def find_aim(method):
    """Return the steps of KD that a step of a method may cost, or None."""
    terms = methods.METHODS[method]["terms"].keys() if method in methods.METHODS else {"of a sum"}
    return _LOGITS_AIM if terms <= {"distillation_loss", "ctkd_loss"} else _AIMS.get(method)


def list_method_tables(results, backends):
    """Yield title, header and rows of a table for each figure of the methods."""
    figures = compare_methods(results)
    for figure, title in _TITLES.items():
        rows, over_kd = figures.get(figure, {}), figure == "step over KD"
        header = ["method", *backends, *(["at most", "paper, Table 9"] if over_kd else [])]
        lines = []
        for method, values in rows.items():
            line = [_format(figure, method, x, values[x]) if x in values else "-" for x in backends]
            if over_kd:
                aim, paper = find_aim(method), TABLE_9.get(method)
                ratio = f"{paper / TABLE_9['kd']:.2f} ({paper} ms)" if paper else "-"
                line += [f"{aim:.2f}" if aim else "-", ratio]
            lines.append([name_program(method), *line])
        if lines:
            yield title, header, lines


def _format(figure, method, backend, value):
    """A ratio, with a mark where something is aimed at."""
    met = None
    if figure == "step over KD" and find_aim(method):
        met = round(value, 2) <= find_aim(method)
    elif figure == "authors' step over ours" and (method, backend) in _FASTER:
        met = value > 1
    return f"{value:.2f}" + {None: "", True: " \u2713", False: " missed"}[met]
