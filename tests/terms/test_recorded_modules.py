"""Terms with trained modules against recorded values, gradients, statistics and steps."""

import keras
import numpy as np
import pytest
from backends import to_numpy, value_and_gradient
from keras import ops

from keras_sdd import terms
from terms.recorded import (
    BASELINES,
    as_maps,
    assert_close,
    assert_taken,
    distil_maps,
    fit_maps,
    follow_recorded_run,
    read_features,
    to_keras,
)

NORM = {
    "weight": "gamma", "bias": "beta",
    "running_mean": "moving_mean", "running_var": "moving_variance",
}  # fmt: skip


def find_reviewkd_weight(term, name):
    """`"I.conv1.1.weight"`, I counted from the pooled stage: that of a batch norm."""
    index, module, step, kind = name.split(".")
    stage = term.stages[-1 - int(index)]
    if module == "att_conv":
        return getattr(stage.attention, {"weight": "kernel", "bias": "bias"}[kind])
    layer = {"conv1": "narrow", "conv2": "widen"}[module]
    if step == "0":
        return getattr(stage, layer).kernel
    return getattr(getattr(stage, f"{layer}_bn"), NORM[kind])


def find_semckd_weight(term, name):
    """`"regressor01.regressor.4.weight"`, or `"key_weight0.linear1.bias"`."""
    module, layer, *_, kind = name.split(".")
    if layer == "regressor":
        stage, step = [int(x) for x in module.removeprefix("regressor")], name.split(".")[2]
        regressor = term.regressors[stage[0] * len(term.keys) + stage[1]]
        found = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3"}[step]
        return getattr(getattr(regressor, found), NORM[kind] if step in "14" else "kernel")
    embeddings = term.keys if module.startswith("key") else term.queries
    layer = {"linear1": "hidden", "linear2": "out"}[layer]
    dense = getattr(embeddings[int(module[-1])], layer)
    return dense.kernel if kind == "weight" else dense.bias


def check_recorded(case, term, find_weight, maps, gradients, tolerance=2e-5):
    """Check value, gradients of maps and weights, and statistics of a case of the file.

    Args:
        case: its name.
        term: of weight 1, for the layers `"maps0"` and so on.
        find_weight: as for `follow_recorded_run`.
        maps: lists of the teacher's and the student's maps, fine to coarse.
        gradients: recorded gradient of each of the student's maps.
        tolerance: of gradients.
    """
    teacher_maps, student_maps = maps
    distiller = distil_maps(teacher_maps, student_maps, term)
    before = {}
    for name in BASELINES.files:
        if name.startswith(f"{case}/param/"):
            short = name.removeprefix(f"{case}/param/")
            before[short] = to_keras(BASELINES[name])
            find_weight(term, short).assign(before[short])
    sizes = [x.size for x in student_maps]

    def measure(joined):
        parts = [
            ops.reshape(joined[end - size : end], x.shape)
            for x, size, end in zip(student_maps, sizes, np.cumsum(sizes).tolist(), strict=True)
        ]
        with keras.StatelessScope():  # what the batch norms keep stays as it is
            return ops.mean(term.compare([ops.convert_to_tensor(x) for x in teacher_maps], parts))

    joined = np.concatenate([x.ravel() for x in student_maps])
    value, gradient = value_and_gradient(measure, joined)
    np.testing.assert_allclose(value, BASELINES[f"{case}/loss"], rtol=2e-5)
    for part, expected in zip(np.split(gradient, np.cumsum(sizes)[:-1]), gradients, strict=True):
        assert_close(part.reshape(expected.shape), expected, case, tolerance)
    logs = fit_maps(distiller, teacher_maps, student_maps)
    np.testing.assert_allclose(logs[term.name][0], BASELINES[f"{case}/loss"], rtol=2e-5)
    for name, value in before.items():
        gradient = to_keras(BASELINES[f"{case}/param_grad/{name}"])
        assert_taken(find_weight(term, name), value, gradient, name, tolerance)
    for name in BASELINES.files:
        if name.startswith(f"{case}/stats/"):
            variable = find_weight(term, name.removeprefix(f"{case}/stats/"))
            assert_close(to_numpy(variable.value), BASELINES[name], name)
    assert sorted(map(id, term.trainable_variables)) == sorted(
        id(find_weight(term, name)) for name in before
    )


@pytest.mark.parametrize("case", ["reviewkd", "reviewkd_preact"])
def test_reviewkd(case):
    kind = "preact" if case == "reviewkd_preact" else "feats"
    pooled = [BASELINES[f"features/{who}_pooled"] for who in ("teacher", "student")]
    teacher_maps = [*read_features("teacher", "preact")[1:], pooled[0]]
    student_maps = [*read_features("student", kind)[1:], pooled[1]]
    term = terms.ReviewKD([(f"maps{i}", f"maps{i}") for i in range(4)])
    gradients = [as_maps(BASELINES[f"{case}/student{i}_grad"]) for i in (1, 2, 3)]
    gradients.append(BASELINES[f"{case}/student_pooled_grad"])
    check_recorded(case, term, find_reviewkd_weight, (teacher_maps, student_maps), gradients)


def test_semckd():
    maps = [
        [as_maps(BASELINES[f"semckd/{who}{i}"]) for i in range(3)] for who in ("teacher", "student")
    ]
    names = [(f"maps{i}", f"maps{i}") for i in range(3)]
    term = terms.SemCKD(8, names, weight=1.0)
    gradients = [as_maps(BASELINES[f"semckd/student{i}_grad"]) for i in range(3)]
    check_recorded("semckd", term, find_semckd_weight, maps, gradients, 3e-3)


def test_training_follows_the_recorded_run():
    term = terms.ReviewKD(weight=2.5)  # 5 times the warm-up's 0.5
    follow_recorded_run("reviewkd", term, find_reviewkd_weight)
