"""Tables and chart of what `benchmark.py` measured."""

import pathlib
import platform

import numpy as np
from matplotlib.figure import Figure

from benchmarks.methods import group_results, list_method_tables, name_program

# Ratio: program, programs whose sum it is divided by, what of them.
RATIOS = {
    "SD-KD / KD": ("sd_kd", ("kd",), "median"),
    "SD-DKD / KD": ("sd_dkd", ("kd",), "median"),
    "SD-NKD / KD": ("sd_nkd", ("kd",), "median"),
    "SD-KD / (teacher's forward pass + student alone)": (
        "sd_kd", ("teacher", "supervised"), "median",
    ),
    "SD-KD, cached teacher / student alone": ("sd_kd_cached", ("supervised",), "median"),
    "SD-KD with FitNet / SD-KD": ("sd_kd+fitnet", ("sd_kd",), "median"),
    "SD-KD with SP / SD-KD": ("sd_kd+sp", ("sd_kd",), "median"),
    "SD-KD, teacher in bfloat16 / SD-KD": ("sd_kd_bfloat16", ("sd_kd",), "median"),
    "SD-KD, teacher in bfloat16 / `keras.distillation`": (
        "sd_kd_bfloat16", ("keras_kd",), "median",
    ),
    "teacher's forward pass, folded / as given": ("folded_teacher", ("teacher",), "median"),
    "KD / `keras.distillation`": ("kd", ("keras_kd",), "median"),
    "KD / authors' code": ("kd", ("reference_kd",), "median"),
    "SD-KD / authors' code": ("sd_kd", ("reference_sd_kd",), "median"),
    "SD-DKD / authors' code": ("sd_dkd", ("reference_sd_dkd",), "median"),
    "SD-NKD / authors' code": ("sd_nkd", ("reference_sd_nkd",), "median"),
    "peak memory of the process, SD-KD / KD": ("sd_kd", ("kd",), "peak_memory"),
    "peak memory beyond the built program, SD-KD / KD": ("sd_kd", ("kd",), "added_memory"),
    "peak memory of the GPU, SD-KD / KD": ("sd_kd", ("kd",), "peak_gpu_memory"),
}  # fmt: skip
_COLOURS = {"reference": "#7f7f7f", "keras": "#d95f02", "ours": "#1f5fa8"}


def compute_ratios(results):
    """Return ratio -> backend -> value, of those whose programs were measured in one group."""
    ratios = {}
    for name, (program, parts, key) in RATIOS.items():
        for (backend, _), measured in group_results(results).items():
            values = [measured.get(x, {}).get(key) for x in (program, *parts)]
            if all(values):
                ratio = values[0] / sum(values[1:])
                ratios.setdefault(name, {}).setdefault(backend, ratio)
    return ratios


def list_backends(results):
    """Return the backends in the order in which they were measured."""
    return list(dict.fromkeys(result["backend"] for result in results))


def list_programs(results):
    """Return the programs, likewise."""
    return list(dict.fromkeys(result["program"] for result in results))


def write_report(results):
    """Return the tables of a comparison of programs, in Markdown."""
    backends = list_backends(results)
    groups = group_results(results)
    times, costs = [], []
    for program in list_programs(results):
        row, kd = [], []  # of the first group, if it is in several
        for backend in backends:
            own = [group for key, group in groups.items() if key[0] == backend]
            measured = next((group for group in own if program in group), {})
            row.append(measured.get(program))
            kd.append(measured.get("kd"))
        label = name_program(program)
        times.append([label, *map(_format_time, row, kd)])
        costs.append([label, *map(_format_cost, row)])
    ratios = [
        [name, *(f"{values[x]:.2f}" if x in values else "-" for x in backends)]
        for name, values in compute_ratios(results).items()
    ]
    of_methods = [
        f"{title}\n\n{_format_table(header, rows)}"
        for title, header, rows in list_method_tables(results, backends)
    ]
    return "\n\n".join(
        [
            "Time of a step: median (quartiles), and its ratio to KD.",
            _format_table(["program", *backends], times),
            *([_format_table(["ratio", *backends], ratios)] if ratios else []),
            *of_methods,
            *_describe_groups(groups, backends),
            "First step, with tracing and compilation; peak memory of the process (and of the "
            "GPU).",
            _format_table(["program", *backends], costs),
        ]
    )


