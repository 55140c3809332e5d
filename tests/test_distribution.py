"""Several devices against one: what is trained and logged, failures, and what is refused.

Two logical CPUs, and two processes as on two hosts, with TensorFlow and JAX; two processes with
PyTorch.
"""

import re
import time

import keras
import numpy as np
import pytest
import several_devices
from backends import BACKEND
from several_devices import run_on_two_devices, run_on_two_hosts
from small_classifiers import assert_same_weights, build_cnn, copy_weights
from training import command_line, experiment, machine, records, state

from keras_sdd import SDDDistiller, _devices, data, distribution, models
from keras_sdd.losses import CrossEntropy

PROCESSES = 2 if BACKEND == "torch" else 1


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    """What two devices come to, in every process."""
    folder = tmp_path_factory.mktemp("two_devices")
    status, output = run_on_two_devices("compare", folder, "devices")
    assert status == 0, output
    return read_results(folder, PROCESSES)


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory):
    """What two processes come to that have a device each."""
    folder = tmp_path_factory.mktemp("two_hosts")
    for status, output in run_on_two_hosts("compare", folder, "hosts"):
        assert status == 0, output
    return read_results(folder, 2)


def read_results(folder, processes):
    """A dict of the cases' results for every process."""
    return [
        {path.stem[:-2]: dict(np.load(path)) for path in folder.glob(f"* {rank}.npz")}
        for rank in range(processes)
    ]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_device")
    return several_devices.run_cases(distribution.Devices(), folder)


# A stage of which every image of a batch of 8 gives one value.
POOLED_VARIANCES = [f"reviewkd_loss stage1/{x}_bn/moving_variance" for x in ("narrow", "widen")]


def of_four_values(variance):
    """A moving variance after six steps, had each seen four values instead of eight like them."""
    kept = 0.9**6
    return kept + (variance - kept) * (4 / 3) / (8 / 7)


HOSTS = pytest.param(
    "two_hosts", marks=pytest.mark.skipif(BACKEND == "torch", reason="always two processes")
)


@pytest.mark.parametrize("devices", ["two_devices", HOSTS])
@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        ("distilled", 2e-5),
        ("same halves", 2e-5),
        # Elsewhere every device normalizes with the statistics of its own images.
        ("batch norm", 1e-4 if BACKEND == "jax" else None),
        ("memory, missing labels", 1e-4 if BACKEND == "jax" else None),
    ],
)
def test_two_devices_train_and_log_what_one_does(request, devices, one_device, case, tolerance):
    compare(request.getfixturevalue(devices), one_device, case, tolerance)


@pytest.mark.parametrize(
    ("case", "tolerance"), [("labels only", 2e-5), ("cached", 2e-5), ("mixed_float16", 2e-2)]
)
def test_two_devices_of_one_machine(two_devices, one_device, case, tolerance):
    compare(two_devices, one_device, case, tolerance)


def compare(results, one_device, case, tolerance):
    """Hold what every process came to against the others, and against one device."""
    results = [result[case] for result in results]
    for name, expected in one_device[case].items():
        if name in POOLED_VARIANCES and BACKEND != "jax":
            expected = of_four_values(expected)
        for result in results:
            is_memory = name.endswith(" memory")
            if not is_memory:
                np.testing.assert_array_equal(result[name], results[0][name], err_msg=name)
            if tolerance is None:
                assert np.isfinite(result[name]).all()
            elif tolerance < 1e-2 or "loss" in name or "weights" in name:
                atol = tolerance * max(1.0, np.abs(expected).max())
                if name.endswith("moving_variance"):  # that of n - 1 in n values, n a device's
                    atol = max(atol, 2e-3 * np.abs(expected).max())
                np.testing.assert_allclose(result[name], expected, atol=atol, err_msg=name)


