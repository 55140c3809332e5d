"""The benchmark: its smoke form from end to end, every program, turns and tables; never a time."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import pytest
from keras import layers
from matplotlib.image import imread

REPOSITORY = pathlib.Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
sys.path[:0] = [str(EXAMPLES), str(REPOSITORY)]

import benchmark  # noqa: E402
import benchmark_programs  # noqa: E402
import benchmark_report  # noqa: E402

import keras_sdd  # noqa: E402

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
        "--programs=sd_kd,reference_sd_kd,reference_kd",
        f"--reference={folder / 'code'}",
        f"--output={folder / 'results'}",
    )
    assert f"{BACKEND}: round 1 of 1" in finished.stderr
    return finished.stdout, folder / "results"


def test_prints_tables(smoke):
    printed, folder = smoke
    assert printed.startswith("resnet8 -> resnet8, batch 4, 32 x 32 x 3, 10 classes")
    assert f"| program | {BACKEND} |\n| --- | --- |\n| SD-KD | " in printed
    assert "| authors' PyTorch code, SD-KD | " in printed
    assert "| SD-KD / authors' code | " in printed
    assert "| SD-KD / KD | " not in printed  # KD was not asked for
    assert f"Left out: reference_kd on {BACKEND}: KeyError: 'resnet8'" in printed
    assert (folder / "programs.md").read_text() == printed


def test_writes_numbers_and_chart(smoke):
    folder = smoke[1]
    values = json.loads((folder / "programs.json").read_text())
    assert values["settings"]["pair"] == ["resnet8", "resnet8"]
    assert values["settings"]["cores"] and values["settings"]["cpu"]
    programs = [result["program"] for result in values["results"]]
    assert programs == ["sd_kd", "reference_sd_kd"]
    for result in values["results"]:
        assert result["backend"] == BACKEND
        assert len(result["seconds"]) == result["steps"] == 1
        assert result["median"] == result["seconds"][0] > 0.0
        assert result["first_step"] > 0.0 and result["peak_memory"] > 2**20
    versions = values["results"][0]["versions"]
    assert versions["keras"] == keras.__version__ and versions["device"]
    assert "torch" in values["results"][1]["versions"]
    assert imread(folder / "programs.png")[..., :3].std() > 0.1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--programs=sd_kd,skd", "must be some of: kd, sd_kd_12"),
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


@pytest.mark.parametrize(
    "program", [name for name in benchmark_report.PROGRAMS if not name.startswith("reference_")]
)
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


def test_reads_data_sets(options):
    read = benchmark_programs.build("data:synthetic", options)
    assert read(70) > 0.0  # more batches than an epoch has
    with pytest.raises(FileNotFoundError, match="not prepared"):
        benchmark_programs.build("data:cifar100", options)


# Turns and tables, from made-up programs.


class Fake(benchmark.Program):
    """Answers at once, and writes down its turns."""

    turns: list[tuple] = []

    def __init__(self, name, backend, **changes):
        self.name, self.backend, self.changes = name, backend, changes

    def read(self):
        if self.name == "data:cifar100":
            raise benchmark.ProgramError("cifar100 is not prepared")
        return {"memory": 10, "versions": {}}

    def run(self, steps):
        self.turns.append((self.name, steps, *self.changes.values()))
        seconds = 0.5 * steps
        memory = {"peak_memory": 40, "peak_gpu_memory": None}
        return {"lead_in": 9.0, "seconds": seconds, **memory}

    def close(self):
        self.turns.append((self.name, "closed"))


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(benchmark, "Program", Fake)
    monkeypatch.setattr(Fake, "turns", [])
    values = types.SimpleNamespace(
        rounds=2, steps=0, backends=["jax", "torch"], smoke=True, sweeps=["scales", "data"]
    )
    monkeypatch.setattr(benchmark, "FLAGS", values)


def test_programs_take_turns(fakes):
    requests = [(name, "jax", {}) for name in ("kd", "data:cifar100", "sd_kd")]
    results, messages = benchmark.take_turns(requests, "jax")
    warm_up = [("kd", 1), ("sd_kd", 1)]
    bursts = [("kd", 3), ("sd_kd", 3), ("sd_kd", 3), ("kd", 3)]  # of 0.5 s a step
    closed = [(name, "closed") for name in ("sd_kd", "data:cifar100", "kd")]
    assert Fake.turns == [*warm_up, *bursts, *closed]
    assert messages == ["Left out: cifar100 is not prepared"]
    assert [result["program"] for result in results] == ["kd", "sd_kd"]
    assert results[0]["median"] == 0.5 and results[0]["seconds"] == [0.5, 0.5]
    assert results[0]["first_step"] == 9.0 and results[0]["added_memory"] == 30


def test_sweeps_change_one_setting(fakes):
    results = [result for part, _ in benchmark.sweep_settings() for result in part]
    assert ("sd_kd", 1, "1,2") in Fake.turns
    settings = {"batch_size": 64, "scales": ["1", "2", "4"]}
    text = benchmark_report.write_sweeps(results, tuple(benchmark.SWEEPS), settings)
    assert "| SD-KD, `scales` | jax | torch |" in text
    assert "| 1,2 | 500 ms, 128 images/s | 500 ms, 128 images/s |" in text
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
    ratios = benchmark_report.compute_ratios(results)
    assert {name: values["torch"] for name, values in ratios.items()} == {
        "SD-KD / KD": 1.25,
        "SD-KD / (teacher's forward pass + student alone)": 2.0,
        "SD-KD / authors' code": 0.5,
        "peak memory of the process, SD-KD / KD": 1.0,
        "peak memory beyond the built program, SD-KD / KD": 1.0,
    }
    text = benchmark_report.write_report(results)
    assert "| SD-KD | 1,000 ms (990 to 1,020 ms), 1.25 | - |" in text
    assert "| SD-KD / authors' code | 0.50 | - |" in text
    assert "| KD | 4.0 s, 3,072 MiB | 4.0 s, 3,072 MiB |" in text


def test_what_was_measured_is_kept_when_a_program_ends(tmp_path, monkeypatch):
    def compare():
        yield [describe_fake("kd", 0.8), describe_fake("sd_kd", 1.0)], ["Left out: sd_dkd"]
        raise benchmark.ProgramError("kd on jax: ended")

    settings = {"pair": ["a", "b"], "batch_size": 2, "image_size": 8, "num_classes": 3}
    settings |= {"scales": ["1"], "cores": 1, "cpu": "some"}
    flags = types.SimpleNamespace(output=tmp_path, sweeps=[], smoke=False, serve=None)
    monkeypatch.setattr(benchmark, "FLAGS", flags)
    monkeypatch.setattr(benchmark, "describe_settings", lambda: settings)
    monkeypatch.setattr(benchmark, "compare_programs", compare)
    with pytest.raises(SystemExit, match="error: kd on jax: ended"):
        benchmark.main(["benchmark.py"])
    assert "| SD-KD / KD | 1.25 |\n" in (tmp_path / "programs.md").read_text()
    assert json.loads((tmp_path / "programs.json").read_text())["left_out"] == ["Left out: sd_dkd"]
    assert (tmp_path / "programs.png").exists()


def test_ratios_name_programs():
    for program, parts, _ in benchmark_report.RATIOS.values():
        assert {program, *parts} <= benchmark_report.PROGRAMS.keys()
