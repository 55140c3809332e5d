"""The examples: smoke forms from end to end, resuming, reports, and what is said of mistakes."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys

import distill
import keras
import numpy as np
import pytest
import train_teacher
from keras import layers
from small_classifiers import assert_same_weights, copy_weights
from training import (
    command_line,
    config_keys,
    data_sets,
    experiment,
    networks,
    records,
    state,
    term_rows,
)

from configs import ablations, cifar100, imagenet, methods
from keras_sdd import converters, data, losses, models, terms

REPOSITORY = pathlib.Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"

# Smoke forms of it train resnet8.
PAIR = "resnet56,resnet20"
on_one = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


# Programs as a stranger starts them.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


def run_python(*arguments, expected=0):
    """Run Python at the top of the repository; return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES)}  # of scripts
    finished = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == expected, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


STUDENT = (
    f"--config=configs/cifar100.py:{PAIR},sd_dkd",
    "--config.smoke",
    "--config.epochs=2",
    "--config.num_examples=32",
)
# Ends itself as a power cut would, in the middle of the second epoch.
KILLED = """
import os, signal
import distill, keras
from training import command_line, records

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 3:
            os.kill(os.getpid(), signal.SIGKILL)

make_callbacks = records.make_callbacks
records.make_callbacks = lambda *args: [*make_callbacks(*args), Kill()]
command_line.define_flags()
command_line.launch(distill.main)
"""


@pytest.fixture(scope="module")
def teacher_dir(folder):
    experiment.train(cifar100.get_config("resnet56", smoke=True), folder / "teacher")
    return folder / "teacher"


@pytest.fixture(scope="module")
def student_dir(folder, teacher_dir):
    """A run that was killed in its second epoch and started again."""
    options = (
        *STUDENT,
        f"--config.teacher_checkpoint={teacher_dir / 'last.keras'}",
        f"--workdir={folder / 'student'}",
    )
    run_python("-c", KILLED, *options, expected=-signal.SIGKILL)
    assert not (folder / "student" / "result.json").exists()
    printed = run_python(EXAMPLES / "distill.py", *options)
    assert "Epoch 2/2" in printed and "Epoch 1/2" not in printed
    assert f"cifar100:{PAIR},sd_dkd (official, seed 0): test accuracy" in printed
    return folder / "student"


def test_killed_program_ends_as_an_unbroken_one(student_dir, teacher_dir, tmp_path):
    config = cifar100.get_config(f"{PAIR},sd_dkd", smoke=True)
    config.update(epochs=2, num_examples=32, teacher_checkpoint=str(teacher_dir / "last.keras"))
    experiment.train(config, tmp_path / "unbroken")
    assert_same_run(student_dir, tmp_path / "unbroken")


def test_writes_its_records(student_dir):
    names = {"best.keras", "last.keras", "config.json", "versions.json", "result.json", "log.csv"}
    assert names <= {path.name for path in student_dir.iterdir()}
    result, versions, config = (
        json.loads((student_dir / f"{name}.json").read_text())
        for name in ("result", "versions", "config")
    )
    assert result["cell"] == config["cell"] == f"cifar100:{PAIR},sd_dkd"
    assert config["terms"]["distillation_loss"]["loss"]["beta"] == 2.0 and config["smoke"] is True
    assert 0.0 <= result["last_accuracy"] <= 100.0
    assert result["last_validation_accuracy"] <= result["best_validation_accuracy"] <= 100.0
    assert result["epochs"] == 2 and result["seed"] == 0 and result["seconds"] > 0.0
    assert versions["keras"] == keras.__version__
    assert versions["backend"] == result["backend"] == keras.backend.backend()
    assert versions["python"] == sys.version.split()[0] and "git_commit" in versions


@on_one
def test_evaluates_what_was_saved(student_dir):
    result = json.loads((student_dir / "result.json").read_text())
    printed = run_python(
        EXAMPLES / "evaluate.py",
        *STUDENT,
        f"--checkpoint={student_dir / 'last.keras'}",
    )
    assert f"top-1 {result['last_accuracy']:.2f} %" in printed
    assert f"top-5 {result['last_top5_accuracy']:.2f} %" in printed


def test_reports_what_was_run(folder, student_dir):
    program = EXAMPLES / "report_table.py"
    printed = run_python(program, "--table=2", f"--runs={folder}")
    assert "Not run yet (87 of 87)" in printed  # 79 cells and the eight networks alone
    command = "python examples/distill.py --config=configs/cifar100.py:resnet50,vgg8,sd_nkd\n"
    assert command in printed


