"""Sums of terms over one map and classifier, against values and gradients of public programs."""

import keras
import numpy as np
import pytest
from backends import value_and_gradient
from keras import ops

import keras_sdd
from keras_sdd import terms
from keras_sdd.losses import DKD, KD, CrossEntropy
from terms.recorded import BASELINES, as_maps, assert_close
from terms.test_crd import RecordedCRD, find_crd_weight

RECORDED = {
    name.removeprefix("combination/"): BASELINES[name]
    for name in BASELINES.files
    if name.startswith("combination/")
}


def read(who, maps):
    """What terms read of a network that ends in a map and a classifier."""
    kernel = ops.convert_to_tensor(RECORDED[f"{who}_kernel"].T.copy())
    bias = ops.convert_to_tensor(RECORDED[f"{who}_bias"])
    cells = ops.matmul(keras_sdd.pool_cells(maps, (1, 2, 4)), kernel) + bias
    embedding = ops.mean(maps, axis=(1, 2))
    return {"map0": maps, "embedding": embedding, "cells": cells, "logits": cells[:, 0]}


def make_crd():
    term = RecordedCRD([RECORDED["memory_v1"], RECORDED["memory_v2"]])
    term.build({"embedding": (None, 24)}, {"embedding": (None, 20)})
    term.negatives.assign(RECORDED["contrast_index"][:, 1:])
    for side in ("embed_s", "embed_t"):
        for kind in ("weight", "bias"):
            value = RECORDED[f"{side}/param/linear.{kind}"].T
            find_crd_weight(term, f"{side}.linear.{kind}").assign(value)
    return term


# Term, what it reads.
TERMS = {
    "sd_kd": (lambda: terms.SDD(KD()), ("cells", "logits")),
    "sd_dkd": (lambda: terms.SDD(DKD()), ("cells", "logits")),
    "sp": (terms.SP, ("map0",)),
    "crd": (make_crd, ("embedding",)),
}
# The terms of a recorded value and their weights.
SUMS = {name: {name: 1.0} for name in TERMS} | {
    "sd_kd_sp": {"sd_kd": 1.0, "sp": 3000.0},
    "sd_kd_crd": {"sd_kd": 1.0, "crd": 0.8},
}


@pytest.mark.parametrize("name", ["ce", *SUMS])
def test_combination(name):
    labels = ops.convert_to_tensor(RECORDED["labels"])
    targets = {"labels": labels, "ids": ops.convert_to_tensor(RECORDED["index"])}
    made = [(TERMS[key][0](), TERMS[key][1], x) for key, x in SUMS.get(name, {}).items()]
    teacher = read("teacher", ops.convert_to_tensor(as_maps(RECORDED["teacher_map"])))

    def mean_of(student_map):
        student = read("student", student_map)
        if name == "ce":
            return CrossEntropy()(labels, student["logits"])
        total = 0.0
        with keras.StatelessScope():  # what is remembered and logged stays as it is
            for term, keys, weight in made:
                readings = [{key: x[key] for key in keys} for x in (teacher, student)]
                total = total + weight * ops.mean(term.call(*readings, targets))
        return total

    value, gradient = value_and_gradient(mean_of, as_maps(RECORDED["student_map"]))
    np.testing.assert_allclose(value, RECORDED[name], rtol=2e-5)
    assert_close(gradient, as_maps(RECORDED[f"{name}_grad"]), name)
