"""What a run leaves in its folder: who may write it, and what is done with a damaged one."""

import contextlib
import errno
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from training import command_line, data_sets, experiment, folder_lock, networks, records, state

from configs import cifar100
from keras_sdd import distribution

REPOSITORY = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")


def build_tiny(name="tiny", num_classes=10, input_shape=(8, 8, 3), *_):
    inputs = x = keras.Input(input_shape)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, strides=4, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(num_classes)(x))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(networks.models, "build", build_tiny)


def make_config(**changes):
    config = cifar100.get_config("resnet20", smoke=True)
    config.update(changes)
    return config


def train(workdir, config=None):
    """What the trainers do, without building a model: folders are looked at first."""
    return experiment.run(config or make_config(), workdir, distribution.Devices(), None)


def write_run(workdir, config, **result):
    """Write what a finished run of a config leaves, as far as it is looked at."""
    records.write_setup(workdir, config, "cpu")
    keys = ("cell", "reading", "seed", "epochs")
    records.write_json(workdir / "result.json", {key: config[key] for key in keys} | result)


def read_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# One run in a folder.


def test_finished_run_is_left_alone(tiny, tmp_path, capsys):
    result = experiment.train(make_config(), tmp_path)
    before = read_all(tmp_path)
    assert experiment.train(make_config(), tmp_path) == result
    assert read_all(tmp_path) == before
    assert "holds a finished run" in capsys.readouterr().out


def test_folder_of_another_run_is_refused(tmp_path):
    records.write_setup(tmp_path, make_config(), "cpu")
    assert records.find_result(tmp_path, make_config(data_dir="elsewhere")) is None
    with pytest.raises(command_line.SetupError, match="Keys that differ: epochs, seed"):
        train(tmp_path, make_config(epochs=7, seed=3))