# The same in this process, with a network that is built and compiled at once.


def build_tiny(name, num_classes, input_shape, *_):
    inputs = x = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, strides=4, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(num_classes)(x), name=name.replace("/", "_"))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(networks.models, "build", build_tiny)


def smoke_config(arg, module=cifar100, reading="official", **changes):
    config = module.get_config(arg, reading, smoke=True)
    config.update(changes)
    return config


class ReadRecorder:
    """A config that remembers which of its keys were read; writing it to a file is no reading."""

    def __init__(self, config, read, prefix=""):
        self.__dict__.update(_config=config, _read=read, _prefix=prefix)

    def __getattr__(self, key):
        value = getattr(self._config, key)
        if key in self._config.keys():
            if hasattr(value, "keys"):
                return ReadRecorder(value, self._read, f"{self._prefix}{key}.")
            self._read.add(self._prefix + key)
        elif key == "to_dict":
            self._read.update(self._prefix + key for key in config_keys.flatten(self._config))
        return value

    __getitem__ = __getattr__


@pytest.mark.parametrize(
    ("module", "arg", "reading"),
    [
        (cifar100, "resnet20", "official"),
        (cifar100, "vgg13,vgg8,sd_kd+sp+fitnet", "paper"),
        (cifar100, "vgg13,mobilenet_v2,sd_dkd", "official"),
        pytest.param(cifar100, "vgg13,mobilenet_v2,nkd", "official", marks=on_one),
        pytest.param(cifar100, "vgg13,vgg8,sd_nkd", "official", marks=on_one),
        pytest.param(cifar100, "vgg13,mobilenet_v2,sd_nkd", "paper", marks=on_one),
        pytest.param(imagenet, "resnet34,resnet18,kd", "official", marks=on_one),
        pytest.param(ablations, "7,resnet32x4,shufflenet_v1,m14", "official", marks=on_one),
        (ablations, "6,resnet32x4,resnet8x4,complementary", "official"),
    ],
)
def test_smoke_form_takes_a_step_and_reads_every_key(tiny, tmp_path, module, arg, reading):
    config = smoke_config(arg, module, reading)
    read = set()
    recorder = ReadRecorder(config, read)
    command_line.name_workdir(recorder)
    result = experiment.train(recorder, tmp_path)
    assert read == config_keys.flatten(config).keys()
    assert result["cell"] == config.cell and result["reading"] == reading
    row = records.read_log(tmp_path)[0]
    assert all(np.isfinite(list(row.values())))
    assert row["learning_rate"] == pytest.approx(config.learning_rate)


class Killed(BaseException):
    """Ends a run; nothing catches it."""


def end_run(*_):
    raise Killed


class Kill(keras.callbacks.Callback):
    """Ends a run in the middle of an epoch, or at its end before or after its state is saved."""

    def __init__(self, when, epoch):
        super().__init__()
        self.when, self.at_epoch, self.epoch = when, epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            self.end("within")

    def on_epoch_end(self, epoch, logs=None):
        self.end("unsaved")
        self.end("saved")

    def end(self, when):
        if (when, self.epoch) == (self.when, self.at_epoch):
            end_run()

    def join(self, callbacks):
        """Return callbacks with this one beside what saves the state."""
        (place,) = (i for i, x in enumerate(callbacks) if isinstance(x, state.SaveRun))
        place += self.when == "saved"
        return [*callbacks[:place], self, *callbacks[place:]]


def assert_same_run(actual, expected):
    """Both folders hold the same networks and the same log, seconds aside."""
    for name in ("last.keras", "best.keras"):
        networks = [keras.saving.load_model(path / name) for path in (actual, expected)]
        assert_same_weights(networks[0], copy_weights(networks[1]))
    rows = [records.read_log(path) for path in (actual, expected)]
    for row in rows[0] + rows[1]:
        row.pop("seconds")
    assert rows[0] == rows[1]


THREE_EPOCHS = {"epochs": 3, "num_examples": 48}  # of three steps


