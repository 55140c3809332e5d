"""Run the tests once per backend: `python -m tests [pytest options]`.

The environment variable KERAS_BACKENDS limits the backends, as in `KERAS_BACKENDS=jax,torch`. Every
backend has two processes, one for the tests that start programs; two run side by side, and what
each prints comes in one piece when it is done.
"""

import concurrent.futures
import os
import subprocess
import sys
import time

BACKENDS = os.environ.get("KERAS_BACKENDS", "tensorflow,jax,torch").split(",")
WORKERS = min(2, os.cpu_count() or 1)
PROGRAMS = [
    f"tests/test_{name}.py"
    for name in ("benchmark", "converters", "distribution", "examples", "quickstart", "trajectory")
]
# So that no process is left to run alone for long.
PARTS = {"library": [f"--ignore={path}" for path in PROGRAMS], "programs": PROGRAMS}
if any(os.path.exists(x.split("::")[0]) for x in sys.argv[1:]):
    PARTS = {"given": []}
NO_TESTS = 5  # of pytest, where options select none in this part


def run_part(backend, part):
    """Run a part of the tests under one backend; return its status, output and seconds."""
    start = time.monotonic()
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",  # the models are tiny, and the other backend wants the other core
    }
    if backend == "jax":  # compiling costs more than running: the same programs in plainer code
        given = environment.get("XLA_FLAGS", "")
        plain = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        environment["XLA_FLAGS"] = f"{plain} {given}"
    command = [sys.executable, "-m", "pytest", *PARTS[part], *sys.argv[1:]]
    result = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return result.returncode, result.stdout, time.monotonic() - start


def main():
    """Run all backends and sum up; the exit status is 1 if any of them failed."""
    summary = []
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        jobs = [(backend, part) for part in PARTS for backend in BACKENDS]
        jobs.sort(key=lambda job: job[0] == "torch")  # the shortest last
        runs = {pool.submit(run_part, *job): " ".join(job) for job in jobs}
        print(f"Testing on {', '.join(BACKENDS)}; this takes some minutes.", flush=True)
        for run in concurrent.futures.as_completed(runs):
            status, output, seconds = run.result()
            print(f"\n===== {runs[run]} =====\n{output}", flush=True)
            summary.append((runs[run], status, seconds))
    for backend, status, seconds in summary:
        print(f"{backend}: {'passed' if status in (0, NO_TESTS) else 'FAILED'} in {seconds:.0f} s")
    return int(any(status not in (0, NO_TESTS) for _, status, _ in summary))


if __name__ == "__main__":
    sys.exit(main())
