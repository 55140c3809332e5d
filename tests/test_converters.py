"""Checkpoints: round trip, wrappings, files, refusals by name, the conversion command."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops
from recorded_networks import build_empty, make_entries, zero_initialization

from keras_sdd import converters

ROOT = pathlib.Path(__file__).parents[1]
NAME = "cifar100/resnet20"
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


@pytest.fixture(scope="module")
def model():
    return build_empty(NAME)


def read_weights(model):
    return [ops.convert_to_numpy(weight) for weight in model.weights]


def assert_holds(model, entries):
    """The model's entries, counters aside, are `entries` in float32."""
    actual = converters.to_torch_state_dict(model)
    expected = {k: v for k, v in entries.items() if not k.endswith("num_batches_tracked")}
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], np.float32(value), err_msg=name)


# One network for each kind of layer and of naming.
@pytest.mark.parametrize(
    "name",
    [
        "cifar100/resnet8x4",
        "cifar100/wrn_16_2",
        "cifar100/vgg8",
        "cifar100/mobilenet_v2",
        "cifar100/shufflenet_v1",
    ],
)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_round_trip(name, data_format):
    model = build_empty(name, data_format=data_format)
    assert converters.load_torch_state_dict(model, make_entries(name, 3)) is model
    assert_holds(model, make_entries(name, 3))


def test_every_kernel_has_the_layout_of_its_original():
    entries = make_entries("cifar100/shufflenet_v1", 3)
    model = build_empty("cifar100/shufflenet_v1")
    converters.load_torch_state_dict(model, entries)

    def kernel(layer):
        return ops.convert_to_numpy(model.get_layer(layer).kernel)

    def entry(layer):
        return np.float32(entries[f"{layer}.weight"])

    # Output channel 5, input channel 2, row 0, column 1, wherever these exist.
    assert kernel("conv1")[0, 0, 2, 5] == entry("conv1")[5, 2, 0, 0]
    assert kernel("layer1_0_conv2")[0, 1, 5, 0] == entry("layer1.0.conv2")[5, 0, 0, 1]
    assert kernel("linear")[2, 5] == entry("linear")[5, 2]
    # 60 outputs in 3 groups: output 45 is output 5 of the last group.
    assert kernel("layer1_1_conv1")[2, 2, 5] == entry("layer1.1.conv1")[45, 2, 0, 0]


def prefix(entries, word):
    return {f"{word}{name}": value for name, value in entries.items()}