# A killed run leaves its log open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("method", "kills"),
    [
        pytest.param("ce", [("within", 1)], marks=on_one),
        ("sd_dkd", [("within", 0), ("within", 1), ("unsaved", 1), ("saved", 2)]),
    ],
)
def test_killed_run_ends_as_an_unbroken_one(tiny, tmp_path, monkeypatch, method, kills):
    config = smoke_config(f"{PAIR},{method}", **THREE_EPOCHS)
    experiment.train(config, tmp_path / "unbroken")
    make_callbacks = records.make_callbacks
    for when, epoch in kills:

        def add_kill(*args, kill=(when, epoch)):
            return Kill(*kill).join(make_callbacks(*args))

        monkeypatch.setattr(records, "make_callbacks", add_kill)
        with pytest.raises(Killed):
            experiment.train(config, tmp_path / "broken")
        saved = state.count_finished_epochs(tmp_path / "broken")
        assert saved == epoch + (when == "saved")
    monkeypatch.setattr(records, "make_callbacks", make_callbacks)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(records, "write_result", end_run)
        experiment.train(config, tmp_path / "broken")
    result = experiment.train(config, tmp_path / "broken")
    assert not (tmp_path / "broken" / "state").exists()
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")
    assert len(records.read_log(tmp_path / "broken")) == result["epochs"] == 3


def test_cached_teacher_gives_the_same_run(tiny, tmp_path):
    changes = THREE_EPOCHS | {"augment": False}
    live = smoke_config(f"{PAIR},sd_kd", **changes)
    cached = smoke_config(f"{PAIR},sd_kd", **changes, teacher_cache=str(tmp_path / "cells"))
    experiment.train(live, tmp_path / "live")
    experiment.train(cached, tmp_path / "cached")
    rows = [records.read_log(tmp_path / name) for name in ("live", "cached")]
    for expected, actual in zip(*rows, strict=True):
        assert actual["distillation_loss"] == pytest.approx(expected["distillation_loss"], 1e-4)


@on_one
def test_cache_of_augmented_images_is_explained(tiny, tmp_path):
    config = smoke_config(f"{PAIR},sd_kd", teacher_cache=str(tmp_path / "cells"))
    with pytest.raises(command_line.SetupError, match="augmented at random"):
        experiment.train(config, tmp_path / "run")


@on_one
def test_seed_decides_the_run(tiny, tmp_path):
    weights = {}
    for name, seed in (("first", 1), ("same", 1), ("other", 2)):
        experiment.train(smoke_config(f"{PAIR},kd", seed=seed), tmp_path / name)
        network = keras.saving.load_model(tmp_path / name / "last.keras")
        weights[name] = np.concatenate([w.ravel() for w in copy_weights(network)])
    np.testing.assert_array_equal(weights["first"], weights["same"])
    assert np.abs(weights["first"] - weights["other"]).max() > 1e-3


def build_terms(arg, steps_per_epoch=782, num_samples=50_000, **changes):
    """The terms of an experiment by name."""
    config = cifar100.get_config(f"{PAIR},{arg}")
    config.update(changes)
    return {term.name: term for term in term_rows.build_terms(config, steps_per_epoch, num_samples)}


def test_terms_are_those_of_the_rows():
    terms = build_terms("sd_dkd+sp")
    assert list(terms) == ["distillation_loss", "sp_loss"]
    sdd, sp = terms.values()
    assert sdd.warmup_steps == 20 * 782 and sp.warmup_steps == 0  # given in epochs
    assert sdd.scales == (1, 2) and sdd.pooling == "nested" and float(sp.weight) == 3000.0
    assert sdd.loss.loss.get_config() == {"alpha": 1.0, "beta": 2.0, "temperature": 4.0}
    assert sdd.loss.get_config() == {
        "loss": sdd.loss.loss,
        "consistent_weight": 1.0,
        "complementary_weight": 2.0,
        "consistency": "label",
        "reduction": "mean",
        "include_global": True,
        "scales": (1, 2),
    }


def test_losses_within_losses_are_built(monkeypatch):
    class Sum(losses.LogitLoss):
        def __init__(self, losses, weights):
            self.losses, self.weights = losses, weights

    monkeypatch.setattr(losses, "Sum", Sum, raising=False)
    monkeypatch.setattr(losses, "__all__", [*losses.__all__, "Sum"])
    parts = ({"name": "KD", "temperature": 2.0}, {"name": "NKD"})
    loss = term_rows.build_loss({"name": "Sum", "losses": parts, "weights": (1.0, 2.0)})
    assert loss.weights == (1.0, 2.0) and loss.losses[0].temperature == 2.0
    assert [type(part) for part in loss.losses] == [losses.KD, losses.NKD]


class Memory(terms.Term):
    """A term that asks for what an experiment knows."""

    needs_ids = True

    def __init__(self, num_samples, batch_size, weight=1.0, warmup_steps=0, name=None):
        super().__init__(weight, warmup_steps, name)
        self.sizes = num_samples, batch_size


