"""JAX functions as teachers, against NumPy."""

import keras
import numpy as np
import pytest
from backends import BACKEND
from heads.assertions import assert_close, call
from keras import layers

import keras_sdd
from keras_sdd.teachers import from_jax, from_torch

SHAPE, CLASSES = (8, 8, 3), 5
RNG = np.random.default_rng(0)
PARAMS = {
    "stem": RNG.normal(size=(12, 6)).astype("float32"),
    "shift": {"bias": RNG.normal(size=6).astype("float32")},
}
KERNEL = RNG.normal(size=(6, CLASSES)).astype("float32")
BIAS = RNG.normal(size=CLASSES).astype("float32")
HIDDEN = {"w": RNG.normal(size=(6, 7)).astype("float32"), "v": KERNEL.repeat(2, 0)[:7]}


def find_map(params, images):
    """(B, 8, 8, 3) to (B, 4, 4, 6), with what NumPy and JAX have in common."""
    patches = images.reshape(-1, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    x = patches.reshape(-1, 4, 4, 12) @ params["stem"] + params["shift"]["bias"]
    return x * (x > 0)


def classify(params, vectors):
    hidden = vectors @ params["w"]
    return (hidden * (hidden > 0)) @ params["v"]


CASES = {
    "kernel and bias": (find_map, PARAMS, (KERNEL, BIAS), lambda v: v @ KERNEL + BIAS, True),
    "kernel": (find_map, PARAMS, (KERNEL, None), lambda v: v @ KERNEL, True),
    "function": (find_map, PARAMS, (classify, HIDDEN), lambda v: classify(HIDDEN, v), False),
    "map of logits": (
        lambda params, x: find_map(params[0], x) @ params[1],
        (PARAMS, KERNEL),
        None,
        lambda v: v @ KERNEL,
        True,
    ),
}
images = RNG.uniform(size=(4, *SHAPE)).astype("float32")


def cut(maps, scale):
    size = maps.shape[1] // scale
    blocks = maps.reshape(-1, scale, size, scale, size, maps.shape[-1])
    return blocks.mean((2, 4)).reshape(len(maps), scale * scale, -1)


runs_jax = pytest.mark.skipif(BACKEND == "torch", reason="functions of JAX do not run on PyTorch")


@runs_jax
@pytest.mark.parametrize("name", CASES)
def test_cells_are_those_of_the_function(name):
    function, params, classifier, head, is_linear = CASES[name]
    teacher = from_jax(function, params, SHAPE, classifier)
    maps = find_map(PARAMS, images)
    network = keras_sdd.Network(teacher, frozen=True)
    outputs = network.select({"logits": network.logits, "cells": network.cells((1, 2, 4))})
    outputs = call(outputs, images)
    cells = np.concatenate([cut(maps, m) for m in (1, 2, 4)], axis=1)
    assert network._head.is_linear == is_linear
    assert_close(outputs["logits"], head(maps.mean((1, 2))))
    assert_close(outputs["cells"], head(cells))
    assert_close(call(teacher, images), head(maps.mean((1, 2))))
    assert not teacher.trainable_variables


@runs_jax
def test_training_moves_nothing_of_it_and_saves_the_student(tmp_path):
    student = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(4, 2, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )
    teacher = from_jax(find_map, PARAMS, SHAPE, (KERNEL, BIAS))
    before = [np.array(v) for v in teacher.weights]
    assert sum(v.size for v in before) == sum(
        x.size for x in (PARAMS["stem"], PARAMS["shift"]["bias"], KERNEL, BIAS)
    )
    distiller = keras_sdd.SDDDistiller(teacher, student, scales=(1, 2))
    distiller.compile("sgd")
    start = [np.array(v) for v in student.weights]
    distiller.fit(images, np.arange(4), epochs=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.weights, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(start, student.weights, strict=True))
    cells = keras.tree.flatten(distiller.compute_teacher_targets(images))[0]
    maps = find_map(PARAMS, images)
    expected = np.concatenate([cut(maps, m) for m in (1, 2)], axis=1) @ KERNEL + BIAS
    assert_close(cells, expected)
    with pytest.raises(ValueError, match="distiller.student.save"):
        distiller.save(tmp_path / "distiller.keras")
    student.save(tmp_path / "student.keras")


@runs_jax
def test_classes_are_chosen_from_it():
    teacher = from_jax(find_map, PARAMS, SHAPE, (KERNEL, BIAS))
    logits = call(keras_sdd.teachers.select_classes(teacher, [3, 1]), images)
    assert_close(logits, call(teacher, images)[:, [3, 1]])


@runs_jax
@pytest.mark.parametrize(
    ("function", "classifier", "message"),
    [
        (lambda params, x: x.mean((1, 2)), None, r"must give a map .B, H, W, C.*\(None, 3\)"),
        (find_map, (KERNEL[:4], BIAS), r"a kernel \(6, K\).*shapes \(4, 5\) and \(5,\)"),
        (find_map, (KERNEL, BIAS[:2]), r"shapes \(6, 5\) and \(2,\)"),
        (find_map, (lambda p, v: v[:, 0] * p, KERNEL[0, 0]), r"must give logits .B, K."),
    ],
)
def test_refusals(function, classifier, message):
    with pytest.raises(ValueError, match=message):
        from_jax(function, PARAMS, SHAPE, classifier)


def test_other_backends_are_told_of_stored_outputs():
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="KERAS_BACKEND=jax.*cache_outputs"):
            from_jax(find_map, PARAMS, SHAPE)
    else:
        with pytest.raises(ValueError, match="KERAS_BACKEND=torch.*cache_outputs"):
            from_torch(object(), SHAPE)
