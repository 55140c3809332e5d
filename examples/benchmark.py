"""Time training steps: this library, `keras.distillation`, and the authors' PyTorch code.

    python examples/benchmark.py --reference=SDD-CVPR2024
    python examples/benchmark.py --reference=SDD-CVPR2024 --programs=methods
    python examples/benchmark.py --sweeps=all --data_dir=/usr/share/datasets/fashion-mnist

Every program has a process of its own. They take turns: one does a burst of steps while the others
wait, round by round, so that whatever else the machine does falls on all of them alike. Reported is
the median over the bursts of the time of a step; the first step, which traces and compiles, stands
apart. The default pair needs about 16 GB of memory: a program keeps its networks, so that many are
timed in groups (--at_once), each with KD in it.

--programs are methods of configs/methods.py, sums of such, as sd_kd+crd, all methods (`methods`) or
some of those that are timed by default. A term that the pair does not fit is left out.

Prints Markdown tables, and writes them, a JSON file with all numbers and a bar chart to --output.
With --reference, a checkout of github.com/shicaiwei123/SDD-CVPR2024, its steps of the same methods
take turns with those of each backend. --sweeps measures, instead of the programs, how a step of
SD-KD grows with one setting at a time, and how many images per second the data pipelines deliver.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

from absl import app, flags, logging
from benchmarks import serve
from benchmarks.methods import ALL, METHODS, PROGRAMS, compare_methods, is_program, make_groups
from benchmarks.report import (
    compute_ratios,
    describe_run,
    draw_chart,
    find_cpu,
    summarize,
    write_report,
    write_sweeps,
)

BURST_SECONDS = 1.5
MOST_STEPS = 200
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
    about = f"Steps of a burst; 0 for what takes {BURST_SECONDS} s."
    flags.DEFINE_integer("steps", 0, about, lower_bound=0)
    flags.DEFINE_string("reference", None, "Checkout of the authors' PyTorch code.")
    flags.DEFINE_list("sweeps", "", f"Sweeps instead of programs: {', '.join(sweeps)}.")
    flags.DEFINE_string("data_dir", None, "Folder of the data sets, for --sweeps=data.")
    flags.DEFINE_string("output", "results/benchmark", "Folder of the results.")
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


class ProgramError(Exception):
    """A program that could not be built, or that ended."""


class Program:
    """A program in a process of its own; the flags of this process hold for it, too.

    Args:
        name: of the program; "reference_METHOD" is the authors', "data:NAME" reads a data set.
        backend: of Keras.
        **changes: flags of its own.
    """

    def __init__(self, name, backend, **changes):
        self.name, self.backend, self.changes = name, backend, changes
        own = {"serve": name} | changes
        title = "-".join([backend, name.replace(":", "-"), *changes.values()])
        self.log = pathlib.Path(FLAGS.output, "logs", f"{title}.txt")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *sys.argv[1:], *(f"--{k}={v}" for k, v in own.items())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # The processes share one GPU: none may take all of its memory.
                env=os.environ
                | {"KERAS_BACKEND": backend, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
                | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            )

    def read(self):
        """Return the next answer of the process."""
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended; its log is {self.log}"}
        if "error" in answer:
            raise ProgramError(f"{self.name} on {self.backend}: {answer['error']}")
        return answer

    def run(self, steps):
        """Let it do some steps; return its answer, with the seconds of all of them together."""
        with contextlib.suppress(BrokenPipeError):  # its end shows in the answer
            print(steps, file=self.process.stdin, flush=True)
        return self.read()

    def wait(self):
        """Wait until it is built."""
        self.built = self.read()

    def warm_up(self):
        """Let it compile; choose the steps of its bursts."""
        answer = self.run(1)
        self.first_step = answer["lead_in"]
        chosen = round(BURST_SECONDS / answer["seconds"])
        self.steps = FLAGS.steps or min(max(1, chosen), MOST_STEPS)
        self.seconds = []

    def measure(self):
        """Do a burst."""
        self.answer = self.run(self.steps)
        self.seconds.append(self.answer["seconds"] / self.steps)

    def describe(self):
        """Return what was measured, times in seconds a step."""
        return {
            "program": self.name,
            "backend": self.backend,
            **self.changes,
            **summarize(self.seconds),
            "seconds": self.seconds,
            "steps": self.steps,
            "first_step": self.first_step,
            "peak_memory": self.answer["peak_memory"],
            "added_memory": self.answer["peak_memory"] - self.built["memory"],
            "peak_gpu_memory": self.answer["peak_gpu_memory"],
            "versions": self.built["versions"],
        }

    def close(self):
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def take_turns(requests, title):
    """Measure programs in turns.

    Args:
        requests: a tuple (name, backend, changed flags) for each program.
        title: of the lines of progress.

    Returns:
        What each program measured, and a message for each one that could not be built, or that
        ended before its time.
    """
    messages = []

    def try_each(programs, action):
        done = []
        for program in programs:
            try:
                action(program)
            except ProgramError as error:
                messages.append(f"Left out: {error}")
                report_progress(messages[-1])
            else:
                done.append(program)
        return done

    def warm_up(program):
        program.warm_up()
        name = " ".join([program.name, *program.changes.values()])
        report_progress(f"{title}: {name} has compiled")

    with contextlib.ExitStack() as stack:
        started = [Program(name, backend, **changes) for name, backend, changes in requests]
        for program in started:
            stack.callback(program.close)
        # All of them, so that none imports while another is timed.
        ready = try_each(started, lambda program: program.wait())
        ready = try_each(ready, warm_up)
        for index in range(FLAGS.rounds):
            before = time.perf_counter()
            # There and back, so that a drift of the machine's speed favours no program.
            order = 1 if index % 2 == 0 else -1
            ready = try_each(ready[::order], lambda program: program.measure())[::order]
            seconds = time.perf_counter() - before
            report_progress(f"{title}: round {index + 1} of {FLAGS.rounds}, {seconds:.0f} s")
        return [program.describe() for program in ready], messages


def report_progress(text):
    """Print a line beside the results."""
    print(text, file=sys.stderr, flush=True)


def compare_programs():
    """Measure all programs on all backends; the authors' beside those of each backend."""
    groups = make_groups(FLAGS.programs, bool(FLAGS.reference), FLAGS.at_once)
    total, done = len(FLAGS.backends) * sum(map(len, groups)), 0
    started = time.perf_counter()
    for backend in FLAGS.backends:
        for index, names in enumerate(groups):
            title = f"{backend}, group {index + 1} of {len(groups)}" if groups[1:] else backend
            results, messages = take_turns([(name, backend, {}) for name in names], title)
            yield [result | {"group": index} for result in results], messages
            done += len(names)
            minutes = (time.perf_counter() - started) / 60
            report_progress(
                f"{done} of {total} programs in {minutes:.0f} min; about "
                f"{minutes * (total - done) / done:.0f} min left"
            )


