"""Time training steps: this library, `keras.distillation`, and the authors' PyTorch code.

    python examples/benchmark.py --reference=SDD-CVPR2024
    python examples/benchmark.py --reference=SDD-CVPR2024 --programs=methods
    python examples/benchmark.py --sweeps=all --data_dir=/usr/share/datasets/fashion-mnist
    python examples/benchmark.py --results=docs/benchmarks/h100.json

Every program has a process of its own. They take turns: one does a burst of steps while the others
wait, round by round, so that whatever else the machine does falls on all of them alike. Reported is
the median over the bursts of the time of a step; the first step, which traces and compiles, stands
apart. The default pair needs about 16 GB of memory: a program keeps its networks, so that many are
timed in groups (--at_once), each with KD in it.

--programs are methods of configs/methods.py, sums of such, as sd_kd+crd, all methods (`methods`) or
some of those that are timed by default. A term that the pair does not fit is left out.

Prints Markdown tables, and writes them, a JSON file with all numbers and a bar chart to --output;
--results prints the tables of such a file again. With --reference, a checkout of
github.com/shicaiwei123/SDD-CVPR2024, its steps of the same methods take turns with those of each
backend. --sweeps measures, instead of the programs, how a step of SD-KD grows with one setting at a
time, and how many images per second the data pipelines deliver.
"""

import json
import os
import pathlib
import sys
import time

from absl import app, flags, logging
from benchmarks import serve, turns
from benchmarks.methods import ALL, METHODS, PROGRAMS, compare_methods, is_program, make_groups
from benchmarks.report import (
    compute_ratios,
    describe_run,
    draw_chart,
    find_cpu,
    write_report,
    write_sweeps,
)

SWEEPS = {
    "batch_size": ("16", "32", "64", "128"),
    "num_classes": ("10", "100", "1000"),
    "image_size": ("32", "48", "64"),
    "scales": ("1", "1,2", "1,2,4", "1,2,4,8"),
}
DATASETS = ("synthetic", "fashion_mnist", "cifar100", "cub200_2011", "imagenet2012")
SMOKE = {"pair": "resnet8,resnet8", "batch_size": 4, "num_classes": 10, "rounds": 1, "steps": 1}

FLAGS = flags.FLAGS


def define_flags():
    """Define the flags of this program."""
    sweeps = (*SWEEPS, "data", "all")
    flags.DEFINE_list("backends", "tensorflow,jax,torch", "Backends of Keras, in turn.")
    about = f"Programs to time; {ALL} are all methods."
    flags.DEFINE_list("programs", list(PROGRAMS), about)
    about = "Programs that take turns; more of them are timed in groups."
    flags.DEFINE_integer("at_once", 17, about, lower_bound=3)
    flags.DEFINE_list("pair", "resnet32x4,resnet8x4", "Teacher and student for CIFAR-100.")
    flags.DEFINE_integer("batch_size", 64, "Images of a step.", lower_bound=1)
    flags.DEFINE_integer("num_classes", 100, "Classes.", lower_bound=2)
    flags.DEFINE_integer("image_size", 32, "Height and width of the images.", lower_bound=8)
    flags.DEFINE_list("scales", "1,2,4", "Scales of the scale-decoupled programs.")
    flags.DEFINE_integer("rounds", 5, "Bursts of every program.", lower_bound=1)
    about = f"Steps of a burst; 0 for what takes {turns.BURST_SECONDS} s."
    flags.DEFINE_integer("steps", 0, about, lower_bound=0)
    flags.DEFINE_string("reference", None, "Checkout of the authors' PyTorch code.")
    flags.DEFINE_list("sweeps", "", f"Sweeps instead of programs: {', '.join(sweeps)}.")
    flags.DEFINE_string("data_dir", None, "Folder of the data sets, for --sweeps=data.")
    flags.DEFINE_string("output", "results/benchmark", "Folder of the results.")
    flags.DEFINE_string("results", None, "Print the tables of this JSON file instead, and end.")
    flags.DEFINE_bool("smoke", False, "A tiny pair and single steps, to see that all runs.")
    flags.DEFINE_string("serve", None, "Internal: be the program of this name.")
    for name, known in {"backends": ("tensorflow", "jax", "torch"), "sweeps": sweeps}.items():
        flags.register_validator(
            name, set(known).issuperset, message=f"must be some of: {', '.join(known)}"
        )
    flags.register_validator(
        "programs",
        lambda names: all(map(is_program, names)),
        message=f"must be some of: {', '.join(dict.fromkeys((ALL, *PROGRAMS, *METHODS)))}; or sums "
        "of methods, as sd_kd+crd",
    )
    flags.register_validator("pair", lambda pair: len(pair) == 2, message="TEACHER,STUDENT")
    flags.register_validator(
        "reference",
        lambda folder: folder is None or os.path.isdir(os.path.join(folder, "mdistiller")),
        message="must be a checkout of the authors' code, which has a folder mdistiller",
    )


