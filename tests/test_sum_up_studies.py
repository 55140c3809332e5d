"""The table of several studies: its figures are those of the runs in the files."""

import csv
import pathlib
import re

import keras
import numpy as np
import pytest
import sum_up_studies
from scipy import stats

REPOSITORY = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")

STUDIES = REPOSITORY / "docs" / "studies"


def read_accuracies(name, method):
    """Seed -> accuracy of a method of a study, straight from the file."""
    with open(STUDIES / name / "results.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method]
    return {int(row["seed"]): float(row["last_accuracy"]) for row in rows}


def test_fields_are_means_and_paired_differences(tmp_path):
    columns = sum_up_studies.read_columns(STUDIES, ["digits"])
    table = sum_up_studies.format_columns(columns)
    fields = dict(re.findall(r"^\| (\S+) +\| (.*?) *\|$", table, re.M))
    accuracies = {name: read_accuracies("digits", name) for name in ("ce", "kd", "sd_kd")}
    assert fields["ce"] == f"{np.mean(list(accuracies['ce'].values())):.2f}"
    seeds = accuracies["kd"].keys() & accuracies["sd_kd"].keys()
    differences = [accuracies["sd_kd"][seed] - accuracies["kd"][seed] for seed in seeds]
    half = stats.sem(differences) * stats.t.ppf(0.975, len(seeds) - 1)
    mean = np.mean(list(accuracies["sd_kd"].values()))
    expected = f"{mean:.2f}; {np.mean(differences):+.2f} ± {half:.2f} "
    assert fields["sd_kd"].startswith(expected)
    sum_up_studies.draw_columns(columns, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_what_was_not_run_is_said(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    lines = (STUDIES / "digits" / "results.csv").read_text().splitlines()
    kept = [line for line in lines if ",kd," not in line.split('"')[-1]]
    (folder / "results.csv").write_text("\n".join(kept) + "\n")
    (folder / "tuned.json").write_bytes((STUDIES / "digits" / "tuned.json").read_bytes())
    table = sum_up_studies.format_columns(sum_up_studies.read_columns(tmp_path, ["digits"]))
    assert re.search(r"^\| kd +\| not run ", table, re.M)
    assert re.search(r"^\| sd_kd +\| [\d.]+ +\|$", table, re.M)  # nothing to hold it against