HOLDER = """
import pathlib, sys
from training import folder_lock
with folder_lock.lock_workdir(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_folder_in_use_is_refused_until_its_process_is_gone(tmp_path):
    pytest.importorskip("fcntl")
    workdir = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(workdir)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "examples")}
    with subprocess.Popen(command, env=environment, **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        before = read_all(workdir)
        started = r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
        message = f"workdir='{workdir}', in use by process {holder.pid} on .*, {started}$"
        for config in (make_config(), make_config(seed=1)):
            with pytest.raises(command_line.SetupError, match=message):
                train(workdir, config)
        assert read_all(workdir) == before and list(before) == ["lock"]
        holder.kill()
    with folder_lock.lock_workdir(workdir):  # the next one has it
        assert (workdir / "lock").read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("seed", [0, 1])
def test_run_that_ended_before_the_lock_was_had(tmp_path, monkeypatch, seed):
    @contextlib.contextmanager
    def lock_late(workdir):
        write_run(workdir, make_config(), last_accuracy=50.0)
        yield

    monkeypatch.setattr(folder_lock, "lock_workdir", lock_late)
    if seed:
        with pytest.raises(command_line.SetupError, match="Keys that differ: seed"):
            train(tmp_path, make_config(seed=seed))
    else:
        assert train(tmp_path)["last_accuracy"] == 50.0


def test_lock_is_that_of_the_folder(tmp_path, monkeypatch):
    fcntl, workdir = pytest.importorskip("fcntl"), tmp_path / "run"
    flock, calls = fcntl.flock, []

    def lock_late(file, how):
        if not calls:  # another run, of which nothing comes, removes what was just opened
            shutil.rmtree(workdir)
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with folder_lock.lock_workdir(workdir):
        assert (workdir / "lock").read_text().startswith(f"process {os.getpid()} on ")
        with pytest.raises(records.FolderError, match=f"in use by process {os.getpid()}"):
            folder_lock.lock_workdir(workdir).__enter__()


def test_processes_that_do_not_write_take_no_lock(tmp_path):
    write_run(tmp_path, make_config())
    result = records.read_json(tmp_path / "result.json")
    with folder_lock.lock_workdir(tmp_path):  # by the main process
        devices = distribution.Devices(num_devices=2, num_processes=2, rank=1)
        for other in (devices, distribution.Devices()):  # a finished run is only read
            assert experiment.run(make_config(), tmp_path, other, None) == result
        (tmp_path / "result.json").unlink()
        with pytest.raises(command_line.SetupError, match="Another run is in this folder"):
            train(tmp_path)
        reached = pytest.raises(command_line.SetupError, match="no .* here")
        with pytest.MonkeyPatch.context() as patch, reached:
            patch.setattr(data_sets, "load_data", refuse)
            experiment.run(make_config(), tmp_path, devices, None)


def refuse(*_):
    raise command_line.SetupError("no data here")


def test_a_run_that_comes_to_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError), folder_lock.lock_workdir(tmp_path / "run"):
        raise KeyError("set-up failed")
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder_lock.lock_workdir(tmp_path):
        pass


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(command_line.SetupError, match="give another --workdir.*file"):
        train(tmp_path / "file" / "run")


# The log and the networks of a run that goes on.


def write_state(workdir, epochs, content=b""):
    folder = workdir / "state" / f"epoch_{epochs}"
    folder.mkdir(parents=True)
    (folder / "training.weights.h5").write_bytes(content)
    build_tiny().save(folder / "best.keras")


def test_log_is_rewound_to_the_saved_state(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,val_accuracy\n0,0.5\n1,0.75\n2,0.")
    write_state(tmp_path, 1)
    for name in ("unfinished", "epoch_2.copy"):
        (tmp_path / "state" / name).mkdir()
    assert state.count_finished_epochs(tmp_path) == 1
    assert records.rewind_log(tmp_path) == [{"epoch": 0.0, "val_accuracy": 0.5}]
    assert (tmp_path / "log.csv").read_text() == "epoch,val_accuracy\n0,0.5\n"
    shutil.rmtree(tmp_path / "state")
    assert records.rewind_log(tmp_path) == []
    assert not (tmp_path / "log.csv").exists()


LOG = "epoch,loss,val_accuracy\n0,2.5,0.5\n1,2.0,0.75\n2,1.5,0.625\n"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        LOG[:10],
        LOG.replace("0,2.5,0.5\n", ""),
        LOG.replace("1,2.0,0.75\n", ""),
        LOG.replace("1,2.0,0.75\n", "1,2.0\n"),
        LOG.replace("1,2.0,0.75\n", "1,2.0,0.75,0.5\n"),
        LOG.replace("0.75", "\0\0\0\0"),
        LOG.replace("val_accuracy", "val_acc"),
        LOG[:-3],  # an accuracy of 0.6
        LOG[:-1],
    ],
)
def test_log_that_is_shorter_than_the_state_is_refused(tmp_path, text):
    write_state(tmp_path, 3)
    if text is not None:
        (tmp_path / "log.csv").write_text(text)
    before = read_all(tmp_path)
    message = f"{tmp_path / 'log.csv'} is damaged.*remove the folder to run it again"
    with pytest.raises(records.FolderError, match=message):
        records.rewind_log(tmp_path)
    assert read_all(tmp_path) == before


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed"])
def test_damaged_best_network_is_refused(tmp_path, damage):
    write_state(tmp_path, 2)
    path = tmp_path / "state" / "epoch_2" / "best.keras"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"empty": b"", "cut": path.read_bytes()[:-100], "changed": bytes(content)}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    with pytest.raises(records.FolderError, match=f"{path} is missing or damaged"):
        state.restore_state(compile_tiny(), tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a log left open
def test_best_network_is_that_of_the_state_and_not_of_lost_epochs(tmp_path):
    accuracies = [0.5, 0.7, 0.6, 0.9, 0.8]  # the state of epoch 3 is the last one before the kill
    model = compile_tiny()
    bias = model.layers[-1].bias

    def run_epochs(callback, epochs):
        callback.set_model(model)
        callback.set_params({"epochs": 6})
        callback.on_train_begin()
        for epoch in epochs:
            bias.assign(np.full(bias.shape, epoch))
            callback.on_epoch_end(epoch, {"val_accuracy": accuracies[epoch]})

    def read(name):
        bias = keras.saving.load_model(tmp_path / name).layers[-1].bias
        return float(keras.ops.convert_to_numpy(bias)[0])

    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "epoch_2.of_another").touch()  # nobody's, and left alone
    run_epochs(state.SaveRun(tmp_path, every=3), range(4))
    assert state.count_finished_epochs(tmp_path) == 3
    assert (read("best.keras"), read("last.keras"), read("state/best.keras")) == (1.0, 2.0, 3.0)
    # It goes on from there, and the epochs that follow are worse than those that were lost.
    accuracies[3:] = [0.65, 0.6, 0.5]
    (tmp_path / "best.keras").unlink()
    state.restore_state(model, tmp_path)
    run_epochs(state.SaveRun(tmp_path, 3, best=0.7), range(3, 6))
    assert state.count_finished_epochs(tmp_path) == 6
    assert (read("best.keras"), read("last.keras")) == (1.0, 5.0)
    names = {path.name for path in (tmp_path / "state").glob("epoch_*")}
    assert names == {"epoch_6", "epoch_2.of_another"}


class Stop(BaseException):
    """Ends a run as a kill does."""


# A killed run leaves its log open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_remedies_of_damages_work(tiny, tmp_path, monkeypatch):
    def stop(*_):
        raise Stop

    config, workdir = make_config(epochs=2), tmp_path / "broken"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(records, "write_result", stop)
        experiment.train(config, workdir)
    shutil.copytree(workdir, tmp_path / "copy")
    for name in ("log.csv", "state/epoch_2/training.weights.h5", "config.json"):
        os.truncate(workdir / name, 100)
        message = f"{workdir / name} is damaged.*Put the file back from a copy, or remove the fol"
        with pytest.raises(command_line.SetupError, match=message):
            experiment.train(config, workdir)
        shutil.copy(tmp_path / "copy" / name, workdir / name)
    results = [experiment.train(config, workdir)]
    shutil.rmtree(workdir)
    results.append(experiment.train(config, workdir))
    timed = {"seconds": 0, "milliseconds_per_image": 0}
    assert results[0] | timed == results[1] | timed


# Files that were cut off or are of something else.


@pytest.mark.parametrize("content", [b"", b'{"cell": "cifar', b"[1]", b"null", b"\xff\0\0"])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_damaged_records_are_named(tmp_path, name, content):
    write_run(tmp_path, make_config())
    (tmp_path / name).write_bytes(content)
    message = f"{tmp_path / name} is damaged: .*Put the file back from a copy, or remove the folder"
    with pytest.raises(command_line.SetupError, match=message):
        train(tmp_path)


@pytest.mark.parametrize("result", [{}, {"seed": 3}, {"cell": "cifar100:resnet56"}])
def test_result_of_another_run_is_refused(tmp_path, result):
    write_run(tmp_path, make_config(), **result)
    if not result:
        records.write_json(tmp_path / "result.json", result)
    with pytest.raises(command_line.SetupError, match="not of the config.*result.json"):
        train(tmp_path)


@pytest.mark.parametrize("left", ["state", "result.json"])
def test_run_without_its_config_is_refused(tmp_path, left):
    write_state(tmp_path, 1)
    if left == "result.json":
        write_run(tmp_path, make_config())
        (tmp_path / "config.json").unlink()
    with pytest.raises(command_line.SetupError, match="Missing: .*config.json"):
        train(tmp_path)


def compile_tiny(num_classes=10):
    model = build_tiny(num_classes=num_classes)
    model.compile("sgd", jit_compile=False)
    return model


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # of Keras, before its error
@pytest.mark.parametrize("damage", ["empty", "cut", "another network"])
def test_damaged_state_is_named(tmp_path, damage):
    write_state(tmp_path, 2)
    path = tmp_path / "state" / "epoch_2" / "training.weights.h5"
    if damage != "empty":
        compile_tiny(10 if damage == "cut" else 7).save_weights(path)
    if damage == "cut":
        os.truncate(path, path.stat().st_size - 500)
    with pytest.raises(records.FolderError, match=f"{path} is damaged: .*remove the folder"):
        state.restore_state(compile_tiny(), tmp_path)


@pytest.mark.parametrize("kept", [0, 300, -100])
def test_damaged_teacher_is_named(tmp_path, kept):
    path = tmp_path / "teacher.keras"
    build_tiny().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(command_line.SetupError, match=f"{path} is not a network that Keras can"):
        networks.load_network(path, make_config(), "cifar100/resnet20", (8, 8, 3))
