"""Run the tests once per backend, each in a process of its own: `python -m tests [pytest options]`.

The environment variable KERAS_BACKENDS limits the backends, as in `KERAS_BACKENDS=jax,torch`. Two
run side by side; what each prints comes in one piece when it is done.
"""

import concurrent.futures
import os
import subprocess
import sys
import time

BACKENDS = os.environ.get("KERAS_BACKENDS", "tensorflow,jax,torch").split(",")
WORKERS = min(2, os.cpu_count() or 1)


def run_backend(backend):
    """Run pytest under one backend; return its status, output and seconds."""
    start = time.monotonic()
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",  # the models are tiny, and the other backend wants the other core
    }
    if backend == "jax":  # compiling costs more than running: the same programs in plainer code
        given = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {given}"
    command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    result = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return result.returncode, result.stdout, time.monotonic() - start


def main():
    """Run all backends and sum up; the exit status is 1 if any of them failed."""
    summary = []
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        runs = {pool.submit(run_backend, backend): backend for backend in BACKENDS}
        print(f"Testing on {', '.join(BACKENDS)}; this takes some minutes.", flush=True)
        for run in concurrent.futures.as_completed(runs):
            status, output, seconds = run.result()
            print(f"\n===== {runs[run]} =====\n{output}", flush=True)
            summary.append((runs[run], status, seconds))
    for backend, status, seconds in summary:
        print(f"{backend}: {'passed' if status == 0 else 'FAILED'} in {seconds:.0f} s")
    return int(any(status for _, status, _ in summary))


if __name__ == "__main__":
    sys.exit(main())