def _describe_groups(groups, backends):
    """A line on how KD's step drifted, where there are several groups of programs."""
    steps: dict = {backend: [] for backend in backends}
    for (backend, _), measured in groups.items():
        if "kd" in measured:
            steps[backend].append(_format_seconds(measured["kd"]["median"]))
    if max(map(len, steps.values())) > 1:
        lines = [f"{backend} {', '.join(values)}" for backend, values in steps.items() if values]
        yield f"KD's step in the groups of programs: {'; '.join(lines)}."


def write_sweeps(results, sweeps, settings):
    """Return the tables of the sweeps, in Markdown.

    Args:
        results: of all sweeps.
        sweeps: the settings that were changed.
        settings: name -> value that holds where it was not changed.
    """
    backends = list_backends(results)
    texts = []
    for sweep in sweeps:
        rows = {}
        for result in results:
            if sweep in result:
                images = int(result.get("batch_size", settings["batch_size"])) / result["median"]
                memory = result["added_memory"] / 2**20
                text = f"{_format_seconds(result['median'])}, {images:,.0f} images/s"
                text += f", {memory:,.0f} MiB"
                rows.setdefault(result[sweep], {})[result["backend"]] = text
        if rows:
            lines = [[value, *(row.get(x, "-") for x in backends)] for value, row in rows.items()]
            texts.append(_format_table([f"SD-KD, `{sweep}`", *backends], lines))
    if texts:
        texts.insert(0, "Time of a step, images a second, peak memory beyond the built program.")
    lines = [
        [name, f"{settings['batch_size'] / result['median']:,.0f}"]
        for result in results
        if (name := _name_supply(result, settings))
    ]
    if any(result["program"].startswith("data:") for result in results):
        texts.append(_format_table(["images per second", ""], lines))
    return "\n\n".join(texts)


def _name_supply(result, settings):
    """Name what delivers images, or consumes them: not what a sweep changed."""
    if result["program"].startswith("data:"):
        return f"data pipeline, {result['program'].removeprefix('data:')}"
    if settings.keys() & result.keys():
        return None
    return f"training step of SD-KD, {result['backend']}"


def draw_chart(results, path):
    """Draw the time of a step of every program, one panel a backend."""
    backends = list_backends(results)
    shown = list_programs(results)
    size = (4 + 4 * len(backends), 1.5 + 0.24 * len(shown))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(backends), sharey=True, squeeze=False)[0]
    for axes, backend in zip(panels, backends, strict=True):
        # KD of several groups is that of the first.
        own = {x["program"]: x for x in reversed(results) if x["backend"] == backend}
        for program, result in own.items():
            place = shown.index(program)
            spread = [
                [1000 * abs(result["median"] - result[f"{side}_quartile"])]
                for side in ("lower", "upper")
            ]
            colour = _COLOURS.get(program.split("_")[0], _COLOURS["ours"])
            axes.barh(place, 1000 * result["median"], xerr=spread, color=colour, capsize=2)
        axes.set(title=backend, xlabel="step, ms")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(shown)), [name_program(x).replace("`", "") for x in shown])
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=100)


def describe_run(settings, results):
    """Return a line that says what was measured where."""
    size = settings["image_size"]
    devices = dict.fromkeys(x["versions"]["device"] for x in results if "versions" in x)
    gpus = "".join(f" and {x}" for x in devices if x != "cpu")
    return (
        f"{' -> '.join(settings['pair'])}, batch {settings['batch_size']}, {size} x {size} x 3, "
        f"{settings['num_classes']} classes, scales {','.join(settings['scales'])}, float32; "
        f"{settings['cores']} cores of {settings['cpu']}{gpus}"
    )


def find_cpu():
    """Return the name of the processor, as far as the system tells it."""
    if pathlib.Path("/proc/cpuinfo").exists():
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def summarize(seconds):
    """Return median and quartiles by name."""
    values = np.percentile(seconds, (25, 50, 75))
    return dict(zip(("lower_quartile", "median", "upper_quartile"), values, strict=True))


def _format_seconds(seconds):
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.2f} ms"


def _format_time(result, kd):
    if not result:
        return "-"
    lower, upper = (_format_seconds(result[f"{x}_quartile"]) for x in ("lower", "upper"))
    text = f"{_format_seconds(result['median'])} ({lower.removesuffix(' ms')} to {upper})"
    return f"{text}, {result['median'] / kd['median']:.2f}" if kd else text


def _format_cost(result):
    if not result:
        return "-"
    text = f"{result['first_step']:.1f} s, {result['peak_memory'] / 2**20:,.0f} MiB"
    gpu = result["peak_gpu_memory"]
    return f"{text} ({gpu / 2**20:,.0f} MiB)" if gpu else text


def _format_table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
