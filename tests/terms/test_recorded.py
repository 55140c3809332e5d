"""Terms against values, gradients and training steps of the public PyTorch programs."""

import keras
import numpy as np
import pytest
import reference
from backends import BACKEND, to_numpy, value_and_gradient
from keras import ops

from keras_sdd import terms
from terms.recorded import (
    BASELINES,
    as_maps,
    assert_close,
    assert_taken,
    compare,
    distil_maps,
    fit_maps,
    follow_recorded_run,
    read_features,
    to_keras,
    value_and_gradients,
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


def assert_recorded(result, name, *gradients, tolerance=2e-5):
    """That a value, `NAME/loss`, and gradients, arrays and their names, are those recorded."""
    np.testing.assert_allclose(result, BASELINES[f"{name}/loss"], rtol=tolerance)
    for actual, kind in gradients:
        expected = BASELINES[f"{name}/{kind}"]
        expected = as_maps(expected) if expected.ndim == 4 else expected
        assert_close(actual, expected, kind, tolerance)


def read_both(kind):
    """Teacher's and student's: all maps by stage, the last ones, or those pooled."""
    if kind == "pooled":
        return [BASELINES[f"features/{who}_pooled"] for who in ("teacher", "student")]
    maps = [read_features(who) for who in ("teacher", "student")]
    return maps if kind == "all" else [x[3] for x in maps]


def test_sp():
    teacher, student = read_both("last")
    value, (_, gradient) = compare(terms.SP(), teacher, student)
    assert_recorded(value, "sp", (gradient, "student3_grad"))
    np.testing.assert_allclose(
        to_numpy(ops.mean(terms.SP().compare(teacher, student))), value, rtol=1e-6
    )  # arrays will do


@pytest.mark.parametrize("reading", ["cells", "scales", "concatenated"])
def test_sdd_sp(reading):
    teacher, student = (as_maps(BASELINES[f"combination/{x}_map"]) for x in ("teacher", "student"))
    value, (_, gradient) = compare(terms.SDDSP(reading=reading), teacher, student)
    name = {"cells": "cell_mean", "scales": "scale_mean"}.get(reading, reading)
    np.testing.assert_allclose(value, BASELINES[f"combination/sdd_sp_{name}"], rtol=2e-5)
    assert_close(gradient, as_maps(BASELINES[f"combination/sdd_sp_{name}_grad"]), name)


@pytest.mark.parametrize("power", [1, 2, 4])
def test_at(power):
    teacher, student = (maps[1:] for maps in read_both("all"))
    term = terms.AT(power)

    def total(*maps):
        return sum(ops.mean(term.compare(*pair)) for pair in zip(teacher, maps, strict=True))

    value, gradients = value_and_gradients(total, *student)
    names = [f"student{i}_grad" for i in (1, 2, 3)] if power == 2 else []
    assert_recorded(value, f"at_p{power}", *zip(gradients, names, strict=False))


def test_at_of_other_sizes():
    teacher, student = (as_maps(BASELINES[f"at_odd/{x}_map"]) for x in ("teacher", "student"))
    value, (_, gradient) = compare(terms.AT(), teacher, student)
    assert_recorded(value, "at_odd", (gradient, "student_map_grad"))
    teacher, student = teacher[:, :3], student[:, :, :2]  # 3x5 and 7x2
    value, _ = compare(terms.AT(), teacher, student)
    np.testing.assert_allclose(value, reference.at(teacher, student).mean(), rtol=2e-5)


def test_rkd():
    teacher, student = read_both("pooled")
    parts = {"": terms.RKD(), "distance_": terms.RKD(1, 0), "angle_": terms.RKD(0, 1)}
    for name, term in parts.items():
        value, (_, gradient) = compare(term, teacher, student)
        expected = BASELINES[f"rkd/{name.strip('_') or 'loss'}"]
        np.testing.assert_allclose(value, expected, rtol=2e-5)
        assert_close(gradient, BASELINES[f"rkd/{name}student_pooled_grad"], name)


def test_rkd_of_equal_samples():
    teacher, student = read_both("pooled")
    student = student.copy()
    student[1] = student[0]
    value, (_, gradient) = compare(terms.RKD(), teacher, student)
    np.testing.assert_allclose(value, BASELINES["rkd/twins_loss"], rtol=2e-5)
    # What is recorded for the twins themselves is a division by 1e-12.
    assert_close(gradient[2:], BASELINES["rkd/twins_student_pooled_grad"][2:], "others")
    assert np.abs(gradient[:2]).max() < 10 * np.abs(gradient[2:]).max()


def test_pkt():
    value, (_, gradient) = compare(terms.PKT(), *read_both("pooled"))
    assert_recorded(value, "pkt", (gradient, "student_pooled_grad"), tolerance=5e-5)
    signed = (BASELINES[f"pkt/signed_{who}"] for who in ("teacher", "student"))
    value, (_, gradient) = compare(terms.PKT(), *signed)
    np.testing.assert_allclose(value, BASELINES["pkt/signed_loss"], rtol=2e-5)
    assert_close(gradient, BASELINES["pkt/signed_student_grad"], "signed")


@pytest.mark.parametrize("kind", [terms.SP, terms.SDDSP, terms.AT, terms.RKD, terms.PKT])
def test_extreme_maps(kind):
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.standard_normal((6, 2, 2, 3)), 0).astype("float32")
    maps[2] = 0.0  # a sample that no unit answers to
    term = kind(scales=(1, 2)) if kind is terms.SDDSP else kind()
    expected = compare(term, maps, maps[::-1])[0]
    for factor in (1e-15, 1e15):
        value, gradients = compare(term, factor * maps, factor * maps[::-1])
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert all(np.isfinite(x).all() for x in gradients)
    value, gradients = compare(term, maps[:1], 0 * maps[:1])  # a batch of one, all zeros
    assert np.isfinite([value, *(np.abs(x).max() for x in gradients)]).all()
    if kind in (terms.RKD, terms.PKT):
        assert value == 0