def test_terms_are_told_what_the_experiment_knows(monkeypatch):
    config = cifar100.get_config(f"{PAIR},sp")
    assert not term_rows.need_ids(config)
    assert not term_rows.need_ids(cifar100.get_config("resnet20"))
    monkeypatch.setattr(terms, "SP", Memory)
    assert term_rows.need_ids(config)
    assert build_terms("sp")["sp_loss"].sizes == (50000, 64)
    sizes = build_terms("sp", num_samples=32, batch_size=16)["sp_loss"].sizes
    assert sizes == (32, 16)
    smoke = smoke_config(f"{PAIR},sp")
    for train, _ in (data_sets.load_data(smoke), data_sets.load_data(smoke)):
        _, targets = next(iter(train.as_numpy_iterator()))
        assert sorted(targets["ids"]) == list(range(16))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"term": "PS"}, "Unknown term. Near: SP.*Received: 'PS'"),
        ({"term": "SP", "wieght": 1.0}, "Unknown argument of SP. Near: weight.*'wieght'"),
        ({"term": "SP", "warmup_epoch": 1}, "Near: warmup_epochs.*'warmup_epoch'"),
        ({"term": "SDD", "loss": {"name": "DDK"}}, "Unknown loss. Near: DKD.*'DDK'"),
        ({"term": "SDD", "loss": {"name": "KD", "temp": 2.0}}, "argument of KD.*temperature"),
    ],
)
def test_wrong_rows_bring_near_names(tiny, tmp_path, row, message):
    config = smoke_config(f"{PAIR},sp")
    with config.unlocked():
        config.terms = {"sp_loss": row}
    with pytest.raises(command_line.SetupError, match=message):
        experiment.train(config, tmp_path)


@pytest.fixture(scope="module")
def small_pair():
    """A teacher and a student whose stages differ, with images and targets of one batch."""
    shape = (16, 16, 3)
    networks = [models.build(f"cifar100/{name}", 10, shape) for name in ("resnet8x4", "resnet8")]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, *shape)).astype("float32")
    targets = {"labels": np.arange(8) % 5, "ids": np.arange(8)}
    return *networks, images, targets


@on_one
@pytest.mark.parametrize("method", [*methods.METHODS, "sd_kd+sp", "crd+wttm", "sd_dkd+reviewkd"])
def test_every_method_takes_a_step(small_pair, method):
    teacher, student, images, targets = small_pair
    config = smoke_config(f"{PAIR},{method}", fold_teacher=False, batch_size=8)
    distiller = networks.build_distiller(config, teacher, student, 1, 16)
    optimizer = experiment.build_optimizer(config, 1)
    distiller.compile(optimizer, losses.CrossEntropy(), jit_compile=False)
    read = distiller.compute_teacher_targets(images)  # tracing the teacher is most of a first step
    logs = distiller.train_on_batch(images, targets | read, return_dict=True)
    assert {"loss", "student_loss", *config.terms} <= logs.keys()
    assert np.isfinite(list(logs.values())).all()


def test_clipping_can_be_left_out():
    clipped = experiment.build_optimizer(smoke_config(f"{PAIR},kd"), 1)
    free = experiment.build_optimizer(smoke_config(f"{PAIR},kd", reading="paper"), 1)
    assert clipped.global_clipnorm == 40.0 and free.global_clipnorm is None


# Teachers.


def test_teacher_may_be_a_pytorch_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    original = models.build("cifar100/resnet8", 10)
    entries = converters.to_torch_state_dict(original)
    state_dict = {name: torch.tensor(np.array(value)) for name, value in entries.items()}
    torch.save({"model": state_dict}, tmp_path / "teacher.pth")
    config = smoke_config(f"{PAIR},kd", teacher_checkpoint=str(tmp_path / "teacher.pth"))
    teacher = networks.load_teacher(config, (32, 32, 3))
    assert_same_weights(teacher, copy_weights(original))


@on_one
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "python examples/train_teacher.py --config=configs/cifar100.py:resnet56"),
        ("none.keras", "needs a trained cifar100/resnet56.*Received: teacher_checkpoint='none.ker"),
        ("test_examples.py", "must be a .keras, .pth or .pt file"),
    ],
)
def test_missing_teacher_is_explained(path, message, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parent)
    config = cifar100.get_config(f"{PAIR},kd")
    config.teacher_checkpoint = path
    with pytest.raises(command_line.SetupError, match=message):
        networks.load_teacher(config, (32, 32, 3))


@on_one
def test_missing_data_are_explained(tmp_path):
    config = cifar100.get_config(f"{PAIR},kd")
    config.data_dir = str(tmp_path)
    with pytest.raises(command_line.SetupError, match="cifar100 is not prepared"):
        data_sets.load_data(config)


