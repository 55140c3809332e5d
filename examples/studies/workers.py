"""Processes side by side that do the runs of a study, and a line on how far it is."""

import json
import os
import subprocess
import sys
import threading
import time

from repository import ROOT
from training import records

_EXAMPLES = ROOT / "examples"
_RUNS_OF_A_PROCESS = 20  # its memory grows with each


class Worker:
    """A process that does one run after the other; it ends with this one, however that ends."""

    def __init__(self, threads):
        self.threads, self.process, self.runs = threads, None, 0

    def do(self, run):
        """Do a run; return None, or what went wrong."""
        if self.process is None or self.runs == _RUNS_OF_A_PROCESS:
            self.stop()
            self._start()
        self.runs += 1
        run.workdir.parent.mkdir(parents=True, exist_ok=True)
        job = {"config": run.config, "changes": run.changes, "workdir": str(run.workdir)}
        job["log"] = f"{run.workdir}.log"
        try:
            print(json.dumps(job), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())["error"]
        except (OSError, ValueError):  # it is no more
            status = self.process.wait()
            self.process = None
            return f"the process ended with status {status}; see {job['log']}"

    def _start(self):
        count = str(self.threads)
        names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = {name: count for name in names} | {"TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ
        path = [str(_EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-P", "-m", "studies.worker"]  # -P: not of the current folder
        self.process = subprocess.Popen(
            command, env=environment, stderr=subprocess.DEVNULL, **pipes
        )
        self.runs = 0

    def stop(self):
        """End the process, if there is one."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None


class Progress:
    """How many runs are done, have failed, and how long the others will take."""

    def __init__(self, total, jobs):
        self.total, self.jobs = total, jobs
        self.done = self.timed = 0
        self.seconds, self.failures = 0.0, {}
        self._lock = threading.Lock()

    def add(self, run, error, seconds):
        """Count a run, and print a line on it and on all."""
        with self._lock:
            self.done += 1
            if error:
                self.failures[str(run.workdir)] = error
            if seconds:
                self.timed += 1
                self.seconds += seconds
            print(self.describe(run, error), flush=True)

    def describe(self, run, error):
        """Return the line."""
        came = f"failed: {error}" if error else _describe_result(run)
        line = f"[{self.done}/{self.total}] {run.workdir}: {came}"
        if self.failures:
            line += f"; {len(self.failures)} failed"
        left = self.total - self.done
        if self.timed and left > 0:
            line += f"; {_write_time(left * self.seconds / self.timed / self.jobs)} left"
        return line


def _describe_result(run):
    result = records.read_json(run.workdir / "result.json")
    return f"{result['last_validation_accuracy']:.2f} % of validation images"


def _write_time(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def do_all(tasks, jobs, progress):
    """Do tasks, each a function of a worker's `do` that counts, `jobs` of them side by side.

    Every thread has a worker of its own, and takes the next task when it is done with one.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    tasks, lock, broken = iter(tasks), threading.Lock(), []

    def serve():
        worker = Worker(threads)
        try:
            while not broken:
                with lock:
                    task = next(tasks, None)
                if task is None:
                    return
                task(lambda run: _do(worker, run, progress))
        except BaseException as error:
            broken.append(error)
        finally:
            worker.stop()

    threads_of_jobs = [threading.Thread(target=serve, daemon=True) for _ in range(jobs)]
    for thread in threads_of_jobs:
        thread.start()
    for thread in threads_of_jobs:
        thread.join()
    if broken:
        raise broken[0]


def _do(worker, run, progress):
    """Do a run that is not done, and count it; return whether it is there."""
    started = time.monotonic()
    error = None if _is_done(run) else worker.do(run)
    seconds = time.monotonic() - started
    progress.add(run, error, seconds if seconds > 1 else 0)
    return error is None


def _is_done(run):
    """Whether a run is finished as it is asked for; any other is left to the trainer to refuse."""
    try:
        return records.find_result(run.workdir, run.load_config()) is not None
    except ValueError:
        return False
