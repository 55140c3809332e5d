"""The benchmark: its smoke form from end to end, every program, turns and tables; never a time."""

import json
import os
import pathlib
import subprocess
import sys
import types

import benchmark
import keras
import pytest
from benchmarks import methods, report, turns
from benchmarks import programs as benchmark_programs
from keras import layers
from matplotlib.image import imread
from training import term_rows

import keras_sdd

REPOSITORY = pathlib.Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"

BACKEND = keras.backend.backend()


def run_benchmark(*arguments, expected=0):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    finished = subprocess.run(
        [sys.executable, EXAMPLES / "benchmark.py", f"--backends={BACKEND}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == expected, finished.stdout + finished.stderr
    return finished


# What the benchmark uses of the authors' code, with networks of one layer.
STAND_IN = {
    "__init__.py": "raise ImportError('needs packages for its data and logs')",
    "models/__init__.py": """
from torch import nn

class Network(nn.Module):
    def __init__(self, num_classes, M):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        print(M)

    def forward(self, x):
        return self.layers(x), None

cifar_model_dict = {"resnet8_sdd": (Network, None)}
""",
    "distillers/__init__.py": """
from torch import nn

class Distiller(nn.Module):
    def __init__(self, student, teacher, cfg):
        super().__init__()
        self.student, self.teacher, self.cfg = student, teacher, cfg

    def get_learnable_parameters(self):
        return list(self.student.parameters())

    def forward(self, image, target, epoch):
        logits, _ = self.student(image)
        loss = nn.functional.cross_entropy(logits, target) * self.cfg.KD.LOSS.CE_WEIGHT
        return logits, {"loss_ce": loss, "loss_kd": loss.cuda()}

distiller_dict = {"SDD_KD": Distiller}
""",
}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Standard output and folder of a smoke run, a stand-in in the place of the authors' code."""
    folder = tmp_path_factory.mktemp("benchmark")
    for name, text in STAND_IN.items():
        path = folder / "code" / "mdistiller" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    finished = run_benchmark(
        "--smoke",
        "--programs=kd,sd_kd",
        f"--reference={folder / 'code'}",
        f"--output={folder / 'results'}",
    )
    assert f"{BACKEND}: round 1 of 1" in finished.stderr
    return finished.stdout, folder / "results"


def test_prints_tables(smoke):
    printed, folder = smoke
    assert printed.startswith("resnet8 -> resnet8, batch 4, 32 x 32 x 3, 10 classes")
    assert f"| program | {BACKEND} |\n| --- | --- |\n| KD | " in printed
    assert "| authors' PyTorch code, SD-KD | " in printed
    assert "| SD-KD / authors' code | " in printed and "| SD-KD / KD | " in printed
    assert "| KD / authors' code | " not in printed
    assert f"Left out: reference_kd on {BACKEND}: KeyError: 'resnet8'" in printed
    assert (folder / "programs.md").read_text() == printed


def test_writes_numbers_and_chart(smoke):
    folder = smoke[1]
    values = json.loads((folder / "programs.json").read_text())
    assert values["settings"]["pair"] == ["resnet8", "resnet8"]
    assert values["settings"]["cores"] and values["settings"]["cpu"]
    programs = [result["program"] for result in values["results"]]
    assert programs == ["kd", "sd_kd", "reference_sd_kd"]
    for result in values["results"]:
        assert result["backend"] == BACKEND
        assert len(result["seconds"]) == result["steps"] == 1
        assert result["median"] == result["seconds"][0] > 0.0
        assert result["first_step"] > 0.0 and result["peak_memory"] > 2**20
    versions = values["results"][0]["versions"]
    assert versions["keras"] == keras.__version__ and versions["device"]
    assert "torch" in values["results"][2]["versions"]
    assert values["methods"]["step over KD"]["kd"] == {BACKEND: 1.0}
    assert imread(folder / "programs.png")[..., :3].std() > 0.1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--programs=sd_kd,skd", "must be some of: methods, kd, sd_kd_12"),
        ("--sweeps=batch", "must be some of: batch_size, num_classes"),
        ("--reference=elsewhere", "must be a checkout of the authors' code"),
        ("--pair=resnet8", "TEACHER,STUDENT"),
        ("kd", "Expected flags only"),
    ],
)
@pytest.mark.skipif(BACKEND != "torch", reason="no backend is loaded for it")
def test_refuses_bad_flags(flag, message):
    finished = run_benchmark(flag, expected=1)
    assert message in finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr


# The programs, with networks that are built and compiled at once.

NO_DISTILLERS = {"keras_kd", "supervised", "teacher", "folded_teacher", "simkd"}


def build_tiny(name, num_classes, input_shape):
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, strides=2, use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(num_classes)(x))


@pytest.fixture
def options(tmp_path):
    return types.SimpleNamespace(
        pair=["resnet8", "resnet8"],
        batch_size=4,
        num_classes=5,
        image_size=16,
        scales=["1", "2", "4"],
        data_dir=str(tmp_path),
    )


@pytest.mark.parametrize("program", [*methods.PROGRAMS, "crd"])
def test_program_takes_steps(program, options, monkeypatch):
    if program == "keras_kd" and not hasattr(keras, "distillation"):
        pytest.skip("not part of this Keras")
    monkeypatch.setattr(keras_sdd.models, "build", build_tiny)
    run = benchmark_programs.build(program, options)
    assert run(1) > 0.0 and run(3) > 0.0


def test_cached_teacher_does_not_run(options, monkeypatch):
    monkeypatch.setattr(keras_sdd.models, "build", build_tiny)
    run = benchmark_programs.build("sd_kd_cached", options)
    monkeypatch.setattr("keras_sdd._backend.run_teacher", None)
    assert run(1) > 0.0


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_terms_are_those_of_the_configs(options, monkeypatch):
    programs = (*methods.METHODS, *methods.PROGRAMS)
    for name in set(programs) - NO_DISTILLERS:
        config = benchmark_programs.make_config(name, options)
        assert term_rows.build_terms(config, 1, 64), name
    crd = benchmark_programs.make_config("crd", options).terms.crd_loss
    assert crd.num_negatives == 16384
    scales = [
        benchmark_programs.make_config(x, options).terms.distillation_loss.scales
        for x in ("kd", "sd_kd_12", "sd_kd", "sd_kd+crd")
    ]
    assert scales == [(1,), (1, 2), (1, 2, 4), (1, 2, 4)]
    assert benchmark_programs.make_config("sd_kd_bfloat16", options).teacher_dtype == "bfloat16"
    options.pair = ["resnet32x4", "resnet8x4"]  # which has settings of its own
    assert benchmark_programs.make_config("reviewkd", options).terms.reviewkd_loss.weight == 5.0


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all backends")
def test_simkd_and_terms_that_do_not_fit(options, monkeypatch):
    assert benchmark_programs.build("simkd", options)(1) > 0.0
    options.pair = ["resnet8", "mobilenet_v2"]
    with pytest.raises(ValueError, match="MGD"):
        benchmark_programs.build("mgd", options)
    with pytest.raises(LookupError, match="term of the same name"):
        benchmark_programs.build("kd+dkd", options)


def test_reads_data_sets(options):
    read = benchmark_programs.build("data:synthetic", options)
    assert read(70) > 0.0  # more batches than an epoch has
    with pytest.raises(FileNotFoundError, match="not prepared"):
        benchmark_programs.build("data:cifar100", options)


# Turns and tables, from made-up programs.


class Fake(turns.Program):
    """Answers at once, and writes down its turns."""

    turns: list[tuple] = []

    def __init__(self, name, backend, **changes):
        self.name, self.backend, self.changes = name, backend, changes

    def read(self):
        if self.name == "data:cifar100":
            raise turns.ProgramError("cifar100 is not prepared")
        return {"memory": 10, "versions": {}}

    def run(self, steps):
        self.turns.append((self.name, steps, *self.changes.values()))
        if self.name == "mgd" and steps > 1:
            raise turns.ProgramError("mgd ended")
        seconds = 0.5 * steps
        memory = {"peak_memory": 40, "peak_gpu_memory": None}
        return {"lead_in": 9.0, "seconds": seconds, **memory}

    def close(self):
        self.turns.append((self.name, "closed"))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(turns, "Program", Fake)
    monkeypatch.setattr(Fake, "turns", [])
    values = types.SimpleNamespace(
        rounds=2, steps=0, backends=["jax", "torch"], smoke=True, sweeps=["scales", "data"],
        programs=["sd_kd", "crd", "mgd"], reference="folder", at_once=3,
    )  # fmt: skip
    for module in (benchmark, turns):
        monkeypatch.setattr(module, "FLAGS", values)


