"""FitNet and SP against values, gradients and training steps of the public PyTorch programs."""

import json
import pathlib

import numpy as np
import pytest
from backends import to_numpy, value_and_gradient
from fixtures.weights import make_state_dict
from keras import ops
from networks import build_filled

import keras_sdd
from keras_sdd import terms

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
BASELINES = np.load(FIXTURES / "baselines.npz")
STEPS = np.load(FIXTURES / "baseline_steps.npz")
# PyTorch's name of a weight of the regressor: ours.
WEIGHTS = {
    "conv.weight": ("conv", "kernel"),
    "conv.bias": ("conv", "bias"),
    "bn.weight": ("bn", "gamma"),
    "bn.bias": ("bn", "beta"),
    "bn.running_mean": ("bn", "moving_mean"),
    "bn.running_var": ("bn", "moving_variance"),
}


def as_maps(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def find_weight(term, name):
    layer, variable = WEIGHTS[name]
    return getattr(getattr(term, layer), variable)


def to_keras(value):
    """A weight in PyTorch's layout: kernels (out, in, h, w), transposed ones (in, out, h, w)."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def assert_close(actual, expected, name, tolerance=2e-5):
    size = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * size, err_msg=name)


def relu(x):
    return np.maximum(x, 0)


def recorded_maps(case):
    if case == "fitnet_same":
        pair = [relu(BASELINES[f"features/{who}_preact0"]) for who in ("student", "teacher")]
    else:
        pair = [BASELINES[f"{case}/{who}_map"] for who in ("student", "teacher")]
    return map(as_maps, pair)


@pytest.mark.parametrize("case", ["fitnet_same", "fitnet_down", "fitnet_up", "fitnet_valid"])
def test_fitnet(case):
    student, teacher = recorded_maps(case)
    term = terms.FitNet()
    term.build({"map0": teacher.shape}, {"map0": student.shape})
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias"):
        find_weight(term, name).assign(to_keras(BASELINES[f"{case}/param/{name}"]))
    value, gradient = value_and_gradient(
        lambda x: ops.mean(term.compare(ops.convert_to_tensor(teacher), x)), student
    )
    np.testing.assert_allclose(value, BASELINES[f"{case}/loss"], rtol=2e-5)
    assert_close(gradient, as_maps(BASELINES[f"{case}/student_map_grad"]), "student_map")


@pytest.mark.parametrize("case", ["fitnet_same", "fitnet_down", "fitnet_up", "fitnet_valid"])
def test_gradients_and_statistics_of_fitnet(case):
    """Those of the weights, from a step of SGD of rate 1 without momentum: what it takes off."""
    student, teacher = recorded_maps(case)
    distiller = distil_maps(teacher, student, terms.FitNet([("maps", "maps")], weight=1.0))
    (term,) = distiller.terms
    before = {}
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias"):
        before[name] = to_keras(BASELINES[f"{case}/param/{name}"])
        find_weight(term, name).assign(before[name])
    labels = np.zeros(len(student), "int32")
    joined = np.concatenate([x.reshape(len(x), -1) for x in (teacher, student)], axis=1)
    logs = distiller.fit(joined, labels, len(student), shuffle=False, verbose=0).history
    np.testing.assert_allclose(logs["fitnet_loss"][0], BASELINES[f"{case}/loss"], rtol=2e-5)
    for name, value in before.items():
        if name == "conv.bias":
            continue  # before a batch norm: what is recorded is rounding
        taken = value.astype("float64") - to_numpy(find_weight(term, name).value)
        # The difference of two float32 weights: their own rounding is in it.
        expected = to_keras(BASELINES[f"{case}/param_grad/{name}"])
        rounding = 2e-7 * np.abs(value).max()
        atol = 2e-5 * np.abs(expected).max() + rounding
        np.testing.assert_allclose(taken, expected, rtol=0, atol=atol, err_msg=name)
    for name in ("bn.running_mean", "bn.running_var"):
        statistics = to_numpy(find_weight(term, name).value)
        assert_close(statistics, BASELINES[f"{case}/stats/{name}"], name)


def distil_maps(teacher_map, student_map, term):
    """A distiller whose networks cut their maps out of the input, teacher's first."""
    import keras
    from keras import layers

    sizes = [int(np.prod(x.shape[1:])) for x in (teacher_map, student_map)]
    starts = [0, sizes[0]]

    def build(maps, start, size):
        inputs = keras.Input((sum(sizes),))
        x = layers.Reshape((-1, 1))(inputs)
        x = layers.Cropping1D((start, sum(sizes) - start - size))(x)
        x = layers.Reshape(maps.shape[1:], name="maps")(x)
        return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))

    pair = [build(*x) for x in zip((teacher_map, student_map), starts, sizes, strict=True)]
    distiller = keras_sdd.Distiller(*pair, [term])
    distiller.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    return distiller