@pytest.mark.parametrize("devices", ["two_devices", HOSTS])
def test_network_is_kept_as_it_was_evaluated(request, devices):
    (result, *_) = (x["batch norm"] for x in request.getfixturevalue(devices))
    student = build_cnn(4)
    student.set_weights([result[f"weights{i}"] for i in range(len(student.weights))])
    student.compile(loss=CrossEntropy(), jit_compile=False)
    loss = student.evaluate(several_devices.make_data(several_devices.TESTED), verbose=0)
    assert loss == pytest.approx(result["logged val_loss"][-1], 1e-5)


@pytest.mark.skipif(BACKEND == "jax", reason="one program, of which all devices have the whole")
def test_statistics_are_averaged_and_memories_are_not(request, one_device):
    devices = "two_devices" if BACKEND == "torch" else "two_hosts"
    first, second = (x["memory, missing labels"] for x in request.getfixturevalue(devices))
    name = "remembering_loss {}".format
    for statistics in ("norm/moving_mean", "norm/moving_variance", "project/kernel"):
        np.testing.assert_array_equal(first[name(statistics)], second[name(statistics)])
    # Each device remembers the images that it saw.
    gap = np.abs(first[name("memory")] - second[name("memory")]).max()
    assert gap > 0.1 * np.abs(one_device["memory, missing labels"][name("memory")]).max()


# Failures.


def run_two_devices_until_killed(workdir):
    return [run_on_two_devices("fail", workdir, "kill")]


def run_two_hosts_until_one_is_killed(workdir):
    return run_on_two_hosts("fail", workdir, "kill")


@pytest.mark.parametrize(
    "run",
    [
        run_two_devices_until_killed,
        pytest.param(
            run_two_hosts_until_one_is_killed,
            marks=pytest.mark.skipif(
                BACKEND != "tensorflow", reason="PyTorch's devices are processes; JAX takes minutes"
            ),
        ),
    ],
)
def test_run_that_was_killed_goes_on_with_one_device(tmp_path, monkeypatch, run):
    start = time.monotonic()
    for rank, (status, output) in enumerate(run(tmp_path / "broken")):
        assert status != 0 and (rank or "Epoch 2/2" in output), output
    assert time.monotonic() - start < 200
    assert state.count_finished_epochs(tmp_path / "broken") == 1
    monkeypatch.setattr(models, "build", several_devices.build_tiny)
    for name in ("broken", "unbroken"):
        experiment.train(several_devices.make_config(), tmp_path / name)
    rows = [records.read_log(tmp_path / name) for name in ("broken", "unbroken")]
    assert len(rows[0]) == 2
    for row, expected in zip(*rows, strict=True):
        for key in row.keys() - {"seconds"}:
            assert row[key] == pytest.approx(expected[key], 1e-4, 1e-6), key
    networks = [
        keras.saving.load_model(tmp_path / x / "last.keras") for x in ("broken", "unbroken")
    ]
    assert_same_weights(networks[0], copy_weights(networks[1]), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="one process")
def test_process_that_hangs_ends_the_run(tmp_path):
    status, output = run_on_two_devices("fail", tmp_path, "hang", timeout=120)
    assert status != 0 and "Timed out" in output, output


# One part of every batch.


def read(devices, sizes, **options):
    """The parts of batches of these sizes; their elements count up."""
    import tensorflow as tf

    ends = np.cumsum([0, *sizes])
    batches = tf.data.Dataset.from_generator(
        lambda: (np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)),
        output_signature=tf.TensorSpec([None], tf.int64),
    )
    pairs = tf.data.Dataset.zip(batches, batches)
    return [x.tolist() for x, _ in devices.shard(pairs, **options).as_numpy_iterator()]


def make_processes(count):
    return [distribution.Devices(count, count, rank) for rank in range(count)]


def test_processes_share_every_batch():
    first, second = (read(devices, [4, 3]) for devices in make_processes(2))
    assert first == [[0, 1], [4]] and second == [[2, 3], [5, 6]]
    parts = [read(devices, [9, 5], drop_remainder=True) for devices in make_processes(4)]
    assert parts == [[[0, 1], [9]], [[2, 3], [10]], [[4, 5], [11]], [[6, 7], [12]]]
    assert read(distribution.Devices(), [4, 3]) == [[0, 1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (make_processes(4)[0], {}),
        (make_processes(4)[1], {"drop_remainder": True}),
        (distribution.Devices(2, equal_parts=True), {}),
    ],
)
def test_batch_that_cannot_be_divided_is_an_error(devices, options):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{devices.num_devices} devices"):
        read(devices, [8, 3], **options)


