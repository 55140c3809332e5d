"""Run a study: methods x networks x seeds x any keys of the configs, with verdicts at the end.

    python examples/study.py --config=configs/studies.py:digits
    python examples/study.py --config=configs/studies.py:own --config.data.dataset=FILE.npz \\
        --config.methods="('ce', 'kd', 'sd_kd')" --config.seeds=3

Trains the teachers, tunes the weight of each method's terms on validation images if --config.trials
says so, the same number of trials for each, and trains all students, --jobs side by side. The same
command goes on with a study that was killed, with more seeds or methods too. Test images are
read once in each run, at its end; the report that uses them is written when all runs are there,
or with --report of those that are.
"""

import pathlib
import sys

from absl import flags
from studies import report, tuning, workers
from studies.arms import Layout, list_arms, parse_grid
from training import command_line, folder_lock


def run_study(study, folder, jobs, grid):
    """Do what is not done yet of a study; return its layout and what failed."""
    arms = list_arms(study, grid)
    layout = Layout(study, arms, folder)
    teachers = layout.list_teachers()
    for run in [*teachers, *layout.list_runs(0)]:
        run.load_config()  # a mistake in one shows now and not in the night
    sweeps = tuning.list_sweeps(layout)
    total = len(teachers) + len(sweeps) * study.trials + study.seeds * len(layout.list_runs(0))
    progress = workers.Progress(total, jobs)
    print(f"{study.name}: {total} runs in {folder}, {jobs} side by side", flush=True)

    def do(runs):
        workers.do_all([lambda act, run=run: act(run) for run in runs], jobs, progress)

    do(teachers)
    if progress.failures:  # no student without its teacher
        return layout, progress.failures
    workers.do_all([sweep.search for sweep in sweeps], jobs, progress)
    if sweeps:
        tuning.write_choices(folder, sweeps)
    layout.tuned = tuning.read_choices(folder)
    # The first seed alone makes the caches that the others find.
    do(layout.list_runs(0))
    do([run for seed in range(1, study.seeds) for run in layout.list_runs(seed)])
    return layout, progress.failures


def main(study):
    """Run and report; what is wrong with a folder or a file is told."""
    try:
        run_and_report(study)
    except (OSError, ValueError) as error:
        raise command_line.SetupError(error) from error


def run_and_report(study):
    """Do what the flags say."""
    values = flags.FLAGS
    folder = pathlib.Path(values.workdir or f"studies/{study.name}")
    grid, failures = parse_grid(values.vary), {}
    if values.report or values.results:
        layout = Layout(study, list_arms(study, grid), folder)
        beside = pathlib.Path(values.results).parent if values.results else folder
        layout.tuned = tuning.read_choices(beside)
    else:
        with folder_lock.lock_workdir(folder):
            layout, failures = run_study(study, folder, values.jobs, grid)
    print(report.write_report(layout, folder, values.results))
    if failures:
        lines = [f"{path}: {error}" for path, error in failures.items()]
        sys.exit("\n".join([f"{len(failures)} runs failed:", *lines]))


if __name__ == "__main__":
    command_line.define_flags(trains=False)
    flags.DEFINE_integer("jobs", 2, "Runs side by side.", lower_bound=1)
    flags.DEFINE_multi_string("vary", [], "Key of the configs and its values, as epochs=10;20.")
    flags.DEFINE_bool("report", False, "Report the runs that are there, without any new one.")
    text = "Report the runs in this file, as a report writes it, with tuned.json beside it."
    flags.DEFINE_string("results", None, text)
    command_line.launch(main)
