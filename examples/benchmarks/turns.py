"""Programs in processes of their own that take turns: one does a burst while the others wait."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

from absl import flags
from repository import ROOT

from benchmarks.report import summarize

BURST_SECONDS = 1.5
MOST_STEPS = 200
FLAGS = flags.FLAGS  # those of benchmark.py


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
        own_flags = [f"--{key}={value}" for key, value in ({"serve": name} | changes).items()]
        title = "-".join([backend, name.replace(":", "-"), *changes.values()])
        self.log = pathlib.Path(FLAGS.output, "logs", f"{title}.txt")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "examples" / "benchmark.py", *sys.argv[1:], *own_flags],
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
