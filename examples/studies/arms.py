"""What a study consists of: its arms, and the runs of which each is made."""

import dataclasses
import itertools
import json
import pathlib
import re

from repository import ROOT
from training import command_line

_SAVE_EPOCHS = 10  # short runs: to save takes as long as an epoch of few images


@dataclasses.dataclass(frozen=True)
class Arm:
    """One line of a study's report.

    Attributes:
        name: of the method, and of what is changed of it.
        method: a key of `configs.methods.METHODS`, a sum, or `"ce"`.
        changes: of the config: key, with dots -> value.
        against: name of the arm that it is compared with, or "".
    """

    name: str
    method: str
    changes: dict
    against: str = ""


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: what `worker` is told, and where it lies."""

    config: str
    changes: dict
    workdir: pathlib.Path

    @property
    def is_finished(self):
        return (self.workdir / "result.json").exists()

    def load_config(self):
        """Return the run's config.

        Raises:
            SetupError: for keys that it does not have, and values of another type.
        """
        try:
            config = command_line.load_config(self.config)
            config.update_from_flattened_dict(self.changes)
        except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
            raise command_line.SetupError(f"{self.config}: {error}") from error
        return config


def list_arms(study, grid=None):
    """Return the arms of a study, by name: its methods, for every point of a grid, and variants.

    Args:
        study: a config of configs/studies.py.
        grid: key -> list of values that all methods are run with, or None.
    """
    points = (
        [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        if grid
        else [{}]
    )
    arms = {}
    for point in points:
        text = "".join(f", {key.split('.')[-1]}={_write(x)}" for key, x in point.items())
        for method in study.methods:
            plain = find_plain_form(method, study.methods)
            against = plain + text if plain else ""
            arms[method + text] = Arm(method + text, method, point, against)
    for name, changes in study.variants.items():
        changes = dict(changes)
        method = changes.pop("method")
        against = changes.pop("against", method if method in study.methods else "")
        arms[name] = Arm(name, method, changes, against)
    return arms


def _write(value):
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def find_plain_form(method, methods):
    """Return the method that another is held against: `kd` of `sd_kd`, `sd_kd` of `sd_kd+sp`.

    Any other is held against labels only, `ce`; "" if the one is not among `methods`.
    """
    first = method.split("+")[0]
    plain = first if first != method else "ce"
    if method.startswith("sd_") and plain == "ce":
        plain = method.removeprefix("sd_")
    return plain if plain in methods and plain != method else ""


class Layout:
    """Where the files of a study lie, and what its runs are.

    Args:
        study: a config of configs/studies.py.
        arms: as of `list_arms`.
        folder: of all its files.
        tuned: pair -> arm -> changes that tuning chose.
    """

    def __init__(self, study, arms, folder, tuned=None):
        if len(study.teachers) not in (0, 1, len(study.pairs)):
            raise command_line.SetupError(
                "Pass one teacher for all pairs, or one for each. Received: "
                f"{len(study.teachers)} teachers for {len(study.pairs)} pairs"
            )
        self.study, self.arms, self.folder = study, arms, pathlib.Path(folder)
        self.tuned = tuned or {}
        self.data = {key: x for key, x in study.data.to_dict().items() if x}
        self.file = str(ROOT / "configs" / f"{study.experiments}.py")

    def list_teachers(self):
        """Return the runs that train the teachers of the pairs, none if files are given."""
        if self.study.teachers:
            return []
        names = dict.fromkeys(pair.split(",")[0] for pair in self.study.pairs)
        return [Run(f"{self.file}:{x}", self.data, self.folder / "teachers" / x) for x in names]

    def find_teacher(self, pair):
        """Return the file of the teacher of a pair."""
        if self.study.teachers:
            return self.study.teachers[self.study.pairs.index(pair) % len(self.study.teachers)]
        return str(self.folder / "teachers" / pair.split(",")[0] / "best.keras")

    def make_run(self, pair, arm, seed, further=None, folder="runs"):
        """Return the run of an arm with a seed; `further` changes come on top."""
        student = pair.split(",")[1]
        where = student if arm.method == "ce" else pair.replace(",", "-")
        changes = {"save_epochs": _SAVE_EPOCHS} | self.data | dict(self.study.settings)
        changes |= arm.changes
        changes |= self.tuned.get(pair, {}).get(arm.name, {}) | {"seed": seed} | (further or {})
        name = re.sub(r"[^\w.+=/-]+", "_", arm.name)
        workdir = self.folder / folder / where / name / f"seed{seed}"
        if arm.method == "ce":
            return Run(f"{self.file}:{student}", changes, workdir)
        changes["teacher_checkpoint"] = self.find_teacher(pair)
        run = Run(f"{self.file}:{pair},{arm.method}", changes, workdir)
        if not run.load_config().augment:  # an image always looks the same
            changes["teacher_cache"] = str(self.folder / "cache" / where / name)
        return run

    def list_runs(self, seed):
        """Return the runs of all pairs and arms with a seed, those that pairs share once."""
        lines = itertools.product(self.study.pairs, self.arms.values())
        runs = [self.make_run(pair, arm, seed) for pair, arm in lines]
        return list({run.workdir: run for run in runs}.values())


def parse_grid(texts):
    """Return key -> values from texts like "epochs=10;20".

    Raises:
        ValueError: for another form.
    """
    grid = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not key or not values:
            raise ValueError(
                f"Pass a key and its values, as --vary='epochs=10;20'. Received: {text!r}"
            )
        grid[key] = [_read(value) for value in values.split(";")]
    return grid


def _read(text):
    try:
        return json.loads(text)
    except ValueError:
        return text
