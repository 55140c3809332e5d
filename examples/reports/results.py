"""The results of finished runs: read from their folders or from one CSV file, and grouped.

A row is a flat dict: cell, method, reading, protocol, backend, smoke, seed, teacher (digest of its
weights, or ""), changes, every number of result.json, and the path of the run's folder.
`changes` is text, as "epochs=7, student=cifar100/resnet20": what the run's config has otherwise
than its cell's own config. The config of a cell that no file in configs/ has is compared with
nothing: all of it is named, as nobody can say which part is usual.
"""

import csv
import importlib
import json
import pathlib
import re
import typing

from repository import ROOT
from training import config_keys

# Keys that may differ from the cell's config: they say where, with what seed and how fast to run,
# or have a column of their own.
FREE = {"seed", "data_dir", "teacher_checkpoint", "eval_batch_size", "deterministic", "protocol"}
FREE |= {"save_epochs", "steps_per_execution", "jit_compile", "fold_teacher", "teacher_cache"}
# What the cell is, and what it is compared with: no settings.
_NAMES = {"cell", "method", "reading", "smoke", "table", "paper_accuracy", "paper_top5_accuracy"}
_TEXTS = ("cell", "method", "reading", "protocol", "backend", "teacher", "changes")
_COLUMNS = (*_TEXTS[:5], "smoke", "seed", *_TEXTS[5:])
# Of results of before these were written.
_DEFAULTS = {"protocol": "authors", "teacher": ""}


class Group(typing.NamedTuple):
    """What the runs of a group share: everything but the seed."""

    cell: str
    reading: str
    protocol: str
    backend: str
    smoke: bool
    teacher: str
    changes: str


def read_rows(folder):
    """Return the rows of the finished runs below a folder, and a line on each that has none.

    Args:
        folder: of runs, each with its `result.json` and `config.json`.

    Returns:
        A list of rows, and a list of lines, "PATH: what is wrong", on damaged runs and on those
        that `drop_doubles` drops.
    """
    rows, problems = [], []
    for path in sorted(pathlib.Path(folder).rglob("result.json")):
        try:
            rows.append(_read_run(path))
        except ValueError as error:
            problems.append(str(error))
    rows, doubles = drop_doubles(rows)
    return rows, problems + doubles


def _read_run(path):
    result = _read_dict(path)
    problem = _find_problem({**_DEFAULTS, **result, "changes": ""})
    if problem:
        raise ValueError(f"{path}: {problem}")
    config_path = path.with_name("config.json")
    config = _read_dict(config_path)
    for key in ("cell", "method", "reading", "smoke", "seed"):
        if config.get(key) != result[key]:
            raise ValueError(
                f"{config_path}: not this run's, its {key} is {config.get(key)!r}, in result.json "
                f"{result[key]!r}"
            )
    row = {key: result.get(key, _DEFAULTS.get(key)) for key in _COLUMNS}
    row["changes"] = describe_changes(config, row["protocol"])
    row |= {key: x for key, x in result.items() if key not in row and _is_number(x)}
    return row | {"path": str(path.parent)}


