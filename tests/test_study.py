"""Studies: their arms, how they go on, what they choose, and what they report."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import study as study_program
from reports import results
from studies import arms, tuning, worker, workers
from studies import report as study_report
from training import command_line, records

from configs import studies

REPOSITORY = pathlib.Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


def make_layout(folder="studies/x", name="digits", grid=None, **changes):
    study = studies.get_config(name)
    with study.unlocked():
        study.update(changes)
    return arms.Layout(study, arms.list_arms(study, grid), folder)


# Arms


@pytest.mark.parametrize("name", studies.STUDIES)
def test_every_arm_of_every_study_has_a_config(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # wherever the program is started
    layout = make_layout(name=name)
    for run in layout.list_runs(3):
        config = run.load_config()
        assert config.seed == 3 and (config.method == "ce" or config.teacher_checkpoint)
    for arm in layout.arms.values():
        assert arm.against in (*layout.arms, "") and arm.against != arm.name
    compared = [arm.against for arm in layout.arms.values() if arm.against]
    assert len(compared) >= len(layout.arms) / 2


def test_methods_are_held_against_their_plain_form():
    methods = ("ce", "kd", "sd_kd", "sd_kd+sp", "at", "sd_dkd")
    found = [arms.find_plain_form(method, methods) for method in methods]
    assert found == ["", "ce", "kd", "sd_kd", "ce", ""]


def test_grid():
    grid = arms.parse_grid(["epochs=1;2", "terms.distillation_loss.scales=[1,2]"])
    assert grid == {"epochs": [1, 2], "terms.distillation_loss.scales": [[1, 2]]}
    layout = make_layout(methods=("kd", "sd_kd"), grid=grid)
    assert list(layout.arms) == [
        f"{method}, epochs={epochs}, scales=[1,2]"
        for epochs in (1, 2)
        for method in ("kd", "sd_kd")
    ]
    arm = layout.arms["sd_kd, epochs=2, scales=[1,2]"]
    assert arm.against == "kd, epochs=2, scales=[1,2]"
    config = layout.make_run(layout.study.pairs[0], arm, 0).load_config()
    assert config.epochs == 2 and config.terms.distillation_loss.scales == (1, 2)
    folders = {run.workdir for run in layout.list_runs(0)}
    assert len(folders) == 4
    with pytest.raises(ValueError, match="Received: 'epochs'"):
        arms.parse_grid(["epochs"])
    wrong = make_layout(grid={"epoch": [1]})
    with pytest.raises(command_line.SetupError, match="epoch"):
        wrong.list_runs(0)[1].load_config()


def test_labels_only_is_run_once_for_all_pairs():
    layout = make_layout(name="fashion", methods=("ce", "kd"))
    assert len(layout.study.pairs) == 2 and len(layout.list_runs(0)) == 3
    assert [run.workdir.name for run in layout.list_teachers()] == ["cnn_32_64_128_128", "wrn_16_2"]
    given = make_layout(name="fashion", teachers=("mine.keras",))
    assert given.list_teachers() == [] and given.find_teacher(given.study.pairs[1]) == "mine.keras"
    with pytest.raises(command_line.SetupError, match="Received: 3 teachers for 2 pairs"):
        make_layout(name="fashion", teachers=("a", "b", "c"))


# Tuning


def try_trials(layout, value_of, broken_at=None):
    """Run the sweeps with an `act` that pretends; return the factors tried and the choice."""
    factors = []

    class Killed(Exception):
        pass

    def act(run):
        factors.append(run.changes["terms.distillation_loss.weight"] / 0.9)
        if len(factors) == broken_at:
            raise Killed
        run.workdir.mkdir(parents=True, exist_ok=True)
        value = {"last_validation_accuracy": value_of(factors[-1])}
        records.write_json(run.workdir / "result.json", value)
        return True

    sweeps = tuning.list_sweeps(layout)
    try:
        for sweep in sweeps:
            sweep.search(act)
    except Killed:
        return factors, None
    tuning.write_choices(layout.folder, sweeps)
    return factors, tuning.read_choices(layout.folder)


def test_trials_are_alike_after_a_kill_and_the_best_is_chosen(tmp_path):
    def value_of(factor):
        return 90.0 - abs(np.log2(factor) - 1.0)

    options = {"methods": ("kd",), "trials": 5}
    whole = make_layout(tmp_path / "whole", **options)
    factors, chosen = try_trials(whole, value_of)
    assert len(factors) == 5 and factors[:3] == pytest.approx(tuning.FIRST)
    assert len(set(factors)) == 5 and 0.125 <= min(factors) < max(factors) <= 8.0
    best = max(factors, key=value_of)
    pair = whole.study.pairs[0]
    weight = chosen[pair]["kd"]["terms.distillation_loss.weight"]
    assert weight == pytest.approx(0.9 * best, rel=1e-3)
    whole.tuned = chosen
    run = whole.make_run(pair, whole.arms["kd"], 0)
    assert run.load_config().terms.distillation_loss.weight == weight
    assert run.load_config().test is True
    killed = make_layout(tmp_path / "killed", **options)
    try_trials(killed, value_of, broken_at=1)
    try_trials(killed, value_of, broken_at=5)
    again, same = try_trials(killed, value_of)
    assert same == chosen and again == pytest.approx(factors)
    for sweep in tuning.list_sweeps(killed):
        assert sweep.make_run(1, 2.0).load_config().test is False


# Reports


def make_rows(layout, accuracy_of, seeds=5):
    """Rows of a study that was never run."""
    rows = []
    for pair in layout.study.pairs:
        for arm in layout.arms.values():
            for seed in range(seeds):
                config = layout.make_run(pair, arm, seed).load_config()
                row = {key: config[key] for key in ("cell", "method", "reading", "smoke", "seed")}
                row |= {"protocol": "validation", "backend": "torch", "teacher": "abc"}
                row["changes"] = results.describe_changes(json.loads(config.to_json()))
                accuracy = accuracy_of(arm.name, seed)
                row |= {"last_accuracy": accuracy, "best_accuracy": accuracy}
                rows.append(row)
    return rows


def test_report_of_a_file(tmp_path):
    layout = make_layout(tmp_path, methods=("ce", "kd", "sd_kd"))
    noise = np.random.default_rng(0).normal(0, 0.2, (3, 5))
    means = {"ce": 80.0, "kd": 80.0, "sd_kd": 83.0}

    def accuracy_of(name, seed):
        return means[name] + noise[list(means).index(name), seed]

    rows = make_rows(layout, accuracy_of)
    results.write_csv(tmp_path / "results.csv", rows[:-1])  # one seed of SD-KD is missing
    text = study_report.write_report(layout, tmp_path / "report", tmp_path / "results.csv")
    fields = {
        line.split("|")[1].strip(): [x.strip() for x in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    }
    assert fields["kd"][6] == "ce" and fields["kd"][-1] == "undecided"
    assert fields["sd_kd"][2] == "4" and fields["sd_kd"][6:8] == [
        "kd",
        f"{np.mean(83 + noise[2, :4] - 80 - noise[1, :4]):+.2f}",
    ]
    assert fields["sd_kd"][-1] == "better"
    assert fields["ce"][0] == f"{80 + noise[0].mean():.2f}" and fields["ce"][-1] == "-"
    assert "sd_kd: 4 of 5" in text.replace("of 10", "of 5")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "accuracy.png", "verdicts.png"}


def test_report_mixes_nothing(tmp_path):
    layout = make_layout(tmp_path, methods=("ce", "kd"))
    rows = make_rows(layout, lambda *_: 80.0)
    other = [row | {"backend": "jax", "last_accuracy": 10.0} for row in rows[:2]]
    strange = [rows[0] | {"cell": "cub200:vgg8"}]
    lines, problems = study_report.read_lines(layout, rows + other + strange)
    assert [len(line.rows) for line in lines] == [5, 5]
    assert {row["last_accuracy"] for line in lines for row in line.rows} == {80.0}
    assert len(problems) == 2 and "left out" in problems[0] and "jax" in problems[0]
    assert "no arm of the study" in problems[1] and "cub200:vgg8" in problems[1]


def test_progress_tells_what_failed_and_what_is_left(tmp_path, capsys):
    progress = workers.Progress(total=5, jobs=2)
    run = arms.Run("", {}, tmp_path / "run")
    run.workdir.mkdir()
    records.write_json(run.workdir / "result.json", {"last_validation_accuracy": 81.234})
    progress.add(run, None, 0)
    progress.add(run, None, 60.0)
    progress.add(dataclasses.replace(run, workdir=tmp_path / "other"), "no such teacher", 30.0)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.endswith("run: 81.23 % of validation images") and first.startswith("[1/5]")
    assert second.endswith("; 90 s left") or second.endswith("; 2 min left")
    assert "failed: no such teacher; 1 failed; 45 s left" in third


# A study as a stranger runs it


@pytest.fixture
def own_data(tmp_path):
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 80), ("test", 30)):
        labels = np.arange(count) % 3
        images = random.integers(0, 120, (count, 16, 16), "uint8")
        images[:, 4:12, 4:12] += (labels * 40).astype("uint8")[:, None, None]
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez(tmp_path / "own.npz", **arrays)
    return tmp_path / "own.npz"


class HereWorker(workers.Worker):
    """Does runs in this process, where all is imported already."""

    def do(self, run):
        try:
            worker.run({"config": run.config, "changes": run.changes, "workdir": run.workdir})
        except command_line.SetupError as error:
            return str(error)


def run_here(data, folder, monkeypatch, **changes):
    """Run the study of `kill_study` in this process; return its report and what failed."""
    monkeypatch.setattr(workers, "Worker", HereWorker)
    monkeypatch.chdir(REPOSITORY)
    study = studies.get_config("own")
    study.data.update(dataset=str(data), validation_examples=16)
    with study.unlocked():
        study.update({"methods": ("ce", "kd"), "seeds": 1} | changes)
    layout, failures = study_program.run_study(study, folder, 1, {"epochs": [3]})
    return study_report.write_report(layout, folder), failures


def kill_study(data, folder):
    """Start a study, and kill it in a student's run."""
    options = {
        "config": "configs/studies.py:own",
        "config.data.dataset": data,
        "config.data.validation_examples": 16,
        "config.methods": "('ce', 'kd')",
        "config.seeds": 1,
        "vary": "epochs=3",
        "jobs": 1,
        "workdir": folder,
    }
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "study.py", *(f"--{key}={x}" for key, x in options.items())],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("[2/3]"):  # the teacher, and the first student
            break
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return printed