def compare_programs():
    """Measure all programs on all backends; the authors' beside those of each backend."""
    groups = make_groups(FLAGS.programs, bool(FLAGS.reference), FLAGS.at_once)
    total, done = len(FLAGS.backends) * sum(map(len, groups)), 0
    started = time.perf_counter()
    for backend in FLAGS.backends:
        for index, names in enumerate(groups):
            title = f"{backend}, group {index + 1} of {len(groups)}" if groups[1:] else backend
            results, messages = turns.take_turns([(name, backend, {}) for name in names], title)
            yield [result | {"group": index} for result in results], messages
            done += len(names)
            minutes = (time.perf_counter() - started) / 60
            turns.report_progress(
                f"{done} of {total} programs in {minutes:.0f} min; about "
                f"{minutes * (total - done) / done:.0f} min left"
            )


def sweep_settings():
    """Measure SD-KD under changed settings, and the data pipelines."""
    sweeps = (*SWEEPS, "data") if "all" in FLAGS.sweeps else FLAGS.sweeps
    for sweep in sweeps:
        if sweep == "data":
            requests = [(f"data:{name}", FLAGS.backends[0], {}) for name in DATASETS]
            yield turns.take_turns(
                requests + [("sd_kd", backend, {}) for backend in FLAGS.backends], sweep
            )
            continue
        values = SWEEPS[sweep][: 2 if FLAGS.smoke else None]
        for backend in FLAGS.backends:
            requests = [("sd_kd", backend, {sweep: value}) for value in values]
            yield turns.take_turns(requests, f"{backend}, {sweep}")


def describe_settings():
    """Return the flags, and what computes."""
    names = ("pair", "batch_size", "num_classes", "image_size", "scales", "rounds", "smoke")
    settings = {name: FLAGS[name].value for name in names}
    return settings | {"cpu": find_cpu(), "cores": os.cpu_count()}


def make_report(settings, results, left_out):
    """Return the tables of what was measured, with a line on what measured it."""
    swept = any(SWEEPS.keys() & x.keys() or x["program"].startswith("data:") for x in results)
    tables = write_sweeps(results, tuple(SWEEPS), settings) if swept else write_report(results)
    return "\n\n".join([describe_run(settings, results), tables, *left_out])


def report_file(path):
    """Return the tables of a file of `write_results`."""
    try:
        values = json.loads(pathlib.Path(path).read_text())
        return make_report(values["settings"], values["results"], values["left_out"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.exit(
            "--results must be a JSON file that this program wrote, programs.json or sweeps.json. "
            f"Received: {path} ({type(error).__name__}: {error})"
        )


def write_results(results, messages, folder):
    """Write tables, numbers and chart of what was measured so far; return the tables."""
    name = "sweeps" if FLAGS.sweeps else "programs"
    values = {"settings": describe_settings(), "results": results, "left_out": messages}
    report = make_report(**values)
    if not FLAGS.sweeps:
        values["ratios"] = compute_ratios(results)
        values["methods"] = compare_methods(results)
        draw_chart(results, folder / f"{name}.png")
    (folder / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n")
    (folder / f"{name}.md").write_text(report + "\n")
    return report


def main(argv):
    """Measure and report."""
    if argv[1:]:
        raise app.UsageError(f"Expected flags only, --name=value. Received: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    for name, value in SMOKE.items() if FLAGS.smoke else ():
        FLAGS.set_default(name, value)
    if FLAGS.serve:
        serve.serve(FLAGS.serve, FLAGS)
        return
    if FLAGS.results:
        print(report_file(FLAGS.results))
        return
    folder = pathlib.Path(FLAGS.output)
    results, messages, report = [], [], ""
    for measured, left_out in sweep_settings() if FLAGS.sweeps else compare_programs():
        results += measured
        messages += left_out
        if results:  # written again after every part: what follows may take long
            report = write_results(results, messages, folder)
    if not results:
        sys.exit("\n".join(["No program could be measured.", *messages]))
    print(report)
    turns.report_progress(f"Tables, numbers and chart are in {folder}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
