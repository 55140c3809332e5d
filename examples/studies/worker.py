"""A process of a study: it runs what its standard input says, line by line, and ends with it.

A line is JSON: `config` (FILE:ARG), `changes` of its keys, `workdir` and the file `log` for what
the run prints. The answer is a line as well, `{"error": null}` or what went wrong.
"""

import gc
import json
import os
import pathlib
import queue
import sys
import threading
import traceback

import keras
from training import command_line, experiment


def run(job):
    """Train as examples/train.py does."""
    config = command_line.load_config(job["config"])
    config.update_from_flattened_dict(job["changes"])
    experiment.train(config, pathlib.Path(job["workdir"]))


def answer(job):
    """Return what became of a job, as a dict."""
    log = open(job["log"], "a")  # as standard output, it stays open
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log.fileno(), stream.fileno())
    try:
        run(job)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{error}" if isinstance(error, _EXPLAINED) else repr(error)}
    finally:
        log.close()
        keras.utils.clear_session()
        gc.collect()
    return {"error": None}


_EXPLAINED = (command_line.SetupError, LookupError)


def main():
    """Answer all jobs."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    jobs = queue.SimpleQueue()

    def read():
        for line in sys.stdin:
            jobs.put(json.loads(line))
        os._exit(0)  # the study has ended, or was killed: no run goes on without it

    threading.Thread(target=read, daemon=True).start()
    command_line.quieten()
    while True:
        print(json.dumps(answer(jobs.get())), file=answers, flush=True)


if __name__ == "__main__":
    main()