def test_sp():
    student, teacher = (
        as_maps(relu(BASELINES[f"features/{who}_preact3"])) for who in ("student", "teacher")
    )
    term = terms.SP()
    value, gradient = value_and_gradient(
        lambda x: ops.mean(term.compare(ops.convert_to_tensor(teacher), x)), student
    )
    np.testing.assert_allclose(value, BASELINES["sp/loss"], rtol=2e-5)
    assert_close(gradient, as_maps(BASELINES["sp/student3_grad"]), "student3")
    np.testing.assert_allclose(
        to_numpy(ops.mean(term.compare(teacher, student))), value, rtol=1e-6
    )  # arrays will do


def test_sp_of_extreme_maps():
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.standard_normal((6, 2, 2, 3)), 0).astype("float32")
    maps[2] = 0.0  # a sample that no unit answers to
    term = terms.SP()
    expected = to_numpy(term.compare(maps, maps[::-1].copy()))
    for factor in (1e-15, 1e15):
        value, gradient = value_and_gradient(
            lambda x, factor=factor: ops.mean(term.compare(factor * maps, x)), factor * maps[::-1]
        )
        np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
        assert np.isfinite(gradient).all()
    value, gradient = value_and_gradient(
        lambda x: ops.mean(term.compare(maps[:1], x)), 0 * maps[:1]
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()  # a batch of one, all zeros


TERMS = {
    "fitnet": lambda: terms.FitNet([("layer2_0_relu", "block2_1_relu")]),
    "sp": lambda: terms.SP([("layer3_0_relu", "block4_1_relu")]),
}


@pytest.mark.parametrize("method", TERMS)
def test_training_follows_the_recorded_run(method):
    rng = np.random.default_rng([0, 99])
    images = rng.standard_normal((4, 8, 3, 32, 32)).astype("float32").transpose(0, 1, 3, 4, 2)
    labels = rng.integers(0, 100, (4, 8))
    teacher, student = build_filled("cifar100/resnet8x4", 7), build_filled("cifar100/vgg8", 8)
    distiller = keras_sdd.Distiller(teacher, student, [TERMS[method]()])
    (term,) = distiller.terms
    shapes = json.loads(str(STEPS[f"{method}/state_dict"])) if method == "fitnet" else []
    for name, value in make_state_dict(shapes, 9).items():
        if name in WEIGHTS and "running" not in name:
            find_weight(term, name).assign(to_keras(value))
    distiller.compile(keras_sdd.optimizers.SGD(0.01, momentum=0.9, weight_decay=5e-4))
    for step in range(4):
        logs = distiller.fit(images[step], labels[step], batch_size=8, verbose=0).history
        parts = logs["student_loss"][0], logs[term.name][0]
        expected = STEPS[f"{method}/ce"][step], STEPS[f"{method}/kd"][step]
        rtol = 2e-5 if step < 2 else 1e-3  # later a ReLU or a maximum may fall to the other side
        np.testing.assert_allclose(parts, expected, rtol=rtol, err_msg=f"step {step}")
    assert_close(
        to_numpy(student(images[0])), STEPS[f"{method}/final_logits"], "final_logits", 3e-3
    )
    for name, value in make_state_dict(shapes, 9).items():
        if name not in WEIGHTS:
            continue
        actual, expected = to_numpy(find_weight(term, name).value), STEPS[f"{method}/final/{name}"]
        if "running" in name:
            assert_close(actual, expected, name, 3e-3)
        else:
            summary = [np.linalg.norm(actual), np.sum(actual.astype("float64"))]
            size = np.linalg.norm(value)
            np.testing.assert_allclose(summary, expected, rtol=1e-4, atol=3e-3 * size)