WRAPPINGS = {
    "plain": lambda entries: entries,
    "model": lambda entries: {"model": entries, "epoch": 240, "accuracy": 73.5},
    "state_dict": lambda entries: {"state_dict": entries, "optimizer": {"state": {}}},
    "nested": lambda entries: {"state_dict": {"model": entries}},
    "module": lambda entries: {f"module.{k}": v for k, v in entries.items()},
    "module in model": lambda entries: {"model": {f"module.{k}": v for k, v in entries.items()}},
    "student": lambda entries: prefix(entries, "student."),
    "distiller": lambda entries: (
        prefix(make_entries(NAME, 90), "module.teacher.")
        | prefix(entries, "module.student.")
        | {"module.regressor.weight": np.zeros(3)}
    ),
    "model.": lambda entries: {"state_dict": prefix(entries, "model.")},
    "model.module.": lambda entries: prefix(entries, "model.module."),
    "reversed": lambda entries: dict(reversed(entries.items())),
    "without counters": lambda entries: {k: v for k, v in entries.items() if "tracked" not in k},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(model, wrapping):
    entries = make_entries(NAME, list(WRAPPINGS).index(wrapping))
    converters.load_torch_state_dict(model, WRAPPINGS[wrapping](entries))
    assert_holds(model, entries)


def test_a_module_named_model_is_not_a_wrapping():
    model = build_empty("imagenet/mobilenet_v1", input_shape=(32, 32, 3))
    entries = make_entries("imagenet/mobilenet_v1", 3)
    converters.load_torch_state_dict(model, {f"module.{k}": v for k, v in entries.items()})
    assert_holds(model, entries)


def test_an_unknown_prefix_is_named_with_a_remedy_that_works(model):
    entries = make_entries(NAME, 70)
    state_dict = prefix(entries, "net.backbone.") | {"net.head.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"under the prefix 'net\.backbone\.'") as error:
        converters.load_torch_state_dict(model, state_dict)
    remedy = str(error.value).split("Give ")[1].split(". Received")[0]
    converters.load_torch_state_dict(model, eval(remedy, {"state_dict": state_dict}))
    assert_holds(model, entries)


def test_what_stands_beside_a_prefix_other_than_a_students_is_named(model):
    entries = prefix(make_entries(NAME, 3), "model.") | {"criterion.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"without a weight: criterion\.weight"):
        converters.load_torch_state_dict(model, entries)


# What is done to the entries, and what the error says.
REFUSALS = {
    "missing": (
        {"layer2.0.bn1.running_var": None},
        r"missing: layer2\.0\.bn1\.running_var \(32,\)",
    ),
    "extra": ({"layer9.conv1.weight": np.zeros(3)}, r"without a weight: layer9\.conv1\.weight"),
    "transposed": (
        {"fc.weight": np.zeros((64, 100))},
        r"of another shape: fc\.weight, expected \(100, 64\), received \(64, 100\)",
    ),
    "same size": (
        {"layer1.0.conv1.weight": np.zeros((3, 3, 16, 16))},
        r"layer1\.0\.conv1\.weight, expected \(16, 16, 3, 3\), received \(3, 3, 16, 16\)",
    ),
    "no array": ({"bn1.bias": "zeros"}, r"bn1\.bias, expected \(16,\), received \(\)"),
    "no numbers": ({"fc.bias": np.array(["a"] * 100)}, "could not convert"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_state_dict_that_does_not_fit_changes_nothing(model, case):
    changes, message = REFUSALS[case]
    entries = {k: v for k, v in (make_entries(NAME, 50) | changes).items() if v is not None}
    before = read_weights(model)
    with pytest.raises(ValueError, match=message):
        converters.load_torch_state_dict(model, entries)
    for old, new in zip(before, read_weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_all_problems_are_named_at_once(model):
    entries = make_entries(NAME, 3) | {"fc.bias": np.zeros(7), "extra": np.zeros(1)}
    del entries["conv1.weight"]
    with pytest.raises(ValueError, match=r"(?s)missing: conv1.*weight: extra.*shape: fc\.bias"):
        converters.load_torch_state_dict(model, entries)


@pytest.mark.parametrize("received", [None, [1, 2], np.zeros(3)])
def test_neither_mapping_nor_path(model, received):
    with pytest.raises(TypeError, match=f"Received: {type(received).__name__}"):
        converters.load_torch_state_dict(model, received)


def test_a_foreign_model_is_refused():
    inputs = keras.Input((4,))
    foreign = keras.Model(inputs, keras.layers.PReLU(name="odd")(inputs))
    with pytest.raises(ValueError, match="'odd' is of type PReLU"):
        converters.load_torch_state_dict(foreign, make_entries(NAME, 3))


def test_a_file_without_pytorch(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="install `torch`"):
        converters.load_torch_state_dict(model, tmp_path / "teacher.pth")


def save_checkpoint(path, entries, dtype="float32", **others):
    import torch

    tensors = {k: torch.as_tensor(v).to(getattr(torch, dtype)) for k, v in entries.items()}
    torch.save({"model": tensors, **others}, path)
    return tensors


@needs_torch
@pytest.mark.parametrize("as_path", [str, pathlib.Path])
@pytest.mark.parametrize("name", ["teacher.pth", "student_best"])
def test_files(model, tmp_path, as_path, name):
    entries = make_entries(NAME, 60)
    save_checkpoint(tmp_path / name, entries, epoch=240)
    converters.load_torch_state_dict(model, as_path(tmp_path / name))
    assert_holds(model, entries)


@needs_torch
def test_half_precision_tensors(model, tmp_path):
    tensors = save_checkpoint(tmp_path / "half.pth", make_entries(NAME, 61), "bfloat16")
    converters.load_torch_state_dict(model, {"state_dict": tensors})
    assert_holds(model, {name: tensor.float().numpy() for name, tensor in tensors.items()})


@needs_torch
def test_a_file_with_python_objects_is_refused(model, tmp_path):
    save_checkpoint(tmp_path / "odd.pth", make_entries(NAME, 3), options=pathlib.PurePosixPath("a"))
    with pytest.raises(ValueError, match="Python objects beside tensors"):
        converters.load_torch_state_dict(model, tmp_path / "odd.pth")


DAMAGES = {
    "cut off": lambda content: content[: len(content) // 2],
    "cut off early": lambda content: content[:100],
    "empty": lambda content: b"",
    "text": lambda content: b"hello world\n" * 10,
    "page": lambda content: b"<!DOCTYPE html><html><body>404</body></html>",
    "zeros": lambda content: bytes(len(content)),
}


@needs_torch
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_refused_by_name(model, tmp_path, damage, zipped):
    import torch

    path, before = tmp_path / "teacher.pth", read_weights(model)
    entries = {name: torch.as_tensor(value) for name, value in make_entries(NAME, 3).items()}
    torch.save(entries, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"The file is damaged.*Received: .*teacher\.pth'"):
        converters.load_torch_state_dict(model, path)
    for old, new in zip(before, read_weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


@needs_torch
def test_a_missing_file_stays_a_missing_file(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth"):
        converters.load_torch_state_dict(model, tmp_path / "none.pth")


@needs_torch
def test_the_command_writes_a_keras_file(tmp_path):
    entries = make_entries(NAME, 62)
    save_checkpoint(tmp_path / "teacher.pth", entries)
    command = [sys.executable, ROOT / "examples" / "convert_checkpoint.py", f"--model={NAME}"]
    command += [f"--checkpoint={tmp_path / 'teacher.pth'}", f"--output={tmp_path / 'out.keras'}"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "out.keras" in done.stdout
    with zero_initialization():
        written = keras.saving.load_model(tmp_path / "out.keras")
    assert_holds(written, entries)