def test_programs_take_turns(fakes):
    requests = [(name, "jax", {}) for name in ("kd", "data:cifar100", "sd_kd")]
    results, messages = turns.take_turns(requests, "jax")
    warm_up = [("kd", 1), ("sd_kd", 1)]
    bursts = [("kd", 3), ("sd_kd", 3), ("sd_kd", 3), ("kd", 3)]  # of 0.5 s a step
    closed = [(name, "closed") for name in ("sd_kd", "data:cifar100", "kd")]
    assert Fake.turns == [*warm_up, *bursts, *closed]
    assert messages == ["Left out: cifar100 is not prepared"]
    assert [result["program"] for result in results] == ["kd", "sd_kd"]
    assert results[0]["median"] == 0.5 and results[0]["seconds"] == [0.5, 0.5]
    assert results[0]["first_step"] == 9.0 and results[0]["added_memory"] == 30


def test_programs_are_timed_in_groups(fakes, capsys):
    parts = list(benchmark.compare_programs())
    programs = [[x["program"] for x in results] for results, _ in parts]
    assert programs == 2 * [
        ["kd", "sd_kd", "reference_sd_kd"],
        ["kd", "crd", "reference_crd"],
        ["kd"],
    ]
    assert [messages for _, messages in parts] == 2 * [[], [], ["Left out: mgd ended"]]
    assert {x["group"] for x in parts[4][0]} == {1} and parts[4][0][0]["backend"] == "torch"
    assert "torch, group 3 of 3: round 2 of 2" in (progress := capsys.readouterr().err)
    assert "8 of 16 programs in 0 min; about 0 min left" in progress


def test_groups_have_kd_and_pairs():
    def make(names, with_reference=True, at_once=17):
        return methods.make_groups(names, with_reference, at_once)

    (default,) = make(methods.PROGRAMS)
    assert default[:2] == ["kd", "reference_kd"] and len(set(default)) == len(default) == 17
    assert make(["crd", "kd"], False) == [["kd", "crd"]] and make(["kd"], False) == [["kd"]]
    groups = make(["methods"], at_once=8)
    assert all(group[0] == "kd" and 1 < len(group) <= 8 for group in groups)
    names = [name for group in groups for name in group if name != "kd"]
    assert len(set(names)) == len(names)
    assert {"kd", *names} == {
        *methods.METHODS, *(f"reference_{x}" for x in methods.AUTHORS)
    }  # fmt: skip
    for group in groups:
        assert {name.removeprefix("reference_") for name in group} <= set(group)


def test_sweeps_change_one_setting(fakes):
    results = [result for part, _ in benchmark.sweep_settings() for result in part]
    assert ("sd_kd", 1, "1,2") in Fake.turns
    settings = {"batch_size": 64, "scales": ["1", "2", "4"]}
    text = report.write_sweeps(results, tuple(benchmark.SWEEPS), settings)
    assert "| SD-KD, `scales` | jax | torch |" in text
    assert "| 1,2 | 500 ms, 128 images/s, 0 MiB | 500 ms, 128 images/s, 0 MiB |" in text
    assert "| data pipeline, fashion_mnist | 128 |" in text and "cifar100" not in text
    assert text.count("training step of SD-KD") == 2


def describe_fake(program, median, backend="torch"):
    quartiles = {"lower_quartile": median - 0.01, "upper_quartile": median + 0.02}
    memory = {"peak_memory": 3 * 2**30, "added_memory": 2**30, "peak_gpu_memory": None}
    names = {"program": program, "backend": backend}
    return names | quartiles | memory | {"median": median, "first_step": 4.0}


def test_ratios_and_tables():
    medians = {"kd": 0.8, "sd_kd": 1.0, "teacher": 0.3, "supervised": 0.2, "reference_sd_kd": 2.0}
    results = [describe_fake(*item) for item in medians.items()] + [describe_fake("kd", 1, "jax")]
    ratios = report.compute_ratios(results)
    assert {name: values["torch"] for name, values in ratios.items()} == {
        "SD-KD / KD": 1.25,
        "SD-KD / (teacher's forward pass + student alone)": 2.0,
        "SD-KD / authors' code": 0.5,
        "peak memory of the process, SD-KD / KD": 1.0,
        "peak memory beyond the built program, SD-KD / KD": 1.0,
    }
    text = report.write_report(results)
    assert "| SD-KD | 1,000 ms (990 to 1,020 ms), 1.25 | - |" in text
    assert "| SD-KD / authors' code | 0.50 | - |" in text
    assert "| KD | 4.0 s, 3,072 MiB | 4.0 s, 3,072 MiB |" in text