def read_table(folder):
    """What a study measured, but for times."""
    timed = ("seconds", "milliseconds_per_image")
    rows = results.read_csv(folder / "results.csv")
    return [{key: x for key, x in row.items() if key not in timed} for row in rows]


def test_study_that_is_killed_reports_what_an_unbroken_one_does(own_data, tmp_path, monkeypatch):
    printed = kill_study(own_data, tmp_path / "killed")
    assert "[2/3]" in printed, printed
    time.sleep(1.0)  # its worker has noticed
    report, failures = run_here(own_data, tmp_path / "killed", monkeypatch)
    assert not failures
    assert run_here(own_data, tmp_path / "whole", monkeypatch) == (report, {})
    assert read_table(tmp_path / "whole") == read_table(tmp_path / "killed")
    assert len(read_table(tmp_path / "whole")) == 2
    assert "| kd, epochs=3 " in report and "undecided" in report
    # A failure is told by name, and does not hide the rest.
    changes = {"methods": ("ce", "sd_kd"), "teachers": ("none.keras",)}
    report, failures = run_here(own_data, tmp_path / "whole", monkeypatch, **changes)
    assert len(failures) == 1 and all("'none.keras'" in error for error in failures.values())
    assert "| ce, epochs=3 " in report and "not run" in report