def sweep_settings():
    """Measure SD-KD under changed settings, and the data pipelines."""
    sweeps = (*SWEEPS, "data") if "all" in FLAGS.sweeps else FLAGS.sweeps
    for sweep in sweeps:
        if sweep == "data":
            requests = [(f"data:{name}", FLAGS.backends[0], {}) for name in DATASETS]
            yield take_turns(
                requests + [("sd_kd", backend, {}) for backend in FLAGS.backends], sweep
            )
            continue
        values = SWEEPS[sweep][: 2 if FLAGS.smoke else None]
        for backend in FLAGS.backends:
            requests = [("sd_kd", backend, {sweep: value}) for value in values]
            yield take_turns(requests, f"{backend}, {sweep}")


def describe_settings():
    """Return the flags, and what computes."""
    names = ("pair", "batch_size", "num_classes", "image_size", "scales", "rounds", "smoke")
    settings = {name: FLAGS[name].value for name in names}
    return settings | {"cpu": find_cpu(), "cores": os.cpu_count()}


def write_results(results, messages, folder):
    """Write tables, numbers and chart of what was measured so far; return the tables."""
    settings, name = describe_settings(), "sweeps" if FLAGS.sweeps else "programs"
    values = {"settings": settings, "results": results, "left_out": messages}
    if FLAGS.sweeps:
        tables = write_sweeps(results, tuple(SWEEPS), settings)
    else:
        tables = write_report(results)
        values["ratios"] = compute_ratios(results)
        values["methods"] = compare_methods(results)
        draw_chart(results, folder / f"{name}.png")
    report = "\n\n".join([describe_run(settings), tables, *messages])
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
    report_progress(f"Tables, numbers and chart are in {folder}")


if __name__ == "__main__":
    define_flags()
    app.run(main)