def test_images_that_cannot_be_divided_are_told_at_once(tmp_path, monkeypatch):
    devices = distribution.Devices(3, equal_parts=True)
    dataset = data.load("synthetic", "test", 6, num_examples=16)
    with pytest.raises(ValueError, match="among 3 devices.*Received: 16 images"):
        devices.shard(dataset)
    devices.shard(data.load("synthetic", "test", 6, num_examples=16, drop_remainder=True))
    devices.shard(dataset, drop_remainder=True)
    monkeypatch.setattr(machine, "setup_devices", lambda *_: devices)
    config = several_devices.make_config()
    config.num_examples = 50
    with pytest.raises(command_line.SetupError, match="among 3 devices"):
        experiment.train(config, tmp_path / "run", distribute=True)
    assert not (tmp_path / "run").exists()


def test_shard_keeps_length_and_epochs():
    dataset = data.load("synthetic", "train", 8, num_examples=24)
    part = make_processes(2)[1].shard(dataset, drop_remainder=True)
    assert len(part) == 3
    data.FollowEpochs(part).on_epoch_begin(5)
    assert dataset.epoch_counter.epoch == 5
    with pytest.raises(ValueError, match="Received: dataset=ndarray of shape"):
        make_processes(2)[0].shard(np.zeros(8))


# What is refused.


@pytest.fixture
def environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_wrong_start_is_explained(environment):
    if BACKEND == "torch":
        environment("RANK", "0")
        message = "torchrun --nproc-per-node=.*Received: no WORLD_SIZE, LOCAL_RANK"
    else:
        environment("WORLD_SIZE", "2")
        message = "start the script with python.*Received: WORLD_SIZE=2"
    with pytest.raises(RuntimeError, match=message):
        distribution.initialize()
    with pytest.raises(command_line.SetupError, match=message):
        experiment.train(several_devices.make_config(), None, distribute=True)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's variable")
@pytest.mark.parametrize(
    "config", ["", "{}", '{"cluster": {"worker": ["localhost:1"]}, "task": {"type": "evaluator"}}']
)
def test_cluster_without_this_worker_is_refused(environment, config):
    environment("TF_CONFIG", config)
    with pytest.raises(RuntimeError, match=f"which workers.*Received: '{re.escape(config)}'"):
        distribution.initialize()


def test_batch_that_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(distribution, "initialize", lambda: distribution.Devices(3))
    with pytest.raises(command_line.SetupError, match="Received: batch_size=16"):
        experiment.train(several_devices.make_config(), None, distribute=True)


def test_prepare_needs_a_compiled_model():
    model = build_cnn()
    assert distribution.Devices().prepare(model) is model
    with pytest.raises(ValueError, match="Build and compile the model"):
        distribution.Devices(2).prepare(model)


@pytest.mark.skipif(BACKEND == "torch", reason="there a process can")
def test_process_that_cannot_compute_alone_is_told():
    with (
        pytest.raises(RuntimeError, match="Received: 2 processes"),
        make_processes(2)[0].main_first(),
    ):
        pass


def test_forgotten_prepare_is_refused(monkeypatch):
    distiller = SDDDistiller(build_cnn(8), build_cnn())
    distiller.compile("sgd", jit_compile=False)
    monkeypatch.setattr(_devices, "_started", [distribution.Devices(2)])
    with pytest.raises(RuntimeError, match=r"devices.prepare\(model\)"):
        distiller.fit(several_devices.make_data(several_devices.TRAINED))


def test_timeout_is_checked():
    with pytest.raises(ValueError, match="timeout"):
        distribution.initialize(timeout=-1)