def test_methods_beside_kd_of_their_group():
    groups = [
        {"kd": 1.0, "crd": 1.5, "reference_crd": 3.0, "sp": 1.3, "teacher": 0.5},
        {"kd": 2.0, "reviewkd": 4.4, "reference_reviewkd": 4.0, "sd_kd": 2.1, "sd_kd+crd": 3.0},
    ]
    results = [
        describe_fake(*item) | {"group": index}
        for index, medians in enumerate(groups)
        for item in medians.items()
    ]
    results.append(describe_fake("crd", 1.0, "jax") | {"group": 0})  # its KD was left out
    text = report.write_report(results)
    for row in (
        "| KD | 1.00 ✓ | - | 1.05 | 1.00 (11 ms) |",
        "| `crd` | 1.50 ✓ | - | 1.60 | 3.73 (41 ms) |",
        "| `sp` | 1.30 missed | - | 1.15 | - |",
        "| `reviewkd` | 2.20 missed | - | 2.00 | 2.36 (26 ms) |",
        "| SD-KD | 1.05 ✓ | - | 1.05 | 1.00 (11 ms) |",
        "| `sd_kd+crd` | 1.50 | - | - | - |",
        "| `crd` | 2.00 ✓ | - |",
        "| `reviewkd` | 0.91 missed | - |",
        "| `reviewkd` | 4,400 ms (4,390 to 4,420 ms), 2.20 | - |",
        "KD's step in the groups of programs: torch 1,000 ms, 2,000 ms.",
    ):
        assert row in text, row
    assert text.count("| `crd` | 1.00 | - |") == 2  # of memory
    assert "`teacher`" not in text
    aims = {x: methods.find_aim(x) for x in ("sd_wttm", "sd_ctkd", "icd", "semckd", "pkt")}
    assert aims == {"sd_wttm": 1.05, "sd_ctkd": 1.05, "icd": None, "semckd": None, "pkt": 1.15}


def test_what_was_measured_is_kept_when_the_run_ends(tmp_path, monkeypatch, capsys):
    def compare():
        yield [describe_fake("kd", 0.8), describe_fake("sd_kd", 1.0)], ["Left out: sd_dkd"]
        raise KeyboardInterrupt

    settings = {"pair": ["a", "b"], "batch_size": 2, "image_size": 8, "num_classes": 3}
    settings |= {"scales": ["1"], "cores": 1, "cpu": "some"}
    flags = types.SimpleNamespace(output=tmp_path, sweeps=[], smoke=False, serve=None)
    flags.results = None
    monkeypatch.setattr(benchmark, "FLAGS", flags)
    monkeypatch.setattr(benchmark, "describe_settings", lambda: settings)
    monkeypatch.setattr(benchmark, "compare_programs", compare)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(["benchmark.py"])
    assert "| SD-KD / KD | 1.25 |\n" in (tmp_path / "programs.md").read_text()
    assert json.loads((tmp_path / "programs.json").read_text())["left_out"] == ["Left out: sd_dkd"]
    assert (tmp_path / "programs.png").exists()
    flags.results = tmp_path / "programs.json"
    capsys.readouterr()
    benchmark.main(["benchmark.py"])
    assert capsys.readouterr().out == (tmp_path / "programs.md").read_text()
    for text in (None, "{", "[]", '{"settings": {}, "left_out": [], "results": [{}]}'):
        flags.results = tmp_path / f"{text is None} damaged.json"
        if text is not None:
            flags.results.write_text(text)
        with pytest.raises(SystemExit, match="--results must be .* damaged.json"):
            benchmark.main(["benchmark.py"])


def test_the_line_on_a_run_names_its_gpu():
    settings = {"pair": ["a", "b"], "batch_size": 2, "image_size": 8, "num_classes": 3}
    settings |= {"scales": ["1"], "cores": 1, "cpu": "some"}
    results = [{"versions": {"device": x}} for x in ("cpu", "H100", "H100")]
    assert report.describe_run(settings, results).endswith("1 cores of some and H100")
    assert report.describe_run(settings, results[:1]).endswith("1 cores of some")


def test_ratios_name_programs_of_the_default_run():
    (programs,) = methods.make_groups(methods.PROGRAMS, True, 17)
    for program, parts, _ in report.RATIOS.values():
        assert {program, *parts} <= set(programs)