def build_mgd():
    """The recorded term, its variables, and the weights of these in our layout."""
    term = terms.MGD()
    term.build({"map0": (None, 4, 4, 9)}, {"map0": (None, 4, 4, 7)})
    names = {"align": term.align, "generation.0": term.generate1, "generation.2": term.generate2}
    variables = {}
    for name, layer in names.items():
        variables |= {f"{name}.weight": layer.kernel, f"{name}.bias": layer.bias}
    return term, variables


def test_mgd():
    teacher, student = (as_maps(BASELINES[f"mgd/{who}_map"]) for who in ("teacher", "student"))
    mask = (as_maps(BASELINES["mgd/uniform"]) >= 0.15).astype("float32")
    term, variables = build_mgd()

    def mean_of(student, *weights):
        mapping = list(zip(variables.values(), weights, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return ops.mean(term.compare(ops.convert_to_tensor(teacher), student, mask))

    weights = [to_keras(BASELINES[f"mgd/param/{name}"]) for name in variables]
    value, (of_map, *gradients) = value_and_gradients(mean_of, student, *weights)
    assert_recorded(value, "mgd", (of_map, "student_map_grad"))
    for name, gradient in zip(variables, gradients, strict=True):
        assert_close(gradient, to_keras(BASELINES[f"mgd/param_grad/{name}"]), name)


def test_masks_of_mgd(tmp_path):
    """New ones in every step, the same of the same seed, and a training resumes with the next."""
    first, second = (terms.MGD(0.4, seed=3) for _ in range(2))
    masks = [to_numpy(first.draw_mask(64, 50)) for _ in range(2)]
    np.testing.assert_array_equal(masks[0], to_numpy(second.draw_mask(64, 50)))
    assert set(np.unique(masks)) == {0.0, 1.0} and (masks[0] != masks[1]).any()
    np.testing.assert_allclose(np.mean(masks), 0.6, atol=0.03)
    maps = [as_maps(BASELINES["mgd/teacher_map"])], [as_maps(BASELINES["mgd/student_map"])]
    distiller = distil_maps(*maps, terms.MGD(0.5, seed=3))
    losses = [fit_maps(distiller, *maps)["mgd_loss"]]
    distiller.save(tmp_path / "distiller.keras")
    losses.append(fit_maps(distiller, *maps)["mgd_loss"])
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert fit_maps(loaded, *maps)["mgd_loss"] == losses[1] != losses[0]


@pytest.mark.parametrize("case", ["ctkd_start", "ctkd", "ctkd_low"])
@pytest.mark.parametrize("size", ["small", "cifar100"])
def test_ctkd(size, case):
    record = {name: BASELINES[f"{size}/{case}/{name}"] for name in ("lambda", "temperature")}
    teacher, labels = BASELINES[f"{size}/teacher"], BASELINES[f"{size}/labels"]
    term = terms.CTKD(ramp_steps=1000)
    term._ramp_step.assign(1000 * np.arccos(1 + 2 * record["lambda"]) / np.pi - 1)

    def mean_of(student, theta):
        readings = {"cells": ops.convert_to_tensor(teacher)[:, None]}, {"cells": student[:, None]}
        readings[1]["logits"] = student
        with keras.StatelessScope(state_mapping=[(term.theta, theta)]):
            return ops.mean(term.call(*readings, {"labels": ops.convert_to_tensor(labels)}))

    theta = BASELINES[f"{size}/{case}/param/global_T"][0]
    value, (gradient, of_theta) = value_and_gradients(mean_of, BASELINES[f"{size}/student"], theta)
    assert_recorded(value, f"{size}/{case}", (gradient, "student_grad"))
    # The derivatives of T^2 and of the loss at T cancel, to a part in a hundred thousand of them.
    temperature = record["temperature"][0]
    part = (temperature - 1) / 20
    cancelled = 2 * value / temperature * 20 * part * (1 - part) * np.abs(record["lambda"])
    expected = BASELINES[f"{size}/{case}/param_grad/global_T"][0]
    np.testing.assert_allclose(of_theta, expected, rtol=0, atol=1e-5 * cancelled)
    term.theta.assign(theta)
    np.testing.assert_allclose(to_numpy(term.temperature), temperature, rtol=1e-6)


@pytest.mark.parametrize("ramp_steps", [5, 10])
def test_ramp_of_ctkd(ramp_steps):
    term = terms.CTKD(ramp_steps=ramp_steps)
    factors = []
    for _ in range(12):
        factors.append(float(term.gradient_factor))
        term._advance()
    expected = BASELINES[f"ctkd/lambda_by_epoch_{ramp_steps}"]
    np.testing.assert_allclose(factors, expected, atol=1e-6)
    assert float(terms.CTKD().gradient_factor) == -1.0


@pytest.mark.skipif(BACKEND != "torch", reason="alike on all of them")
def test_temperature_is_logged_and_moves():
    maps = [as_maps(BASELINES["mgd/teacher_map"])], [as_maps(BASELINES["mgd/student_map"])]
    distiller = distil_maps(*maps, terms.CTKD(start=-1.0, ramp_steps=2, name="own"))
    logs = [fit_maps(distiller, *maps) for _ in range(2)]
    (term,) = distiller.terms
    temperatures = [x["own_temperature"][0] for x in logs]
    np.testing.assert_allclose(temperatures[0], 1 + 20 / (1 + np.e), rtol=1e-6)
    assert temperatures[0] != temperatures[1] and float(term._ramp_step) == 2.0


RUNS = {
    "fitnet": (terms.FitNet, {"find_weight": find_weight}),
    "sp": (terms.SP, {}),
    "at": (terms.AT, {}),
    "rkd": (terms.RKD, {}),
    "pkt": (terms.PKT, {}),
}


@pytest.mark.parametrize("method", RUNS)
def test_training_follows_the_recorded_runs(method):
    kind, options = RUNS[method]
    follow_recorded_run(method, kind(), **options)
