"""A process of `benchmark.py` that is one program: it answers with times and peaks of memory."""

import ctypes
import gc
import json
import os
import resource
import sys
import traceback


def serve(name, options):
    """Be a program: answer every number of steps on standard input with what they took.

    Args:
        name: of the program.
        options: the flags of `benchmark.py`.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand among the answers

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:  # each imports no more than what it measures
        if name.startswith("reference_"):
            from benchmarks import reference as module
        else:
            from benchmarks import programs as module
        run = module.build(name, options)
        answer(versions=module.describe_versions(), memory=measure_memory())
        for line in sys.stdin:
            # The step that leads in wakes threads and brings memory and caches back.
            lead_in, seconds = run(1), run(int(line))
            memory = {
                "peak_memory": measure_memory(),
                "peak_gpu_memory": module.measure_gpu_memory(),
            }
            release_memory()
            answer(lead_in=lead_in, seconds=seconds, **memory)
    except Exception as error:  # whatever it is, the other programs go on
        traceback.print_exc()
        line = str(error).partition("\n")[0]  # its log has all of it
        answer(error=f"{type(error).__name__}: {line}")


def release_memory():
    """Give back what is free: a program that waits should not hold the memory of a step."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc keeps it
    if trim:
        trim(0)


def measure_memory():
    """Return the peak of the memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # elsewhere it is in KiB