# The command line, without Keras, which it does not need.


# Prints its config, for one command line after the other, each in a process of its own: what a
# mistake imports is imported once.
PARSER = """
import json, os, sys
from training import command_line
command_line.define_flags()
lines = json.loads(sys.argv.pop())
if len(lines) > 1:
    import keras_sdd
for line in lines:
    child = os.fork()
    if not child:
        sys.argv[1:] = line
        try:
            command_line.launch(
                lambda config: print(config.to_json(), command_line.choose_workdir(config))
            )
        except SystemExit as end:  # as Python ends, without tidying up what was imported
            print(end.code if isinstance(end.code, str) else "", flush=True)
            os._exit(1 if isinstance(end.code, str) else end.code or 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"\\0{status}", end="\\0", flush=True)
"""


def parse(*lines):
    """Return exit status and output of a program that prints its config, for each command line."""
    finished = subprocess.run(
        [sys.executable, "-c", PARSER, json.dumps(lines)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(EXAMPLES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    parts = finished.stdout.split("\0")
    return list(zip(map(int, parts[1::2]), parts[::2], strict=False))


CONFIG = "--config=configs/cifar100.py:vgg13,vgg8,sd_nkd"


@on_one
def test_presets_yield_to_other_overrides():
    line = [
        CONFIG,
        "--config.reading=paper",
        "--config.smoke",
        "--config.epochs=5",
        "--config.terms.distillation_loss.scales=(1,4)",
        "--config.terms.distillation_loss.loss.gamma=2.5",
        "--config.num_examples=100",
    ]
    ((status, printed),) = parse(line)
    assert status == 0, printed
    config, end = json.JSONDecoder().raw_decode(printed)
    term = config["terms"]["distillation_loss"]
    assert config["reading"] == "paper" and term["pooling"] == "direct"
    assert config["smoke"] and config["dataset"] == "synthetic" and config["batch_size"] == 16
    assert config["epochs"] == 5 and term["scales"] == [1, 4] and config["num_examples"] == 100
    assert term["loss"]["gamma"] == 2.5 and term["loss"]["mask_target"] is True
    assert printed[end:].strip() == "runs/cifar100/vgg13-vgg8-sd_nkd/paper-seed0-smoke"


MISTAKES = [
    ([CONFIG, "--config.epoch=3"], "Near: epochs"),
    ([CONFIG, "--config.wd=3"], "Near: weight_decay. All: python -c "),
    ([CONFIG, "--config.qqq=3"], "Near: none. All: python -c "),
    (
        [*CONFIG.split("="), "--config.terms.distillation_loss.loss.gama=3"],
        "Near: terms.distillation_loss.loss.gamma",
    ),
    ([CONFIG, "--config.reading=papers"], "Near: paper."),
    ([CONFIG, "--config.epochs=three"], "invalid literal"),
    ([CONFIG, "--work_dir=x"], "Unknown command line flag 'work_dir'"),
    ([CONFIG, "smoke"], "Expected flags only"),
    ([CONFIG.replace("vgg8", "vgg9")], "Near: vgg13,vgg8"),
    ([CONFIG.replace("sd_nkd", "ndk")], "Unknown method. Near: nkd"),
    ([CONFIG.replace("cifar100", "cifar10")], "No such file or directory"),
    ([], "Pass --config="),
]


@on_one
def test_mistakes_are_explained():
    found = parse(*[line for line, _ in MISTAKES])
    for (line, message), (status, printed) in zip(MISTAKES, found, strict=True):
        assert status == 1 and message in printed and "Traceback" not in printed, (line, printed)


@on_one
def test_programs_name_each_other():
    for program, config in (("train_teacher", f"{PAIR},kd"), ("distill", "resnet20")):
        with pytest.raises(command_line.SetupError, match="labels only"):
            module = {"train_teacher": train_teacher, "distill": distill}[program]
            module.main(cifar100.get_config(config))


def test_log_holds_what_tables_need(student_dir):
    with open(student_dir / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    expected = {"val_accuracy", "val_top5_accuracy", "learning_rate", "seconds", "student_loss"}
    assert expected <= set(rows[0])


def test_data_follow_the_epoch_of_fit():
    config = smoke_config(f"{PAIR},kd", num_examples=64)
    train, _ = data_sets.load_data(config)
    follow = data.FollowEpochs(train)

    def read(epoch):
        follow.on_epoch_begin(epoch)
        return np.concatenate([labels for _, labels in train.as_numpy_iterator()])

    first, second = read(0), read(1)
    np.testing.assert_array_equal(read(0), first)
    assert (first != second).any()