def _read_dict(path):
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read, {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: holds a {type(values).__name__}, not keys and values")
    return values


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _find_problem(row):
    """Return what is wrong with the values of a row, or nothing."""
    for key in _TEXTS:
        if not isinstance(row.get(key), str) or not (row[key] or key in ("teacher", "changes")):
            return f"{key} must be a text. Received: {row.get(key)!r}"
    if not isinstance(row.get("smoke"), bool):
        return f"smoke must be true or false. Received: {row.get('smoke')!r}"
    if type(row.get("seed")) is not int:  # True is one too
        return f"seed must be a whole number. Received: {row.get('seed')!r}"
    for key in {"last_accuracy": 0, "best_accuracy": 0} | row:
        if key.endswith("_accuracy") and not key.startswith("paper_"):
            value = row.get(key)
            if not _is_number(value) or not 0.0 <= value <= 100.0:  # NaN is not
                return f"{key} must be a percentage. Received: {value!r}"
    return ""


def describe_changes(config, protocol="validation"):
    """Return what the config of a run has otherwise than its cell's, "key=value, ...", sorted.

    Args:
        config: contents of a config.json.
        protocol: of the run; the authors' holds no images out, however many the config says.
    """
    written, own = config_keys.flatten(config), _load_cell(config)
    free = FREE | (set() if own else _NAMES)
    free |= {"validation_examples"} if protocol == "authors" else set()
    changed = {
        key
        for key in (written.keys() | own.keys()) - free
        if key not in written or key not in own or written[key] != own[key]
    }
    return ", ".join(f"{key}={_format(written, key)}" for key in sorted(changed))


def _format(written, key):
    value = written.get(key, "(absent)")
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _load_cell(config):
    """Return the flat config of a cell, as JSON would give it, or {} if no file has it."""
    file, _, arg = config["cell"].partition(":")
    if not re.fullmatch(r"\w+", file) or not (ROOT / "configs" / f"{file}.py").is_file():
        return {}
    module = importlib.import_module(f"configs.{file}")
    try:
        own = module.get_config(arg, config["reading"], smoke=config["smoke"])
    except (AttributeError, LookupError):
        return {}
    return config_keys.flatten(json.loads(own.to_json()))


def drop_doubles(rows):
    """Return rows without those that repeat a seed of their group, and a line on each of these.

    The same seed twice is no second draw: a mean over both would look surer than it is.
    """
    kept: dict = {}
    problems = []
    for row in rows:
        first = kept.setdefault((*_find_group(row), row["seed"]), row)
        if first is not row:
            same = name_run(first)
            problems.append(f"{name_run(row)}: not counted, the seed and settings of {same}")
    return list(kept.values()), problems


def group_rows(rows):
    """Return the groups of rows that are equal in everything but the seed.

    Returns:
        (cell, reading, protocol, backend, smoke, teacher, changes), a `Group`, -> its rows in the
        order of their seeds.

    Raises:
        ValueError: if a group has a seed twice; see `drop_doubles`.
    """
    doubles = drop_doubles(rows)[1]
    if doubles:
        raise ValueError(f"A group has a seed twice. Received: {doubles[0]}")
    groups: dict = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        groups.setdefault(_find_group(row), []).append(row)
    return groups


def _find_group(row):
    return Group(*(row[key] for key in Group._fields))


def name_run(row):
    """Return the folder of a row's run, or what is known of a row of a CSV file."""
    return row.get("path") or f"{row['cell']}, seed {row['seed']}"


def write_csv(path, rows):
    """Write rows without their paths, one a line, so that reports need no folders of runs."""
    numbers = sorted({key for row in rows for key in row} - {*_COLUMNS, "path"})
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *numbers], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path):
    """Return the rows of a file of `write_csv`.

    Raises:
        ValueError: if the file is damaged or another kind of file, naming the line, and if a group
            has a seed twice.
        OSError: if it cannot be read.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        try:
            rows = [_parse_line(line, f"{path}, line {reader.line_num}") for line in reader]
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    doubles = drop_doubles(rows)[1]
    if doubles:
        raise ValueError(f"{path}: {doubles[0]}")
    return rows


def _parse_line(line, place):
    if None in line or None in line.values():
        raise ValueError(f"{place}: has not as many fields as the first line")
    row = {}
    for key, text in line.items():
        if key in _TEXTS:
            row[key] = text
        elif key == "smoke":
            row[key] = {"True": True, "False": False}.get(text, text)
        elif text:  # another run has the number
            row[key] = _parse_number(text, f"{place}: {key}")
    problem = _find_problem(row)
    if problem:
        raise ValueError(f"{place}: {problem}")
    return row


def _parse_number(text, place):
    try:
        return int(text) if re.fullmatch("-?[0-9]+", text) else float(text)
    except ValueError:
        raise ValueError(f"{place} must be a number. Received: {text!r}") from None
