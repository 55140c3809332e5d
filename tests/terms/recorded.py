"""What the tests of recorded values of the public PyTorch programs share: layouts, names, steps."""

import json
import pathlib

import keras
import numpy as np
from backends import BACKEND, to_numpy, value_and_gradient
from fixtures.weights import make_state_dict
from keras import layers, ops
from recorded_networks import build_filled

import keras_sdd

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
BASELINES = np.load(FIXTURES / "baselines.npz")
STEPS = np.load(FIXTURES / "baseline_steps.npz")
# Arguments of `compile` with which few steps cost least; `check_term` has the usual ones.
CHEAPEST = {
    "jax": {"jit_compile": True},
    "tensorflow": {"run_eagerly": True},
    "torch": {"jit_compile": False},
}[BACKEND]


def as_maps(x):
    """Maps (B, C, H, W) as (B, H, W, C)."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def to_keras(value):
    """A weight in PyTorch's layout: kernels (out, in, h, w), transposed ones (in, out, h, w)."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def assert_close(actual, expected, name, tolerance=2e-5):
    size = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * size, err_msg=name)


def relu(x):
    return np.maximum(x, 0)


def read_features(who, kind="feats"):
    """The recorded maps of `"student"` or `"teacher"` by stage, channels last."""
    maps = [as_maps(BASELINES[f"features/{who}_preact{i}"]) for i in range(4)]
    return maps if kind == "preact" else list(map(relu, maps))


def value_and_gradients(function, *arrays):
    """The scalar `function(*arrays)` and its gradient with respect to each array."""
    ends = np.cumsum([x.size for x in arrays])

    def of_all(joined):
        parts = [joined[end - x.size : end] for end, x in zip(ends, arrays, strict=True)]
        return function(*(ops.reshape(x, y.shape) for x, y in zip(parts, arrays, strict=True)))

    joined = np.concatenate([x.reshape(-1) for x in arrays]).astype("float32")
    value, gradient = value_and_gradient(of_all, joined)
    parts = np.split(gradient, ends[:-1])
    return value, [x.reshape(y.shape) for x, y in zip(parts, arrays, strict=True)]


def compare(term, teacher, student):
    """The mean of a term over the batch, and the gradients of both maps."""
    mean = lambda x, y: ops.mean(term.compare(x, y))  # noqa: E731
    return value_and_gradients(mean, teacher, student)


def distil_maps(teacher_maps, student_maps, term):
    """A distiller whose networks cut their maps, or vectors, out of the input, teacher's first.

    The layers are `"maps0"`, `"maps1"` and so on in both; one step of SGD of rate 1 takes the
    gradient off what the term learns.
    """
    sides = [list(teacher_maps), list(student_maps)]
    sizes = [[int(np.prod(x.shape[1:])) for x in side] for side in sides]
    total = sum(map(sum, sizes))

    def build(maps, start, sizes):
        inputs, cut = keras.Input((total,)), []
        for i, (x, size) in enumerate(zip(maps, sizes, strict=True)):
            part = layers.Reshape((-1, 1))(inputs)
            part = layers.Cropping1D((start, total - start - size))(part)
            cut.append(layers.Reshape(x.shape[1:], name=f"maps{i}")(part))
            start += size
        vectors = [layers.Flatten()(x) for x in cut]
        joined = layers.Concatenate()(vectors) if len(vectors) > 1 else vectors[0]
        return keras.Model(inputs, layers.Dense(2)(joined))

    starts = [0, sum(sizes[0])]
    pair = [build(*x) for x in zip(sides, starts, sizes, strict=True)]
    distiller = keras_sdd.Distiller(*pair, [term])
    distiller.compile(keras.optimizers.SGD(1.0), **CHEAPEST)
    return distiller


def fit_maps(distiller, teacher_maps, student_maps, **targets):
    """Train one step on the maps and return what was logged."""
    maps = [*teacher_maps, *student_maps]
    joined = np.concatenate([x.reshape(len(x), -1) for x in maps], axis=1)
    labels = targets.pop("labels", np.zeros(len(joined), "int32"))
    y = {"labels": labels} | targets if targets else labels
    return distiller.fit(joined, y, len(joined), shuffle=False, verbose=0).history


def assert_taken(variable, before, gradient, name, tolerance=2e-5):
    """That a step of rate 1 took a gradient off: two float32 weights' own rounding is in it."""
    taken = before.astype("float64") - to_numpy(variable.value)
    atol = tolerance * np.abs(gradient).max() + 2e-7 * np.abs(before).max()
    np.testing.assert_allclose(taken, gradient, rtol=0, atol=atol, err_msg=name)


def follow_recorded_run(method, term, find_weight=None, make_targets=None, rtol=2e-5):
    """Train the four recorded steps of `baseline_steps.npz` and compare all that was recorded.

    Args:
        method: its name in the file.
        term: what is to log `METHOD/kd`, built by the distiller.
        find_weight: function of the term and PyTorch's name of a weight of its modules to the
            variable; None where it has none.
        make_targets: function of the step and its labels to the targets of `fit`.
        rtol: of the first two steps.
    """
    rng = np.random.default_rng([0, 99])
    images = rng.standard_normal((4, 8, 3, 32, 32)).astype("float32").transpose(0, 1, 3, 4, 2)
    labels = rng.integers(0, 100, (4, 8))
    teacher, student = build_filled("cifar100/resnet8x4", 7), build_filled("cifar100/vgg8", 8)
    distiller = keras_sdd.Distiller(teacher, student, [term])
    names = json.loads(str(STEPS[f"{method}/state_dict"])) if find_weight else []
    weights = {k: v for k, v in make_state_dict(names, 9).items() if "num_batches" not in k}
    for name, value in weights.items():
        if "running" not in name:
            find_weight(term, name).assign(to_keras(value))
    optimizer = keras_sdd.optimizers.SGD(0.01, momentum=0.9, weight_decay=5e-4)
    distiller.compile(optimizer, **CHEAPEST)
    for step in range(4):
        y = make_targets(step, labels[step]) if make_targets else labels[step]
        logs = distiller.fit(images[step], y, batch_size=8, shuffle=False, verbose=0).history
        parts = logs["student_loss"][0], logs[term.name][0]
        expected = STEPS[f"{method}/ce"][step], STEPS[f"{method}/kd"][step]
        # Later a ReLU or a maximum may fall to the other side.
        np.testing.assert_allclose(
            parts, expected, rtol=rtol if step < 2 else 1e-3, err_msg=f"step {step}"
        )
    logits = to_numpy(student(images[0]))
    assert_close(logits, STEPS[f"{method}/final_logits"], "final_logits", 5e-3)
    for name, value in weights.items():
        actual, expected = to_numpy(find_weight(term, name).value), STEPS[f"{method}/final/{name}"]
        if "running" in name:
            assert_close(actual, expected, name, 3e-3)
        else:
            summary = [np.linalg.norm(actual), np.sum(actual.astype("float64"))]
            size = np.linalg.norm(value)
            np.testing.assert_allclose(summary, expected, rtol=1e-4, atol=3e-3 * size)
    return distiller
