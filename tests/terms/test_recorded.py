"""FitNet and SP against values, gradients and training steps of the public PyTorch programs."""

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

# PyTorch's name of a weight of the regressor: ours.
WEIGHTS = {
    "conv.weight": ("conv", "kernel"),
    "conv.bias": ("conv", "bias"),
    "bn.weight": ("bn", "gamma"),
    "bn.bias": ("bn", "beta"),
    "bn.running_mean": ("bn", "moving_mean"),
    "bn.running_var": ("bn", "moving_variance"),
}


def find_weight(term, name):
    layer, variable = WEIGHTS[name]
    return getattr(getattr(term, layer), variable)


def recorded_maps(case):
    if case == "fitnet_same":
        return [read_features(who)[0] for who in ("student", "teacher")]
    return [as_maps(BASELINES[f"{case}/{who}_map"]) for who in ("student", "teacher")]


@pytest.mark.parametrize("case", ["fitnet_same", "fitnet_down", "fitnet_up", "fitnet_valid"])
def test_fitnet(case):
    """Value, gradient of the map, and those of the weights: what a step of rate 1 takes off."""
    student, teacher = recorded_maps(case)
    distiller = distil_maps([teacher], [student], terms.FitNet([("maps0", "maps0")], weight=1.0))
    (term,) = distiller.terms
    before = {}
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias"):
        before[name] = to_keras(BASELINES[f"{case}/param/{name}"])
        find_weight(term, name).assign(before[name])
    value, gradient = value_and_gradient(
        lambda x: ops.mean(term.compare(ops.convert_to_tensor(teacher), x)), student
    )
    np.testing.assert_allclose(value, BASELINES[f"{case}/loss"], rtol=2e-5)
    assert_close(gradient, as_maps(BASELINES[f"{case}/student_map_grad"]), "student_map")
    for name in ("moving_mean", "moving_variance"):  # on backends that run at once, it moved them
        getattr(term.bn, name).assign(
            np.full(teacher.shape[-1], name == "moving_variance", "float32")
        )
    logs = fit_maps(distiller, [teacher], [student])
    np.testing.assert_allclose(logs["fitnet_loss"][0], BASELINES[f"{case}/loss"], rtol=2e-5)
    for name, value in before.items():
        if name != "conv.bias":  # before a batch norm: what is recorded is rounding
            gradient = to_keras(BASELINES[f"{case}/param_grad/{name}"])
            assert_taken(find_weight(term, name), value, gradient, name)
    for name in ("bn.running_mean", "bn.running_var"):
        statistics = to_numpy(find_weight(term, name).value)
        assert_close(statistics, BASELINES[f"{case}/stats/{name}"], name)


def test_sp():
    student, teacher = (read_features(who)[3] for who in ("student", "teacher"))
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


def test_training_follows_the_recorded_runs():
    follow_recorded_run("fitnet", terms.FitNet(), find_weight)
    follow_recorded_run("sp", terms.SP())
